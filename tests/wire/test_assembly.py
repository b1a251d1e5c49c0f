"""What an assembly promises, in both twins."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsr.limits import MIB


@given(
    data=st.binary(max_size=300_000),
    cuts=st.lists(st.tuples(st.integers(1, 70_000), st.booleans())),
)
def test_pieces_come_out_whole(codec: Any, data: bytes, cuts: list[tuple[int, bool]]) -> None:
    """However it comes, put into the room or given as a piece, all comes out as it was."""
    assembly = codec.Assembly(len(data))
    rest = memoryview(data)
    for most, in_place in [*cuts, *[(70_000, True)] * 20]:
        size = min(most, len(rest))
        if in_place and assembly.missing:
            with assembly.room() as room:
                size = min(size, len(room))
                room[:size] = rest[:size]
            assembly.advance(size)
        else:
            assembly.extend(rest[:size])
        rest = rest[size:]
        assert (assembly.filled, assembly.missing) == (len(data) - len(rest), len(rest))
    assert assembly.take() == data


def test_declared_length_sets_nothing_aside(codec: Any) -> None:
    """What has not come costs at most as much again as what has."""
    tracemalloc.start()
    try:
        assembly = codec.Assembly(16 * MIB)
        with assembly.room() as room:
            assert 0 < len(room) <= 16 * 1024
        assembly.advance(100)
        assembly.extend(bytes(30_000))
        assembly.room().release()
        assert tracemalloc.get_traced_memory()[1] < 150_000
    finally:
        tracemalloc.stop()


def test_more_than_the_length_is_refused(codec: Any) -> None:
    """Neither a piece nor a word about the room can go beyond the length."""
    assembly = codec.Assembly(3)
    with pytest.raises(ValueError, match="no room"):
        assembly.extend(b"four")
    with pytest.raises(ValueError, match="no room"):
        assembly.advance(1)
    assembly.extend(b"abc")
    assert assembly.take() == b"abc"
    with pytest.raises(ValueError, match="no room"):
        assembly.extend(b"d")


def test_nothing_is_taken_before_all_has_come(codec: Any) -> None:
    """Half a message never gets out."""
    assembly = codec.Assembly(3)
    assembly.extend(b"ab")
    with pytest.raises(ValueError, match="missing"):
        assembly.take()


@pytest.mark.parametrize("length", [-1, 1 << 32])
def test_length_fits_in_32_bits(codec: Any, length: int) -> None:
    """A length that no frame can have is refused."""
    with pytest.raises(ValueError, match="32 bits"):
        codec.Assembly(length)


def test_what_was_taken_from_a_packer_stays_known(codec: Any) -> None:
    """An exception that breaks in behind take() cannot lose the messages."""
    packer = codec.Packer(100)
    assert packer.taken == (0, 0, b"", b"")
    packer.open(1000)
    packer.append(b"ab")
    taken = packer.take(7)
    assert packer.taken == (7, *taken)
    packer.take(8)
    assert packer.taken == (8, 0, b"", b"")
