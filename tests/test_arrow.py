"""Batches as Arrow arrays, which share their memory."""

from __future__ import annotations

import struct
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpsr
from mpsr import Batch
from mpsr._speedups import codec
from mpsr.batch import payload_of

if TYPE_CHECKING:
    from pathlib import Path

    from mpsr.wire.framing import Framing

_FRAME_HEADER = 8


def native(messages: list[bytes], *, skip: int = 0, shift: int = 0) -> Batch:
    """Return a batch as the wire makes it, its payload so many bytes behind an aligned address."""
    frame = bytes(shift) + codec.pack_batch(messages, 0)
    payload = memoryview(frame)[_FRAME_HEADER + shift :]
    rest = messages[skip:]
    split = partial(codec.iter_batch, payload, skip)
    return Batch(split, len(rest), sum(map(len, rest)), first_seq=skip, payload=payload)


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=50),
    st.integers(0, 49),
    st.integers(0, 7),
)
def test_an_array_holds_the_messages_of_any_native_batch(
    messages: list[bytes], skip: int, shift: int
) -> None:
    """Also where some were accepted before, and wherever in memory it stands."""
    skip = min(skip, len(messages) - 1)
    array = native(messages, skip=skip, shift=shift).to_arrow()
    array.validate(full=True)
    assert array.type == pa.binary()
    assert array.to_pylist() == messages[skip:]


def test_an_array_of_a_native_batch_shares_its_memory_and_keeps_it() -> None:
    """The bodies stand where the batch has them, also once the batch is gone."""
    batch = native([b"a" * 100] * 1000)
    begin = pa.py_buffer(payload_of(batch)).address
    size = memoryview(payload_of(batch)).nbytes  # type: ignore[arg-type]  # there is one
    array = batch.to_arrow()
    assert begin < array.buffers()[2].address < begin + size
    del batch
    assert array.to_pylist() == [b"a" * 100] * 1000


def test_a_batch_in_another_framing_is_copied() -> None:
    """So is one that was made of a list."""
    messages = [b"one", b"", b"\xff"]
    batch: Batch = Batch(partial(iter, messages), len(messages), 4)
    assert batch.to_arrow().to_pylist() == messages


def test_an_array_holds_what_came_and_not_what_decode_makes_of_it() -> None:
    """Arrow has no type for whatever a function may return."""
    payload = codec.pack_batch([b"7"], 0)[_FRAME_HEADER:]
    batch: Batch[int] = Batch(
        partial(codec.iter_batch, payload, 0), 1, 1, decode=int, payload=payload
    )
    assert batch.to_arrow().to_pylist() == [b"7"]


def test_an_empty_batch_is_an_empty_array() -> None:
    """A batch may have only a loss to tell."""
    batch: Batch = Batch(list, 0, 0, lost=3)
    assert batch.to_arrow().to_pylist() == []


@pytest.mark.parametrize("framing", ["native", "lines"])
@pytest.mark.parametrize("journaled", [False, True])
def test_what_a_receiver_hands_out_becomes_an_array(
    tmp_path: Path, framing: Framing, journaled: bool
) -> None:
    """From the wire and from a journal, in every framing."""
    path = str(tmp_path / "s.sock")
    journal = tmp_path / "j" if journaled else None
    sent = [str(number).encode() for number in range(1000)]
    got: list[bytes] = []
    with (
        mpsr.Receiver(path, journal=journal) as receiver,
        mpsr.Producer(path, framing=framing) as producer,
    ):
        producer.send_many(sent)
        while len(got) < len(sent):
            batch = receiver.receive_batch(timeout=20)
            array = batch.to_arrow()
            array.validate(full=True)
            got += array.to_pylist()
            if framing == "native":
                assert array.buffers()[2].address == body_address(batch)
        receiver.acknowledge()
    assert got == sent


def body_address(batch: Batch) -> int:
    payload = pa.py_buffer(payload_of(batch))
    (count,) = struct.unpack_from("<I", payload, 8)
    return int(payload.address + 16 + 4 * (count + 1))


def test_a_missing_pyarrow_is_said_with_its_remedy() -> None:
    """It is an extra, which the error names."""
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import mpsr\n"
        "try: mpsr.Batch(list, 0, 0).to_arrow()\n"
        "except mpsr.ConfigurationError as exc: print(exc)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'mpsr[arrow]'" in told.stdout
