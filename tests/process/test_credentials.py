"""What the kernel's word for who sent a message proves, and what not."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

import pytest

import mpsr
from tests.process.programs import begin, run
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from mpsr.system.address import SocketType

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
STRANGER: Final = 3000

# It connects and sends as different users: real, effective and saved ids.
CHANGING: Final = """
import os, socket, sys

with socket.socket(socket.AF_UNIX, getattr(socket, sys.argv[2])) as sock:
    os.setresuid(1000, 2000, 0)
    sock.connect(sys.argv[1])
    os.seteuid(0)
    os.setresuid(3000, 4000, 0)
    sock.send(b"hello")
"""

# It becomes root of a user namespace of its own, in which nobody but its user exists.
CONTAINER: Final = """
import ctypes, os, socket, sys

libc = ctypes.CDLL(None)
uid = int(sys.argv[2])
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
libc.prctl(4, 1)  # PR_SET_DUMPABLE: so that its files in /proc are its own
if libc.unshare(0x10000000):  # CLONE_NEWUSER
    sys.exit("no user namespaces")
with open("/proc/self/uid_map", "w") as file:
    file.write(f"0 {uid} 1")
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.send(b"%d" % os.geteuid())
"""

# It receives in a pid namespace of its own, of which it is process 1.
INSIDE: Final = """
import ctypes, os, sys
from mpsr import Receiver

if ctypes.CDLL(None).unshare(0x20000000):  # CLONE_NEWPID
    sys.exit("no pid namespaces")
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
with Receiver(sys.argv[1]) as receiver:
    print("ready", flush=True)
    batch = receiver.receive_batch(20)
    print(*batch.peer, flush=True)
"""


@pytest.mark.parametrize(("kind", "uid"), [("stream", 2000), ("seqpacket", 2000), ("dgram", 3000)])
def test_connection_proves_who_made_it_and_a_datagram_who_sent_it(
    address: str, kind: SocketType, uid: int
) -> None:
    """Of a connection it is the effective user at connect(), of a datagram the real one at send().

    Whoever else writes to a connection later, because it was passed on, is not told.
    """
    os.chmod(os.path.dirname(address), 0o755)
    with mpsr.Receiver(address, type=kind, mode=0o666) as receiver:
        outcome = run(CHANGING, address, f"SOCK_{kind.upper()}")
        assert outcome.status == 0, outcome.complaint
        batch = receiver.receive_batch(PATIENCE)
        assert list(batch) == [b"hello"]
        assert batch.peer.uid == uid


def test_root_of_a_container_is_the_user_that_it_is_mapped_to(address: str) -> None:
    """It is refused where root alone may send."""
    os.chmod(os.path.dirname(address), 0o755)
    with mpsr.Receiver(address, mode=0o666, allow_uids=[0]) as receiver:
        outcome = run(CONTAINER, address, str(STRANGER))
        if "no user namespaces" in outcome.complaint:
            pytest.skip("takes user namespaces")
        assert outcome.status == 0, outcome.complaint
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(0.1)
        assert receiver.stats().refused_by_uid == {STRANGER: 1}


def test_process_outside_of_the_receivers_pid_namespace_has_no_pid(address: str) -> None:
    """Its user is told all the same."""
    with begin(INSIDE, address) as receiver:
        assert receiver.stdout
        if receiver.stdout.readline() != "ready\n":
            _, told = receiver.communicate()
            assert "no pid namespaces" in told
            pytest.skip("takes pid namespaces")
        with mpsr.Producer[bytes](address) as producer:
            producer.send(b"hello")
            producer.flush(PATIENCE)
        assert receiver.communicate(timeout=PATIENCE)[0] == f"None 0 {os.getegid()}\n"


def test_datagram_without_a_known_sender_is_refused_where_users_are_listed(address: str) -> None:
    """Such are those that came before the receiver, at a socket without ``SO_PASSCRED``.

    The kernel calls their user 65534, and their process 0: that user is not meant either.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as passed:
        passed.bind(address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"early", address)
        allowed = [0, 65534]
        with mpsr.Receiver(f"fd:{os.dup(passed.fileno())}", type="dgram", allow_uids=allowed) as it:
            with pytest.raises(mpsr.TimedOut):
                it.receive(0.1)
            assert it.stats().refused_by_uid == {None: 1}
