"""What the kernel tells of who has connected, beside the numbers."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.batch import Peer
from mpsr.system.peers import ConnectedPeer

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = """
import os, socket, sys
if os.geteuid() == 0:
    os.setgroups([5, 6, 7, *range(1000, 1000 + int(sys.argv[2]))])
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(address)
        sock.listen()
        yield sock


@pytest.mark.parametrize("groups", [0, 100])
def test_peer_tells_groups_program_and_start(
    address: str, listening: socket.socket, groups: int
) -> None:
    """All is of the process that connected, and gone with it: never of another of its number."""
    before = time.time()
    command = [sys.executable, "-c", CLIENT, address, str(groups)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as client:
        sock, _ = listening.accept()
        with sock:
            assert client.stdout
            assert client.stdout.readline() == b"connected\n"
            peer = ConnectedPeer(sock)
            assert tuple(peer) == (client.pid, os.getuid(), os.getgid())
            if os.geteuid() == 0:
                assert peer.groups == (5, 6, 7, *range(1000, 1000 + groups))
            if (pidfd := peer.open_pidfd()) is None:
                pytest.skip("takes SO_PEERPIDFD, which Linux has since 6.5")
            assert not os.get_inheritable(pidfd)
            os.close(pidfd)
            assert peer.executable == os.path.realpath(sys.executable)
            assert peer.started_at is not None
            assert before - 1 < peer.started_at < time.time() + 1
            client.communicate()
            assert peer.executable is None
            assert peer.started_at is None
        assert (peer.groups, peer.open_pidfd()) == (None, None)  # the connection is closed


def test_peer_travels_as_its_numbers(address: str, listening: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        sock, _ = listening.accept()
        with sock:
            peer = ConnectedPeer(sock)
            copy = pickle.loads(pickle.dumps(peer))
            assert (copy, type(copy)) == (peer, Peer)
            assert repr(peer) == repr(copy)
    assert (copy.groups, copy.open_pidfd(), copy.executable, copy.started_at) == (None,) * 4


def test_batch_tells_of_its_sender(address: str) -> None:
    with mpsr.Receiver(address) as receiver, mpsr.Producer(address) as producer:
        producer.send(b"x")
        batch = receiver.receive_batch(20)
        assert tuple(batch.peer) == (os.getpid(), os.getuid(), os.getgid())
        assert batch.peer.groups == tuple(os.getgroups())
        receiver.acknowledge()
