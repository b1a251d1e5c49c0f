"""Who may send: by user, by group, by a function; whoever else is refused and counted."""

from __future__ import annotations

import grp
import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.engine.receiving.senders import Senders
from tests.process.programs import run
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Limits

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
HONEST, OTHER = 2000, 3000

SENDER = """
import os, sys
from mpsr import MpsrError, Producer

address, uid, gid, groups, kind = sys.argv[1:6]
os.setgroups([int(each) for each in groups.split(",") if each])
os.setgid(int(gid))
os.setuid(int(uid))
producer = Producer(address, type=kind, receiver_uid="any")
try:
    producer.send(b"from " + uid.encode())
    producer.flush(20)
    producer.close()
except MpsrError as exc:
    print(f"{type(exc).__name__}: {exc}", type(exc.__cause__).__name__)
"""


@contextmanager
def receiving(address: str, **options: Any) -> Iterator[tuple[mpsr.Receiver, list[bytes]]]:
    """Receive in a thread, where all users may connect."""
    os.chmod(os.path.dirname(address), 0o755)
    received: list[bytes] = []
    with mpsr.Receiver(address, mode=0o666, **options) as receiver:
        thread = threading.Thread(target=lambda: received.extend(receiver))
        thread.start()
        yield receiver, received
        receiver.stop()
        thread.join(PATIENCE)


def send_as(address: str, uid: int, gid: int = 9, groups: str = "", kind: str = "stream") -> str:
    """Send a message as another user; return what the program complains of."""
    outcome = run(SENDER, address, str(uid), str(gid), groups, kind)
    assert outcome.status == 0, outcome.complaint
    return outcome.output


@as_root
@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
def test_other_users_are_refused_with_the_reason(address: str, kind: str) -> None:
    """A native producer is told, and gives up; the honest one is served."""
    with receiving(address, type=kind, allow_uids=[HONEST]) as (receiver, received):
        assert send_as(address, HONEST, kind=kind) == ""
        for _ in range(2):
            told = send_as(address, OTHER, kind=kind)
            assert "uid 3000 may not send here: neither its user nor a group" in told
            assert "Rejected" in told
        stats = receiver.stats()
    assert (stats.refused, stats.refused_by_uid, stats.rejected) == (2, {OTHER: 2}, 0)
    assert received == [b"from 2000"]


@as_root
def test_members_of_a_group_may_send(address: str) -> None:
    """By their own group, or by a supplementary one."""
    with receiving(address, allow_gids=[77]) as (receiver, received):
        assert send_as(address, OTHER, gid=77) == ""
        assert send_as(address, OTHER + 1, groups="5,77") == ""
        assert "may not send here" in send_as(address, OTHER + 2, groups="5,78")
        assert receiver.stats().refused_by_uid == {OTHER + 2: 1}
    assert received == [b"from 3000", b"from 3001"]


@as_root
def test_datagrams_of_other_users_are_discarded(address: str) -> None:
    with receiving(address, type="dgram", allow_uids={HONEST}) as (receiver, received):
        assert send_as(address, OTHER, kind="dgram") == ""
        assert send_as(address, HONEST, kind="dgram") == ""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"root is no exception", address)
    stats = receiver.stats()
    assert stats.refused_by_uid == {OTHER: 1, 0: 1}
    assert received == [b"from 2000"]


def test_foreign_peer_that_is_refused_is_closed(address: str) -> None:
    """It gets no byte: what it speaks is not known. One that says nothing is closed soon."""
    with receiving(address, allow_uids=[os.getuid() + 1]) as (receiver, received):
        with socket.socket(socket.AF_UNIX) as talker, socket.socket(socket.AF_UNIX) as silent:
            for sock in (talker, silent):
                sock.settimeout(PATIENCE)
                sock.connect(address)
            talker.send(b"a line\n")
            for sock in (talker, silent):
                try:
                    assert sock.recv(100) == b""
                except ConnectionResetError:
                    pass
        assert receiver.stats().refused == 2
        assert receiver.stats().connections == 0
    assert received == []


def test_function_decides_on_what_the_kernel_tells(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It sees the peer while it is connected; what it raises refuses, and is logged."""
    seen: list[Any] = []

    def authorize(peer: mpsr.Peer) -> bool:
        seen.append((peer.pid, peer.uid, peer.groups))
        if len(seen) == 3:
            raise RuntimeError("no judgement")
        return len(seen) == 1

    with receiving(address, authorize=authorize) as (receiver, received):
        for expected in (None, "authorize= refuses it", "authorize= refuses it"):
            producer = mpsr.Producer[bytes](address)
            producer.send(b"x")
            if expected is None:
                producer.close()
                continue
            with pytest.raises(mpsr.Undelivered, match=expected):
                producer.close(20)
        assert receiver.stats().refused_by_uid == {os.getuid(): 2}
    me = (os.getpid(), os.getuid(), tuple(os.getgroups()))
    assert seen == [me] * 3
    assert received == [b"x"]
    messages = [record.getMessage() for record in caplog.records if record.name == "mpsr"]
    assert sum("refused uid" in message for message in messages) == 1  # once a user
    assert any("no judgement" in message for message in messages)


def test_counted_users_are_limited(limits: Limits) -> None:
    """A process that can become many users cannot fill the memory: the last ones count as one."""
    limits(COUNTED_UIDS=3)
    who = Senders(frozenset())
    logger = logging.getLogger("mpsr")
    for uid in (1, 2, 3, 4, 5, 1):
        assert who.refusal(mpsr.Peer(7, uid, 7), logger) is not None
    assert who.refused == {1: 2, 2: 1, 3: 1, None: 2}


@pytest.mark.parametrize("name", ["allow_uids", "allow_gids"])
@pytest.mark.parametrize("wrong", [5, "root", [True], [None], [-1], b"ab"])
def test_what_is_no_collection_of_ids_is_refused(address: str, name: str, wrong: object) -> None:
    options: dict[str, Any] = {name: wrong}
    with pytest.raises(mpsr.ConfigurationError, match=f"{name}=.*: pass a collection of ids"):
        mpsr.Receiver(address, **options)


@as_root
def test_command_lets_users_and_groups_send(address: str) -> None:
    """By name and number; whom it refuses it tells of once."""
    os.chmod(os.path.dirname(address), 0o755)
    group = grp.getgrgid(9).gr_name
    command = [sys.executable, "-m", "mpsr", "recv", address, "--mode", "666", "--count", "2"]
    command += ["--allow-user", str(HONEST), "--allow-group", group]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as receiver:
        assert receiver.stderr
        assert "listening" in receiver.stderr.readline()
        assert "may not send here" in send_as(address, OTHER, gid=10)
        assert send_as(address, HONEST, gid=10) == ""
        assert send_as(address, OTHER, gid=9) == ""
        out, told = receiver.communicate(timeout=PATIENCE)
    assert out == "from 2000\nfrom 3000\n"
    assert told.count("refused uid 3000") == 1
