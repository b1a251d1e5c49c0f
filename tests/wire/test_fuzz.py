"""Feed both ends what no well-behaved peer would send.

Streams are random, or good ones with mutations, or made of good and bad frames. Whatever comes:
no exception but the ones that are promised, nothing held beyond the limits, every answer well
formed, and the same meaning however the bytes are cut.

``MPSR_FUZZ_SECONDS`` says how long the long test runs; ``MPSR_TEST_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import pytest

from mpsr.batch import ProducerIdentity
from mpsr.errors import LocalProtocolError, RemoteProtocolError
from mpsr.limits import MAX_CONTROL_FRAME, MAX_MESSAGE
from mpsr.wire.frames import HEADER, PREFACE, Hello, encode
from mpsr.wire.framing import Framing
from mpsr.wire.ledger import Ledger
from mpsr.wire.packing import FRAMINGS
from mpsr.wire.sending import Acknowledged, SendingSession, Welcomed
from mpsr.wire.transitions import State
from tests.chance import Chance
from tests.fuzz.feeding import length_together
from tests.wire.pair import PRODUCER_ID, UID, ReceiverEnd, Understood, cut_at, frames_in
from tests.wire.vectors import RECEIVING, SENDING, read, unhex

SECONDS: Final = float(os.environ.get("MPSR_FUZZ_SECONDS", "600"))
SHORT: Final = 2.0  # seconds: the fuzz of the default suite

LIMITS: Final = [0, 1, 8, 100, 5000, MAX_MESSAGE]  # bytes: largest messages to try
LONGEST: Final = 20_000  # bytes of one stream
U32: Final = [0, 1, 2, 3, 0x7FFF_FFFF, 0xFFFF_FFFE, 0xFFFF_FFFF]
U64: Final = [
    0,
    1,
    2,
    5,
    1 << 32,
    (1 << 63) - 3,
    (1 << 63) - 2,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]

Make = Callable[[random.Random], bytes]

FROM_PRODUCERS: Final = [
    data
    for name in RECEIVING
    for vector in read(name)
    if len(data := unhex(vector["bytes"])) < LONGEST
]
FROM_RECEIVERS: Final = [
    unhex(step["receive"])
    for name in SENDING
    for vector in read(name)
    for step in vector["steps"]
    if "receive" in step
]


# -- making streams -------------------------------------------------------------------------


def noise(rng: random.Random) -> bytes:
    """Return random bytes, of few different values or of all."""
    size = rng.choice([1, 3, 8, 40, 300, 3000])
    if rng.random() < 0.5:
        return rng.randbytes(size)
    return bytes(rng.choices(b"\x00\x01\x03\x89\r\na", k=size))


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """Return a good stream with some changes."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.choice([1, 1, 2, 4, 8, 30]))
        match rng.randrange(6):
            case 0:
                data[place:end] = b""
            case 1:
                data[place:place] = data[place:end]
            case 2:
                data[place:place] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                del data[place:]
            case 4:
                other = rng.choice(corpus)
                data[place:] = other[rng.randrange(len(other) + 1) :]
            case _ if place < len(data):
                data[place] = rng.choice([data[place] ^ 1 << rng.randrange(8), 0, 1, 255])
    return bytes(data[:LONGEST])


class Writer:
    """Writes frames that are mostly good, as a producer whose numbers mostly follow."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.seq = rng.choice(U64) if rng.random() < 0.2 else rng.randrange(6)

    def stream(self) -> bytes:
        rng = self.rng
        parts = [PREFACE] if rng.random() < 0.95 else []
        if rng.random() < 0.95:
            parts.append(encode(Hello(PRODUCER_ID, self.seq, "x" * rng.choice([0, 3, 255]))))
        parts += [self.frame() for _ in range(rng.choice([0, 1, 2, 5, 30]))]
        return b"".join(parts)[:LONGEST]

    def frame(self) -> bytes:
        match self.rng.choices(range(5), [10, 4, 1, 1, 1])[0]:
            case 0:
                return self.batch()
            case 1:
                return self.lost()
            case 2:
                return self.wrap(7, b"")
            case 3:
                return self.wrap(self.rng.randrange(9), self.rng.randbytes(self.rng.randrange(40)))
            case _:
                return self.wrap(1, PRODUCER_ID + struct.pack("<Q", self.seq))

    def batch(self) -> bytes:
        rng = self.rng
        bodies = [rng.randbytes(rng.choice([0, 1, 5, 200])) for _ in range(rng.randrange(1, 6))]
        ends = [0]
        for body in bodies:
            ends.append(ends[-1] + len(body))
        if rng.random() < 0.05:
            ends[rng.randrange(len(ends))] = rng.choice(U32)
        count = rng.choice(U32) if rng.random() < 0.05 else len(bodies)
        zero = rng.choice(U32) if rng.random() < 0.03 else 0
        head = struct.pack(f"<QII{len(ends)}I", self.take(len(bodies)), count, zero, *ends)
        return self.wrap(3, head + b"".join(bodies))

    def lost(self) -> bytes:
        count = self.rng.choice(U64) if self.rng.random() < 0.1 else self.rng.randrange(1, 9)
        payload = struct.pack("<QQI", self.take(count), count, self.rng.choice(U32))
        return self.wrap(4, payload)

    def take(self, count: int) -> int:
        """Return a first number for so many messages: the next, an old or a late one."""
        first = self.seq
        chance = self.rng.random()
        if chance < 0.1:
            first = max(0, first - self.rng.randrange(5))
        elif chance < 0.13:
            first += self.rng.randrange(3)
        elif chance < 0.15:
            first = self.rng.choice(U64)
        first %= 1 << 64
        self.seq = max(self.seq, (first + count) % (1 << 64))
        return first

    def wrap(self, kind: int, payload: bytes) -> bytes:
        rng = self.rng
        length = rng.choice(U32) if rng.random() < 0.02 else len(payload)
        flags = rng.randrange(256) if rng.random() < 0.01 else 0
        zero = rng.randrange(65536) if rng.random() < 0.01 else 0
        return HEADER.pack(length, kind, flags, zero) + payload


def answers(rng: random.Random) -> bytes:
    """Return frames of a receiver, mostly good."""
    writer = Writer(rng)
    parts = []
    if rng.random() < 0.9:
        parts.append(writer.wrap(2, struct.pack("<IQI", 1, rng.choice(U64), rng.choice(U32))))
    for _ in range(rng.randrange(8)):
        if rng.random() < 0.8:
            parts.append(writer.wrap(5, struct.pack("<Q", rng.choice([*U64, rng.randrange(20)]))))
        elif rng.random() < 0.5:
            parts.append(writer.wrap(6, struct.pack("<I", rng.randrange(12)) + rng.randbytes(5)))
        else:
            parts.append(writer.frame())
    return b"".join(parts)


def text(rng: random.Random) -> bytes:
    """Return text that may turn out to be in any framing."""
    parts = [b"a", b"\n", b"\r", b"\0", b"\0\0", b"5 <34>a", b"5 <34", b"12", b" ", b"hello"]
    return b"".join(rng.choices(parts, k=rng.randrange(1, 12)))


RECEIVER_STREAMS: Final[list[Make]] = [
    noise,
    text,
    lambda rng: mutated(rng, FROM_PRODUCERS),
    lambda rng: Writer(rng).stream(),
    lambda rng: mutated(rng, [Writer(rng).stream()]),
]
PRODUCER_STREAMS: Final[list[Make]] = [
    noise,
    lambda rng: mutated(rng, FROM_RECEIVERS),
    answers,
    lambda rng: mutated(rng, [answers(rng)]),
]


def pieces_of(rng: random.Random, data: bytes) -> list[bytes]:
    """Return the data in few pieces or many."""
    most = rng.choice([1, 3, 20, len(data) + 1])
    return cut_at(data, [rng.randrange(len(data) + 1) for _ in range(most)])


# -- feeding them ---------------------------------------------------------------------------


class Setting(NamedTuple):
    """What a receiver is, and what it knows of the producer."""

    framing: Framing
    max_message: int
    known: tuple[int, int] | None  # expected, accepted
    producers: int  # how many the ledger holds


class Outcome(NamedTuple):
    """What must not depend on how the bytes are cut."""

    understood: list[Understood]
    sent: bytes
    error: tuple[int, str] | None
    orderly: bool | None


def receive(setting: Setting, pieces: list[bytes], *, ends: bool) -> Outcome:
    """Feed a receiver; check what holds at every moment."""
    ledger = Ledger(most=setting.producers)
    if setting.known is not None:
        producer_state = ledger.open(UID, ProducerIdentity(PRODUCER_ID, ""), 0, 0.0)
        producer_state.expected_seq, producer_state.accepted_seq = setting.known
        ledger.gone(producer_state, 0.0, orderly=False)
    end = ReceiverEnd(setting.framing, max_message=setting.max_message, ledger=ledger)
    most = HEADER.size + max(setting.max_message + 24, MAX_CONTROL_FRAME)
    for piece in pieces:
        end.feed_all([piece])
        assert end.error is not None or end.session.pending <= most
        assert (end.error is not None) is (end.session.state is State.FAILED)
    error = end.error
    if ends:
        end.finish()
        error = end.error
    frames_in(end.sent)
    told = None if error is None else (int(error.code), str(error))
    return Outcome(end.understood, end.sent, told, end.orderly)


def fuzz_receiver(rng: random.Random) -> str:
    """Feed one stream to a receiver, whole and in pieces; return what went wrong."""
    data = rng.choice(RECEIVER_STREAMS)(rng)
    framing = "auto" if rng.random() < 0.5 else rng.choice(FRAMINGS)
    known: tuple[int, int] | None = None
    if rng.random() < 0.3:
        most = (1 << 63) - 1
        expected = min(most, rng.choice(U64)) if rng.random() < 0.2 else rng.randrange(8)
        known = (expected, rng.randrange(expected + 1))
    setting = Setting(framing, rng.choice(LIMITS), known, rng.choice([1, 1, 1, 0]))
    if setting.producers == 0:
        setting = setting._replace(known=None)
    pieces = length_together(pieces_of(rng, data))
    ends = rng.random() < 0.7
    try:
        whole, cut = receive(setting, [data], ends=ends), receive(setting, pieces, ends=ends)
        assert whole == cut
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is a finding
        return f"{exc!r}: {setting}, ends={ends}, {[piece.hex() for piece in pieces]}"
    return ""


def fuzz_sender(rng: random.Random) -> str:
    """Feed one stream to a producer, which meanwhile sends; return what went wrong."""
    lowest_seq = rng.choice([0, 0, 1, 5])
    pieces = pieces_of(rng, rng.choice(PRODUCER_STREAMS)(rng))
    session = SendingSession(PRODUCER_ID, lowest_seq, "label")
    sent = lowest_seq
    try:
        for piece in pieces:
            if session.state is State.OPEN and rng.random() < 0.5:
                sent += rng.randrange(1, 9)
                session.sent(sent)
            if session.state is State.OPEN and rng.random() < 0.1:
                session.bye()
            try:
                session.receive_data(memoryview(piece))
            except RemoteProtocolError:
                assert session.state is State.FAILED
            for event in session.events_received():
                match event:
                    case Welcomed(expected_seq, max_message, _):
                        assert expected_seq >= lowest_seq
                        assert max_message > 0
                        sent = expected_seq
                    case Acknowledged(seq):
                        assert seq <= sent
            if session.state is State.FAILED:
                with pytest.raises(LocalProtocolError):
                    session.sent(sent)
                break
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is a finding
        return f"{exc!r}: lowest_seq={lowest_seq}, {[piece.hex() for piece in pieces]}"
    return ""


def fuzz(rng: random.Random, seconds: float) -> int:
    """Feed streams for so long; return how many they were, or fail with what was found."""
    streams = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = fuzz_receiver(rng) if streams % 3 else fuzz_sender(rng)
        assert not found, f"stream {streams}: {found}"
        streams += 1
    return streams


def test_no_stream_of_bytes_breaks_either_end(chance: Chance) -> None:
    """Two seconds of bad streams raise nothing that is not promised."""
    assert fuzz(chance, SHORT) > 0


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 60)
def test_no_stream_of_bytes_breaks_either_end_for_long(
    chance: Chance, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes of bad streams raise nothing that is not promised."""
    streams = fuzz(chance, SECONDS)
    with capsys.disabled():
        print(f"\n{streams} streams in {SECONDS:g} seconds, nothing found")  # noqa: T201
