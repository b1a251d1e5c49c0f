"""Batches and peers, the values a user holds."""

from __future__ import annotations

import pytest

from mpsr import Batch, DecodeError, Peer


def batch_of(*messages: bytes, **options: object) -> Batch:
    nbytes = sum(map(len, messages))
    return Batch(lambda: list(messages), count=len(messages), nbytes=nbytes, **options)  # type: ignore[arg-type]


def test_length_and_size_are_known_without_splitting() -> None:
    """A batch that nobody touches is never split."""

    def split() -> list[bytes]:
        raise AssertionError

    batch = Batch(split, count=3, nbytes=10)
    assert (len(batch), batch.nbytes, bool(batch)) == (3, 10, True)


def test_messages_that_were_asked_for_are_kept() -> None:
    """Who asks for one by its index has all made, once; who iterates has one at a time."""
    calls: list[int] = []

    def split() -> list[bytes]:
        calls.append(1)
        return [b"a", b"b"]

    batch = Batch(split, count=2, nbytes=2)
    assert list(batch) == [b"a", b"b"] == list(batch)
    assert calls == [1, 1]
    assert (batch[0], batch[-1], batch[1:]) == (b"a", b"b", [b"b"])
    assert list(batch) == [b"a", b"b"]
    assert calls == [1, 1, 1]


def test_a_batch_is_a_sequence() -> None:
    """What the abstract base class promises holds."""
    batch = batch_of(b"a", b"b", b"a")
    assert b"b" in batch
    assert (batch.index(b"b"), batch.count(b"a")) == (1, 2)
    assert list(reversed(batch)) == [b"a", b"b", b"a"]
    with pytest.raises(IndexError):
        batch[3]


def test_decoding_happens_on_touch_and_its_failure_carries_the_message() -> None:
    """One message that cannot be decoded does not hide its neighbours."""
    batch: Batch[int] = Batch(lambda: [b"1", b"x"], count=2, nbytes=2, decode=int)
    assert batch[0] == 1
    with pytest.raises(DecodeError, match="1 bytes") as caught:
        batch[1]
    assert caught.value.body == b"x"
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(DecodeError):
        list(batch)
    assert batch.raw == [b"1", b"x"]


def test_failure_to_decode_names_the_message_and_iteration_continues_after_it() -> None:
    """The error has the body, the position and the sender; the same iterator gives the rest."""
    peer = Peer(7, 0, 0)
    batch: Batch[int] = Batch(lambda: [b"1", b"x", b"3"], count=3, nbytes=3, peer=peer, decode=int)
    batch.position = 12
    messages = iter(batch)
    assert next(messages) == 1
    for access in (lambda: next(messages), lambda: batch[1], lambda: batch[-2], lambda: batch[1:]):
        with pytest.raises(DecodeError) as caught:
            access()
        error = caught.value
        assert (error.body, error.position, error.peer, error.producer) == (b"x", 11, peer, None)
    assert list(messages) == [3]


def test_a_batch_shows_what_it_is() -> None:
    """The repr names the sender, and losses where there are any."""
    assert repr(batch_of(b"ab", peer=Peer(7, 0, 0))) == "<Batch of 1, 2 bytes, from pid 7>"
    assert repr(batch_of(lost=3)) == "<Batch of 0, 0 bytes, from pid None, 3 lost before it>"
