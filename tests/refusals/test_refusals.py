"""Each works without a system call that is refused, or names it; none is busy meanwhile."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

import mpsr
from tests.refusals.roles import MESSAGES
from tests.refusals.seccomp import CALLS, ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.skipif(not CALLS, reason="the numbers of this machine's calls are unknown")

ROLES: Final = (
    "receiver", "receiver dgram", "receiver seqpacket", "journal", "producer", "producer dgram",
)  # fmt: skip
QUICK: Final = [
    *(("receiver", call) for call in ("accept4", "epoll_create1", "epoll_wait", "recvfrom")),
    *(("receiver", call) for call in ("sendto", "socketpair", "getsockopt", "socket")),
    *(("receiver dgram", call) for call in ("recvmmsg", "setsockopt")),
    *(("journal", call) for call in ("pwritev2", "fsync", "poll")),
    *(("producer", call) for call in ("setsockopt", "sendmsg", "recvmsg", "poll", "socketpair")),
]
UNUSABLE: Final = ("futex",)  # the C library itself ends the process
WORDS: Final = {
    "accept4": "accept: ",
    "bind": "its socket cannot be bound",
    "connect": "cannot reach|refused",
    "fdatasync": "cannot sync",
    "listen": "its socket cannot listen",
    "recvfrom": "recv: ",
    "recvmmsg": "recvmsg: |recv: ",
    "rename": "cannot open",
    "sendto": "send: ",
    "fallocate": "cannot open",
    "pwritev2": "cannot open",
    "chmod": "cannot claim",
    "unlink": "cannot claim",
}
BUSY: Final = 0.5  # seconds of CPU time, of those that a role waits


def played(role: str, call: str, error: str, path: str) -> str:
    """Return what a role prints; the other end is in this process."""
    words = [sys.executable, "-m", "tests.refusals.roles", role, call, error, path]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as program:
        assert program.stdout
        try:
            if role.startswith("producer"):
                return answered(program, path, role.partition(" ")[2] or "stream")
            first = program.stdout.readline()
            if first == "listening\n":
                kind = role.partition(" ")[2] or "stream"
                producer = mpsr.Producer[bytes](path, type=kind)  # type: ignore[arg-type]
                producer.send_many(MESSAGES)
                rest = program.stdout.read()
                with suppress(mpsr.Undelivered):
                    producer.close(0)
                return first + rest
            return first + program.stdout.read()
        finally:
            program.kill()


def answered(program: subprocess.Popen[str], path: str, kind: str) -> str:
    assert program.stdout
    with mpsr.Receiver[bytes](path, type=kind) as receiver:  # type: ignore[arg-type]
        while program.poll() is None:
            with suppress(mpsr.TimedOut):
                receiver.receive_batch(0.05)
                receiver.acknowledge()
    return program.stdout.read()


def check(path: str, cases: Sequence[tuple[str, str, str]]) -> None:
    """Check all cases, and report all that are wrong."""
    wrong: list[str] = []
    for number, (role, call, error) in enumerate(cases):
        output = played(role, call, error, f"{path}.{number}")
        names = re.search(WORDS.get(call, f"{call}: "), output)
        seconds = re.search(r"seconds: ([\d.]+)", output)
        good = "works\n" in output or (names and "Traceback" not in output)
        if not good or seconds is None or float(seconds[1]) > BUSY:
            wrong.append(f"{role}, {call}, {error}: {output}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("role", "call"), QUICK)
def test_refused_call_is_not_needed_or_named(address: str, role: str, call: str) -> None:
    """It is refused with EPERM, as seccomp profiles do."""
    check(address, [(role, call, "EPERM")])


@pytest.mark.soak
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("role", ROLES)
def test_every_refused_call_is_not_needed_or_named(address: str, role: str, error: str) -> None:
    check(address, [(role, call, error) for call in CALLS if call not in UNUSABLE])
