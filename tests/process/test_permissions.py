"""Who may not connect to a path cannot at any moment of a receiver's start."""

from __future__ import annotations

import json
import os
import select
import socket
from collections import Counter
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

import mpsr
from tests.process.programs import begin
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen

    from mpsr.system.address import SocketType

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
STRANGER: Final = 3000
GROUP: Final = 4000
OWN: Final = os.getegid()  # the receiver's own group

# It tries to connect to a path until its stdin is closed, and tells how often it got which error.
# As soon as it has got the one that it waits for, it says so.
ATTACKER: Final = """
import errno, json, os, select, socket, sys
from collections import Counter

path, kind, uid, groups, awaited = sys.argv[1:]
kind = getattr(socket, kind)
os.setgroups([int(each) for each in groups.split(",") if each])
os.setgid(int(uid))
os.setuid(int(uid))
print("ready", flush=True)
outcomes = Counter()
sock = socket.socket(socket.AF_UNIX, kind)
sock.setblocking(False)
while not select.select([0], [], [], 0)[0]:
    for _ in range(50):
        error = sock.connect_ex(path)
        outcome = errno.errorcode.get(error, "connected")
        outcomes[outcome] += 1
        if outcome == awaited and outcomes[outcome] == 1:
            print(outcome, flush=True)
        if not error:
            sock.close()
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.setblocking(False)
print(json.dumps(outcomes))
"""


class Attempt(NamedTuple):
    """How a receiver is started, and who tries to connect to it meanwhile."""

    mode: int
    group: int | None = None
    groups: str = ""  # the attacker's supplementary ones
    kind: SocketType = "stream"


CLOSED: Final = {
    "mode 0600": Attempt(0o600),
    "mode 0600, datagrams": Attempt(0o600, kind="dgram"),
    "mode 0600, packets": Attempt(0o600, kind="seqpacket"),
    "mode 0600, in the group": Attempt(0o600, groups=str(OWN)),
    "mode 0660, in no group": Attempt(0o660),
    "mode 0660 with group, in no group": Attempt(0o660, GROUP),
    "mode 0660 with group, in the receiver's own": Attempt(0o660, GROUP, str(OWN)),
}
OPEN: Final = {
    "mode 0666": Attempt(0o666),
    "mode 0660, in the group": Attempt(0o660, groups=str(OWN)),
    "mode 0660 with group, in it": Attempt(0o660, GROUP, str(GROUP)),
}


@contextmanager
def attacking(address: str, attempt: Attempt, awaited: str) -> Iterator[Popen[str]]:
    """Have a stranger try to connect all the time."""
    kind = f"SOCK_{attempt.kind.upper()}"
    with begin(ATTACKER, address, kind, str(STRANGER), attempt.groups, awaited) as attacker:
        assert attacker.stdout
        assert attacker.stdout.readline() == "ready\n"
        try:
            yield attacker
        finally:
            attacker.kill()


@contextmanager
def umask_kept() -> Iterator[None]:
    """Set the umask of the process back at the end."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def attack(address: str, attempt: Attempt, starts: int, awaited: str) -> Counter[str]:
    """Start and close a receiver so often, under two umasks in turn, while a stranger connects.

    Goes on until the stranger has got what is awaited. Returns how often it got which error.
    """
    os.chmod(os.path.dirname(address), 0o711)
    with attacking(address, attempt, awaited) as attacker, umask_kept():
        assert attacker.stdout
        for number in count():
            if number >= starts and select.select([attacker.stdout], [], [], 0)[0]:
                break
            os.umask((0, 0o077)[number % 2])
            mpsr.Receiver(
                address, type=attempt.kind, mode=attempt.mode, group=attempt.group
            ).close()
        told, _ = attacker.communicate(timeout=PATIENCE)
    return Counter(json.loads(told.splitlines()[-1]))


@pytest.mark.parametrize("attempt", CLOSED.values(), ids=CLOSED)
@pytest.mark.parametrize("starts", [100, pytest.param(1000, marks=pytest.mark.soak)])
def test_no_other_user_can_connect_at_any_moment_of_a_start(
    address: str, attempt: Attempt, starts: int
) -> None:
    """The kernel checks permissions first: ECONNREFUSED, too, would mean that they let it in."""
    outcomes = attack(address, attempt, starts, awaited="EACCES")
    assert outcomes.keys() == {"ENOENT", "EACCES"}


@pytest.mark.parametrize("attempt", OPEN.values(), ids=OPEN)
def test_who_may_connect_does_so_in_the_same_attack(address: str, attempt: Attempt) -> None:
    """The attack of the test above succeeds where the permissions let it."""
    assert attack(address, attempt, 100, awaited="connected")["connected"] > 0


def test_abstract_name_has_no_permissions() -> None:
    """Everybody of the same network namespace connects; allow_uids= says who may send."""
    name = f"@mpsr-test-{os.getpid()}-{os.urandom(4).hex()}"
    with pytest.raises(mpsr.ConfigurationError, match="has no permissions"):
        mpsr.Receiver(name, mode=0o660)
    with mpsr.Receiver(name, allow_uids=[os.getuid()]) as receiver:
        with socket.socket(socket.AF_UNIX) as sock:
            os.seteuid(STRANGER)
            try:
                sock.connect("\0" + name[1:])
            finally:
                os.seteuid(0)
            sock.sendall(b"hello\n")
            with pytest.raises(mpsr.TimedOut):
                receiver.receive(0.1)
            assert receiver.stats().refused_by_uid == {STRANGER: 1}
