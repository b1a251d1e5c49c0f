"""Reading many datagrams or packets at once: C and its twin do the same."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsr._speedups import IN_C_ON_LINUX
from mpsr._speedups import packets as chosen
from mpsr._speedups.packets_py import PacketReader as Twin

if TYPE_CHECKING:
    from collections.abc import Iterator

READERS: list[Any] = [Twin, *[chosen.PacketReader] * IN_C_ON_LINUX]
ME = (os.getpid(), os.getuid(), os.getgid())
both = pytest.mark.parametrize("reader", READERS)
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=[socket.SOCK_DGRAM, socket.SOCK_SEQPACKET], ids=["dgram", "seqpacket"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Give a connected pair; the second end is told who sends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, request.param)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with ours, theirs:
        yield ours, theirs


@both
def test_packets_come_whole_with_their_sender(reader: Any, pair: Pair) -> None:
    """Each is apart, empty ones too; at most ``count`` come at a time."""
    bodies = [b"one", b"", bytes(range(100)), b"four"]
    for body in bodies:
        pair[0].send(body)
    found = reader(100, 3)
    assert found.read(pair[1]) == [(body, ME, []) for body in bodies[:3]]
    assert found.read(pair[1]) == [(b"four", ME, [])]
    with pytest.raises(BlockingIOError):
        found.read(pair[1])


@both
def test_too_long_a_packet_is_told_and_not_cut(reader: Any, pair: Pair) -> None:
    for body in (bytes(100), bytes(101), b"next"):
        pair[0].send(body)
    assert reader(100, 8).read(pair[1]) == [(bytes(100), ME, []), (None, ME, []), (b"next", ME, [])]


@both
def test_descriptors_come_along_and_are_not_inherited(reader: Any, pair: Pair) -> None:
    with open(os.devnull, "rb") as file:
        along = struct.pack("2i", file.fileno(), file.fileno())
        pair[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, along)])
        [(body, sender, descriptors)] = reader(100, 8).read(pair[1])
        assert (body, sender, len(descriptors)) == (b"x", ME, 2)
        for descriptor in descriptors:
            assert os.path.samestat(os.fstat(descriptor), os.fstat(file.fileno()))
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)


@both
def test_end_of_a_connection_has_no_sender(reader: Any) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with theirs:
        with ours:
            ours.send(b"last")
            ours.send(b"")
        found = reader(100, 8).read(theirs)
        assert found[:3] == [(b"last", ME, []), (b"", ME, []), (b"", None, [])]


@both
def test_memory_that_cannot_be_is_refused(reader: Any) -> None:
    for size, count in [(0, 1), (1, 0), (-1, 1)]:
        with pytest.raises(ValueError, match="choose a smaller"):
            reader(size, count)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        pass
    with pytest.raises((OSError, ValueError)):
        reader(1, 1).read(sock)


@settings(derandomize=True, max_examples=100)
@given(st.lists(st.binary(max_size=60), max_size=12), st.integers(1, 50), st.integers(1, 6))
def test_twins_read_alike(bodies: list[bytes], size: int, count: int) -> None:
    """The same packets give the same, whatever the limits."""
    results = []
    for reader in READERS:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with ours, theirs:
            for body in bodies:
                ours.send(body)
            found: list[Any] = []
            packets = reader(size, count)
            while True:
                try:
                    found += packets.read(theirs)
                except BlockingIOError:
                    break
            results.append(found)
    assert results == [results[0]] * len(results)
    assert [data for data, _, _ in results[0]] == [
        body if len(body) <= size else None for body in bodies
    ]
