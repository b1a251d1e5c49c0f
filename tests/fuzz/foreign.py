"""Feed the foreign framings: C and Python find the same messages, however they are cut."""

from __future__ import annotations

from itertools import takewhile
from typing import Any, Final, NamedTuple

from tests.fuzz.feeding import Source, cut, length_together
from tests.fuzz.trees import TREES, Tree, same

FRAMINGS: Final = ["auto", "lines", "null", "length", "length-le", "octet-counted", "eof"]
LIMITS: Final = [0, 1, 8, 100, 5000, 1 << 20]  # bytes: largest messages to try
MOST_BESIDE: Final = 16  # bytes that are held beside a message


class Outcome(NamedTuple):
    """What must not depend on how the bytes are cut."""

    messages: list[bytes]
    error: tuple[int, str] | None
    framing: str
    """What it turned out to be, if there was no error."""


def reference(framing: str, stream: bytes, limit: int, *, ends: bool) -> list[bytes]:
    """Return the messages of a whole stream, up to one that is too large or breaks the framing."""
    messages: list[bytes] = []
    if framing in {"lines", "null"}:
        *messages, last = stream.split(b"\n" if framing == "lines" else b"\0")
        if framing == "lines":
            messages = [message.removesuffix(b"\r") for message in messages]
        messages += [last] if last and ends else []
    elif framing in {"length", "length-le"}:
        while len(stream) >= 4:
            length = int.from_bytes(stream[:4], "big" if framing == "length" else "little")
            if len(stream) < 4 + length:
                break
            messages.append(stream[4 : 4 + length])
            stream = stream[4 + length :]
    elif framing == "octet-counted":
        while True:
            digits, space, rest = stream.partition(b" ")
            known = space and len(digits) <= 10 and digits.isdigit() and digits[0] != ord("0")
            if not known or len(rest) < int(digits):
                break
            messages.append(rest[: int(digits)])
            stream = rest[int(digits) :]
    elif stream and ends:
        messages = [stream]
    return list(takewhile(lambda message: len(message) <= limit, messages))


def feed(
    tree: Tree, framing: str, limit: int, pieces: list[bytes], *, ends: bool
) -> tuple[Outcome, list[Any]]:
    """Feed a deframer; return the outcome, and what it told step by step."""
    deframer = tree.foreign.deframer(framing, limit)
    error: tuple[int, str] | None = None
    runs: list[Any] = []
    log: list[Any] = []
    for piece in [*pieces, None] if ends else pieces:
        try:
            if piece is None:
                deframer.finish(runs)
            else:
                buffer = bytearray(piece)
                try:
                    deframer.feed(memoryview(buffer), runs)
                finally:
                    buffer[:] = b"\xee" * len(buffer)  # it is used again
            assert deframer.pending <= limit + MOST_BESIDE
        except tree.errors.RemoteProtocolError as exc:
            error = int(exc.code), str(exc)
            break
        finally:
            log.append((len(runs), deframer.pending))
    messages: list[bytes] = []
    for count, nbytes, split in runs:
        bodies = split()
        assert len(bodies) == count > 0
        assert sum(map(len, bodies)) == nbytes
        assert max(map(len, bodies)) <= limit
        assert split() == bodies
        messages += bodies
    told = getattr(deframer, "framing", framing) if error is None else ""
    found = Outcome(messages, error, told)
    return found, [*log, *([count, nbytes] for count, nbytes, _ in runs)]


def run(data: bytes) -> None:
    """Feed a deframer of each twin, and once more in one piece."""
    source = Source(data)
    framing = FRAMINGS[source.number() % len(FRAMINGS)]
    kind = source.number()
    limit, runs, ends = LIMITS[(kind & 7) % len(LIMITS)], bool(kind & 8), bool(kind & 16)
    sizes = source.sizes()
    stream = source.rest(runs=runs)
    pieces = length_together(list(cut(stream, sizes))) if sizes else [stream]
    answers = [feed(tree, framing, limit, pieces, ends=ends) for tree in TREES]
    outcome = same(answers)[0]
    known = framing if framing != "auto" else outcome.framing
    if known not in {"auto", ""}:
        assert outcome.messages == reference(known, stream, limit, ends=ends)
    if stream:
        same([outcome, feed(TREES[0], framing, limit, [stream], ends=ends)[0]])
