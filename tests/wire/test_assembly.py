"""What an assembly promises, in both twins."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsr.limits import KIB, MIB


def put(assembly: Any, data: memoryview, most: int) -> int:
    """Read up to ``most`` bytes into the rooms, as a scattered read does."""
    size = 0
    for room in assembly.rooms():
        with room:
            part = data[size : size + min(len(room), most - size)]
            room[: len(part)] = part
            size += len(part)
    assembly.advance(size)
    return size


@given(
    bodies=st.lists(st.binary(max_size=3) | st.binary(max_size=150_000), max_size=8),
    cuts=st.lists(st.tuples(st.integers(1, 70_000), st.booleans())),
    trusted=st.booleans(),
)
def test_pieces_come_out_whole(
    codec: Any, bodies: list[bytes], cuts: list[tuple[int, bool]], trusted: bool
) -> None:
    """However it comes, put into the rooms or given as a piece, all comes out as it was."""
    assembly = codec.Assembly(list(map(len, bodies)), trusted)
    data = rest = memoryview(b"".join(bodies))
    for most, in_place in [*cuts, *[(70_000, True)] * 40]:
        size = min(most, len(rest))
        if in_place and assembly.missing:
            size = put(assembly, rest, size)
            assert size > 0
        else:
            assembly.extend(rest[:size])
        rest = rest[size:]
        assert (assembly.filled, assembly.missing) == (len(data) - len(rest), len(rest))
    assert assembly.take() == bodies


def test_trusted_sizes_have_all_their_rooms_at_once(codec: Any) -> None:
    """One read may fill many messages; what is far ahead waits for its turn."""
    assembly = codec.Assembly([64 * KIB] * 100, True)
    rooms = assembly.rooms()
    assert list(map(len, rooms)) == [64 * KIB] * 17  # one, and a MiB ahead
    del rooms


def test_declared_sizes_set_nothing_aside(codec: Any) -> None:
    """What has not come costs at most as much again as what has."""
    tracemalloc.start()
    try:
        assembly = codec.Assembly([16 * MIB, 16 * MIB], False)
        (room,) = assembly.rooms()
        with room:
            assert 0 < len(room) <= 16 * 1024
        assembly.advance(100)
        assembly.extend(bytes(30_000))
        del room
        for room in assembly.rooms():
            room.release()
        assert tracemalloc.get_traced_memory()[1] < 150_000
    finally:
        tracemalloc.stop()


def test_more_than_the_sizes_is_refused(codec: Any) -> None:
    """Neither a piece nor a word about the rooms can go beyond the sizes."""
    assembly = codec.Assembly([1, 2], False)
    with pytest.raises(ValueError, match="no room"):
        assembly.extend(b"four")
    with pytest.raises(ValueError, match="no room"):
        assembly.advance(1)
    assembly.extend(b"abc")
    assert assembly.take() == [b"a", b"bc"]
    with pytest.raises(ValueError, match="no room"):
        assembly.extend(b"d")


def test_nothing_is_taken_before_all_has_come(codec: Any) -> None:
    """Half a message never gets out."""
    assembly = codec.Assembly([1, 2], False)
    assembly.extend(b"ab")
    with pytest.raises(ValueError, match="missing"):
        assembly.take()


@pytest.mark.parametrize("sizes", [[-1], [1 << 32], [1 << 31, 1 << 31]])
def test_sizes_fit_in_32_bits(codec: Any, sizes: list[int]) -> None:
    """Sizes that no frame can have are refused."""
    with pytest.raises(ValueError, match="32 bits"):
        codec.Assembly(sizes, False)


def test_c_keeps_room_that_somebody_holds() -> None:
    """Nothing moves while somebody may still write to it."""
    codec = pytest.importorskip("mpsr._speedups._c")
    assembly = codec.Assembly([100_000], False)
    rooms = assembly.rooms()
    with pytest.raises(BufferError, match="release the rooms"):
        assembly.rooms()
    with pytest.raises(BufferError, match="release the rooms"):
        assembly.extend(b"a")
    del rooms
    assembly.extend(bytes(100_000))
    assert assembly.take() == [bytes(100_000)]


def test_what_was_taken_from_a_packer_stays_known(codec: Any) -> None:
    """An exception that breaks in behind take() cannot lose the messages."""
    packer = codec.Packer(100)
    assert packer.taken == (0, 0, b"", [])
    packer.open(1000)
    packer.append(b"ab")
    taken = packer.take(7)
    assert packer.taken == (7, *taken)
    packer.take(8)
    assert packer.taken == (8, 0, b"", [])
