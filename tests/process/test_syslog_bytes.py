"""Whatever bytes are sent to a receiver that decodes syslog, all arrive and nothing raises."""

from __future__ import annotations

import re
import socket
import threading
from typing import TYPE_CHECKING, Final

import pytest

import mpsr
from mpsr.system.address import SOCKET_TYPES
from tests.chance import Chance
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpsr.system.address import SocketType
    from mpsr.wire.framing import Framing

SEEDS: Final = range(10)
SIZE: Final = 100_000  # bytes of each seed
FRAGMENTS: Final = [
    *(bytes([each]) for each in b'\n\n\n\r\0\0 :[]"\\=-<>'),
    *(b"<13>", b"<0>", b"<191>", b"<192>", b"<013>", b"<>", b"<13", b"<-1>", b"<\xb2>", b"\r\n"),
    *(
        b"<13>1 - - - - - - ",
        b"<13>1 ",
        b"2026-03-01T12:00:00.000000+01:00 ",
        b"2026-02-30T25:61:61Z ",
        b"- ",
    ),
    *(b"Mar  1 12:00:00 ", b"Feb 29 24:00:00 ", b"host ", b"app[123]: ", b'[id@1 a="b\\]"]'),
    *(b"\xef\xbb\xbf", b"\xff", b"\x89MPSR\r\n\x01", b"\xc3", b"\x1b[31m", b"43 <13>", b"9" * 30),
]
OPENING: Final = b"<13>first\n"  # so that what follows is text, whatever it is
PRIORITY: Final = re.compile(rb"<(\d|[1-9]\d|1[0-8]\d|19[01])>")
AROUND: Final = re.compile(rb"\d+ |\r?\n|\0")  # "auto" removes one of them from syslog


def random_bytes(chance: Chance) -> bytes:
    return chance.randbytes(SIZE)


def random_lines(chance: Chance) -> bytes:
    """Return few different bytes, of which many end a line or a message."""
    return bytes(chance.choices(b"\n\r\0<13> \xff", k=SIZE))


def random_fragments(chance: Chance) -> bytes:
    """Return what is nearly syslog."""
    return b"".join(chance.choices(FRAGMENTS, k=SIZE // 4))[:SIZE]


def pieces(data: bytes, chance: Chance) -> Iterator[bytes]:
    """Cut bytes into pieces of 0 to 1,000 bytes."""
    begin = 0
    while begin < len(data):
        end = begin + chance.choice([0, 1, 2, 3, 10, 50, 200, 1000])
        yield data[begin:end]
        begin = end


@pytest.fixture(scope="module", params=[random_bytes, random_lines, random_fragments])
def made(request: pytest.FixtureRequest) -> list[tuple[bytes, list[bytes]]]:
    """Give a million bytes: those of each seed, whole and in pieces."""
    make: Callable[[Chance], bytes] = request.param
    found = []
    for chance in map(Chance, SEEDS):
        data = make(chance)
        found.append((data, list(pieces(data, chance))))
    return found


def lines_of(data: bytes) -> list[bytes]:
    *lines, rest = data.split(b"\n")
    return [*(line.removesuffix(b"\r") for line in lines), *([rest] if rest else [])]


def strings_of(data: bytes) -> list[bytes]:
    *strings, rest = data.split(b"\0")
    return [*strings, *([rest] if rest else [])]


def sent(address: str, kind: socket.SocketKind, packets: list[bytes]) -> threading.Thread:
    """Send packets, or pieces of a stream, in a thread."""

    def send() -> None:
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.connect(address)
            for packet in packets:
                (sock.sendall if kind == socket.SOCK_STREAM else sock.send)(packet)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def received(receiver: mpsr.Receiver[mpsr.SyslogMessage], count: int) -> list[bytes]:
    """Return the bytes of so many messages; check that each was read as syslog if it is any."""
    found: list[bytes] = []
    while len(found) < count:
        batch = receiver.receive_batch(PATIENCE)
        for message in batch:
            assert (message.format is None) == (PRIORITY.match(message.raw) is None)
        found += batch.raw
    assert receiver.try_receive_batch() is None
    return found


@pytest.mark.parametrize(
    ("framing", "messages_in"),
    [("auto", lines_of), ("null", strings_of), ("eof", lambda data: [data])],
    ids=["auto", "null", "eof"],
)
def test_stream_of_any_bytes_is_decoded_and_nothing_is_lost(
    address: str,
    made: list[tuple[bytes, list[bytes]]],
    framing: Framing,
    messages_in: Callable[[bytes], list[bytes]],
) -> None:
    with mpsr.Receiver(address, framing=framing, decode=mpsr.syslog) as receiver:
        for data, parts in made:
            expected = messages_in(OPENING + data)
            thread = sent(address, socket.SOCK_STREAM, [OPENING, *parts])
            assert received(receiver, len(expected)) == expected
            thread.join()
        stats = receiver.stats()
    assert (stats.rejected, stats.discarded, stats.lost) == (0, 0, 0)


@pytest.mark.parametrize("framing", ["packet", "auto"])
@pytest.mark.parametrize("kind", ["dgram", "seqpacket"])
def test_packets_of_any_bytes_are_decoded_and_none_is_lost(
    address: str, made: list[tuple[bytes, list[bytes]]], framing: Framing, kind: SocketType
) -> None:
    """With "auto" a message may lose what clients put around it: a length, a line's end, a NUL."""
    with mpsr.Receiver(address, type=kind, framing=framing, decode=mpsr.syslog) as receiver:
        for _, packets in made:
            expected = [OPENING, *packets]
            thread = sent(address, SOCKET_TYPES[kind], expected)
            found = received(receiver, len(expected))
            thread.join()
            for packet, message in zip(expected, found, strict=True):
                around = packet.replace(message, b"", 1)
                assert packet == message or (framing == "auto" and AROUND.fullmatch(around))
        stats = receiver.stats()
    assert (stats.rejected, stats.discarded, stats.lost) == (0, 0, 0)
