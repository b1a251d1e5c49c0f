"""Hold docs/protocol.md to the code."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from mpsr._speedups import codec
from mpsr.limits import (
    BACKOFF_FIRST,
    BACKOFF_MOST,
    FRAME_DEADLINE,
    FRAME_OVERHEAD,
    HELLO_DEADLINE,
    MAX_CONTROL_FRAME,
    MAX_FILES,
    MAX_LABEL,
    MAX_MESSAGE,
    MAX_PRODUCERS,
    PRODUCER_EXPIRY,
    REPLY_DEADLINE,
)
from mpsr.wire.frames import (
    FROM_PRODUCER,
    FROM_RECEIVER,
    HEADER,
    PREFACE,
    RETRY_CODES,
    Ack,
    FrameType,
    Hello,
    Lost,
    LostReason,
    Reject,
    RejectCode,
    Ring,
    Welcome,
    decode_file,
    encode,
    encode_file,
)
from mpsr.wire.framing import FIRST_BYTES
from mpsr.wire.transitions import PRODUCER_TRANSITIONS, RECEIVER_TRANSITIONS, State
from tests.wire.pair import ReceiverEnd
from tests.wire.vectors import CONNECTIONS, RECEIVING, SENDING, read

DOC: Final = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
FORMATS: Final = {"u32": "I", "u64": "Q", "16 bytes": "16s"}


def section(title: str) -> str:
    """Return what stands under a heading, up to the next one of any rank."""
    _, _, rest = DOC.partition(f"# {title}\n")
    assert rest, title
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def tables(title: str) -> list[list[list[str]]]:
    """Return the rows of each table under a heading, without the head."""
    found = re.findall(r"(?:^\|.*\n)+", section(title), flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()[2:]]
        for text in found
    ]


def code_in(title: str) -> str:
    """Return the first block of code under a heading."""
    match = re.search(r"```\w+\n(.*?)```", section(title), flags=re.DOTALL)
    assert match is not None
    return match[1]


# -- tables ---------------------------------------------------------------------------------


def transitions(
    table: dict[tuple[State, FrameType], State], sends: frozenset[FrameType]
) -> list[list[str]]:
    return [
        [state.name, f"{'sends' if kind in sends else 'gets'} {kind.name}", after.name]
        for (state, kind), after in table.items()
    ]


def test_receivers_states_are_as_documented() -> None:
    """The table in the document is the table in the code."""
    (rows,) = tables("The receiver's states")
    assert rows == transitions(RECEIVER_TRANSITIONS, FROM_RECEIVER)


def test_producers_states_are_as_documented() -> None:
    """The table in the document is the table in the code."""
    (rows,) = tables("The producer's states")
    assert rows == transitions(PRODUCER_TRANSITIONS, FROM_PRODUCER)


def test_every_state_is_documented() -> None:
    """No state is missing from the section on states."""
    text = section("The receiver's states") + section("The producer's states")
    assert all(state.name in text for state in State)


def test_frame_types_are_as_documented() -> None:
    """Each type's number, name and sender."""
    (rows,) = tables("Frames")
    assert rows == [
        [
            str(kind.value),
            kind.name,
            "observer"
            if kind is FrameType.OBSERVE
            else "producer"
            if kind in FROM_PRODUCER
            else "receiver",
        ]
        for kind in FrameType
    ]


def test_reject_codes_are_as_documented() -> None:
    """Each code's number and name, and whether it is worth a retry."""
    rows = tables("REJECT")[1]
    assert [row[:2] for row in rows] == [[str(code.value), code.name] for code in RejectCode]
    assert {int(row[0]) for row in rows if row[3].startswith("yes")} == RETRY_CODES


def test_lost_reasons_are_as_documented() -> None:
    """Each reason's number and name."""
    rows = tables("LOST")[1]
    assert [row[:2] for row in rows] == [[str(reason.value), reason.name] for reason in LostReason]


def test_first_bytes_are_as_documented() -> None:
    """Each byte that decides for a framing other than text."""
    rows, separators = tables("Which framing")
    told = {row[0].strip("`"): re.sub(r"\[(\w+)\].*", r"\1", row[1]) for row in rows}
    assert told.pop("any other") == "text: see below"
    assert {int(byte, 16): framing for byte, framing in told.items()} == FIRST_BYTES
    text = " ".join(row[1] for row in separators)
    assert set(re.findall(r"\[([\w-]+)\]", text)) == {"lines", "null", "octet-counted"}


@pytest.mark.parametrize(
    ("title", "frame"),
    [
        ("HELLO", Hello(b"0123456789abcdef", 77, "label")),
        ("WELCOME", Welcome(3, 77, 4096)),
        ("LOST", Lost(5, 6, 2)),
        ("ACK", Ack(9)),
        ("REJECT", Reject(4, "because")),
        ("RING", Ring(1 << 20)),
    ],
)
def test_payloads_are_laid_out_as_documented(title: str, frame: Any) -> None:
    """Packing a frame's fields by the document's table gives the code's bytes."""
    payload = b""
    fields = frame[:3]  # what else there is of HELLO and WELCOME are flags
    for (offset, kind, _), value in zip(tables(title)[0], fields, strict=True):
        assert int(offset) == len(payload)
        if kind in FORMATS:
            payload += struct.pack(f"<{FORMATS[kind]}", value)
        else:
            assert kind.startswith("0 to ")
            payload += value.encode()
    assert encode(frame) == HEADER.pack(len(payload), FrameType[title], 0, 0) + payload


def test_files_are_laid_out_as_documented() -> None:
    """The table of FILE."""
    rows = tables("FILE")[0]
    assert [row[:2] for row in rows] == [["0", "u64"], ["8", "the rest"]]
    frame = b"".join(encode_file(7, b"message"))
    assert frame == HEADER.pack(15, FrameType.FILE, 0, 0) + struct.pack("<Q", 7) + b"message"
    assert decode_file(frame[HEADER.size :]) == (7, b"message")


def test_batches_are_laid_out_as_documented() -> None:
    """The table of BATCH, for a batch of two."""
    rows = tables("BATCH")[0]
    assert [row[0] for row in rows] == [
        "0",
        "8",
        "12",
        "16",
        "20 + 4 \N{MULTIPLICATION SIGN} count",
    ]
    offsets = "u32 \N{MULTIPLICATION SIGN} (count + 1)"
    assert [row[1] for row in rows] == ["u64", "u32", "u32", offsets, "the rest"]
    payload = struct.pack("<QII3I", 7, 2, 0, 0, 2, 3)
    assert len(payload) == 20 + 4 * 2
    assert codec.pack_batch([b"ab", b"c"], 7)[HEADER.size :] == payload + b"abc"


@pytest.mark.parametrize(
    ("title", "text", "value"),
    [
        ("Foreign framings", "{:,} bytes", MAX_MESSAGE),
        ("Sizes", "any frame but BATCH, STATUS and TAP | {:,} bytes", MAX_CONTROL_FRAME),
        ("Sizes", "never below {:,} bytes", MAX_CONTROL_FRAME),
        ("Sizes", "largest BATCH payload \N{MINUS SIGN} {} bytes", FRAME_OVERHEAD),
        ("Sizes", "label | {} bytes", MAX_LABEL),
        ("HELLO", "0 to {} bytes", MAX_LABEL),
        ("REJECT", "0 to {:,} bytes", MAX_CONTROL_FRAME - 4),
        ("WELCOME", "at least {:,} |", MAX_CONTROL_FRAME),
        ("The life of a connection", "about {:.0f} ms at first", BACKOFF_FIRST * 1000),
        ("The life of a connection", "doubled up to a second", BACKOFF_MOST == 1),
        ("The life of a connection", "not whole within {:.0f} seconds", HELLO_DEADLINE),
        ("The life of a connection", "not whole {:.0f} seconds after", FRAME_DEADLINE),
        ("The life of a connection", "an answer for {:.0f}", REPLY_DEADLINE),
        ("FILE", "more than {} files", MAX_FILES),
        ("Sequence numbers", "those of {:,} producers", MAX_PRODUCERS),
        ("Sequence numbers", "for an hour, and then", PRODUCER_EXPIRY == 3600),
    ],
)
def test_limits_are_as_documented(title: str, text: str, value: float) -> None:
    """Each number in the document is the one in the code."""
    assert value
    assert text.format(value) in " ".join(section(title).split())


def test_preface_is_as_documented() -> None:
    """The document's bytes are the code's."""
    assert bytes.fromhex(code_in("Preface")[: 3 * len(PREFACE)]) == PREFACE


# -- examples -------------------------------------------------------------------------------


def example() -> list[tuple[str, bytes]]:
    """Return who speaks, and which bytes, for each turn of the documented example."""
    turns: list[tuple[str, bytes]] = []
    for line in code_in("An example").splitlines():
        if match := re.match(r"    ((?:[0-9a-f]{2} )+) ", line):
            speaker, said = turns[-1]
            turns[-1] = (speaker, said + bytes.fromhex(match[1]))
        elif line:
            turns.append((line.split()[0], b""))
    return turns


def test_documented_example_is_what_happens() -> None:
    """A receiver understands and answers each turn as the document shows."""
    end = ReceiverEnd()
    answered = 0
    for speaker, said in example():
        if speaker == "producer":
            end.feed(said)
            continue
        if end.bodies:
            end.accept(len(end.bodies))
        assert end.sent[answered:] == said
        answered = len(end.sent)
    end.finish()
    assert end.bodies == [b"hello", b"world"]
    assert (end.error, end.orderly) == (None, True)


def documented_producer() -> Callable[[socket.socket, list[bytes]], None]:
    """Return the function ``deliver`` of the document."""
    source = code_in("A complete producer")
    assert len(source.splitlines()) <= 32
    names: dict[str, Any] = {}
    exec(compile(source, "protocol.md", "exec"), names)
    deliver: Callable[[socket.socket, list[bytes]], None] = names["deliver"]
    return deliver


def serve(sock: socket.socket, end: ReceiverEnd) -> None:
    """Feed a receiver from a socket, and accept what it receives, until the producer closes."""
    answered = 0
    while data := sock.recv(7):
        end.feed(data)
        if (
            end.producer_state is not None
            and end.producer_state.expected_seq > end.producer_state.accepted_seq
        ):
            end.accept(end.producer_state.expected_seq)
        if answer := end.sent[answered:]:
            sock.sendall(answer)
            answered = len(end.sent)
        if end.error is not None:
            break
    end.finish()


@contextmanager
def served(end: ReceiverEnd) -> Iterator[socket.socket]:
    """Give the producer's end of a connection to a receiver in another thread."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    with ours, ThreadPoolExecutor(1) as pool:
        with theirs:
            serving = pool.submit(serve, ours, end)
            yield theirs
        serving.result(10)


@pytest.mark.parametrize(
    "messages", [[b"hello", b"world"], [b""], [b"x" * 3000, b"", b"\n\0\x89"], [b"m"] * 500]
)
def test_documented_producer_delivers(messages: list[bytes]) -> None:
    """The producer in the document, run as it stands, is understood and accepted."""
    end = ReceiverEnd()
    with served(end) as sock:
        documented_producer()(sock, messages)
    assert end.bodies == messages
    assert (end.error, end.orderly) == (None, True)
    hello = end.understood[0]
    assert isinstance(hello, Hello)
    assert (hello.lowest_seq, hello.label) == (0, "minimal")


def test_documented_producer_says_why_it_was_refused() -> None:
    """A REJECT becomes an error with the receiver's words."""
    end = ReceiverEnd(max_message=10)
    text = "too large: a frame of 5024 bytes"
    with served(end) as sock, pytest.raises(ConnectionError, match=text):
        documented_producer()(sock, [b"x" * 5000])
    assert end.error is not None
    assert end.error.code == RejectCode.TOO_LARGE


# -- vectors --------------------------------------------------------------------------------


def test_every_file_and_key_of_the_vectors_is_documented() -> None:
    """Who reads the document can read the vectors."""
    text = section("Test vectors")
    for name in (*RECEIVING, *CONNECTIONS, *SENDING):
        assert f"`{name}.json`" in text
        for vector in read(name):
            keys = {*vector, *(key for step in vector.get("steps", ()) for key in step)}
            assert all(f"`{key}`" in text for key in keys)
