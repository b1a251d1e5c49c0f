"""Have the kernel refuse one system call to this process, as a security policy does (seccomp)."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Final

NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "accept4": 288, "bind": 49, "chmod": 90, "connect": 42, "epoll_create1": 291,
        "epoll_ctl": 233, "epoll_wait": 232, "eventfd2": 290, "fallocate": 285, "fdatasync": 75,
        "flock": 73, "fsync": 74, "futex": 202, "getsockopt": 55, "ioctl": 16, "listen": 50,
        "madvise": 28, "memfd_create": 319, "pidfd_open": 434, "poll": 7, "pwrite64": 18,
        "pwritev2": 328, "recvfrom": 45, "recvmmsg": 299, "recvmsg": 47, "rename": 82,
        "sendmsg": 46, "sendto": 44, "setsockopt": 54, "signalfd4": 289, "socket": 41,
        "socketpair": 53, "timerfd_create": 283, "timerfd_settime": 286, "unlink": 87,
        "writev": 20,
    },
}  # fmt: skip
"""Numbers of system calls, of <asm/unistd.h>."""

CALLS: Final = tuple(NUMBERS.get(platform.machine(), ()))
ERRORS: Final = ("ENOSYS", "EPERM", "EACCES", "EIO")

_PR_SET_SECCOMP: Final = 22  # <linux/prctl.h>
_PR_SET_NO_NEW_PRIVS: Final = 38
_MODE_FILTER: Final = 2  # <linux/seccomp.h>
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
_LOAD: Final = 0x20  # <linux/bpf_common.h>: BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(call: str, error: str) -> None:
    """Refuse a system call from now on, in all threads and children of this process."""
    number = NUMBERS[platform.machine()][call]
    steps = (
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_JUMP_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _ERRNO | getattr(errno, error)),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":  # CALL ERROR COMMAND…: run a command to which it is refused
    refuse(sys.argv[1], sys.argv[2])
    os.execvp(sys.argv[3], sys.argv[3:])
