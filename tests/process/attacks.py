"""Attack a receiver, in the ways of somebody who may connect and means ill."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from fcntl import ioctl
from itertools import count, cycle
from termios import FIONREAD
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr.limits import KIB, MAX_CONNECTIONS, MAX_MESSAGE, MAX_PRODUCERS, MAX_UNPLACED
from mpsr.wire.frames import HEADER, PREFACE, FrameType, Hello, Lost, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_DESCRIPTORS: Final = 253  # that one message carries: SCM_MAX_FD of the kernel
STEP: Final = 0.002  # seconds between two looks at the clock
U32: Final = 0xFFFF_FFFF
TRICKLE: Final = 1.0  # seconds between two bytes


class Arena:
    """What an attacker sees: where to attack, how often, and when to end."""

    identity: bytes = b""
    """The producer id of an honest producer."""

    def __init__(self, address: str, quota: int, rate: float) -> None:
        self.address = address
        self._quota = quota
        self._rate = rate
        self._began = time.monotonic()
        self._done = 0

    def note(self, done: int) -> None:
        """Tell somebody what is done."""

    def note_finished(self) -> None:
        """Tell somebody that all is done."""

    def ceases(self) -> bool:
        """Tell whether to end."""
        return False

    def turns(self) -> Iterator[int]:
        """Count the turns, each at its time, until all are done or somebody ends it."""
        for turn in count():
            if (self._quota and turn >= self._quota) or self.ceases():
                return
            while self._rate and turn >= self._rate * (time.monotonic() - self._began):
                time.sleep(STEP)
                if self.ceases():
                    return
            yield turn

    def finish(self) -> None:
        """Note that all is done, and keep what is open until somebody ends it."""
        self.note_finished()
        while not self.ceases():
            time.sleep(STEP)

    def did(self, more: int = 1) -> None:
        """Note that something was done."""
        self._done += more
        self.note(self._done)

    def connect(self, first: bytes = b"", *, blocking: bool = False) -> socket.socket | None:
        """Return a new connection that has sent its first bytes; None if there is no room."""
        try:
            sock = socket.socket(socket.AF_UNIX)
        except OSError:
            return None
        sock.setblocking(blocking)
        try:
            sock.connect(self.address)
            if first:
                sock.sendall(first)
        except BlockingIOError:  # the backlog is full
            sock.close()
            time.sleep(STEP)
            return None
        except OSError:  # it was closed already
            pass
        return sock


def tell(sock: socket.socket, data: bytes) -> bool:
    """Send what the kernel takes at once; return False if the connection is over."""
    try:
        sock.send(data)
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


def hello(lowest: int = 0, *, producer_id: bytes = b"") -> bytes:
    """Return the beginning of a native connection, of a new producer if none is named."""
    return PREFACE + encode(Hello(producer_id or os.urandom(16), lowest, "hostile"))


def batch(first: int) -> bytes:
    """Return a frame of one message; its number may be one that there cannot be."""
    body = b"hostile"
    payload = struct.pack("<QIIII", first, 1, 0, 0, len(body)) + body
    return HEADER.pack(len(payload), FrameType.BATCH, 0, 0) + payload


# -- connections that say nothing, or little ----------------------------------------------------


def be_silent(arena: Arena) -> None:
    """Open connections, say nothing and keep them; then wait."""
    held: deque[socket.socket] = deque()
    for _ in arena.turns():
        sock = arena.connect()
        if sock is not None:
            held.append(sock)
            arena.did()
        while held and over(held[0]):
            held.popleft().close()
    arena.finish()


def over(sock: socket.socket) -> bool:
    """Tell whether a connection was closed at the other end."""
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def trickle(arena: Arena) -> None:
    """Send a byte a second on each of many connections: of a preface, of a frame, of a line."""
    header = HEADER.pack(MAX_MESSAGE, FrameType.BATCH, 0, 0)
    begun: dict[socket.socket, Iterator[int]] = {}
    for turn in arena.turns():
        first, slow = ((b"", PREFACE), (hello() + header, bytes(1)), (b"", b"line"))[turn % 3]
        sock = arena.connect(first)
        if sock is not None:
            begun[sock] = cycle(slow)
            arena.did()
    arena.note_finished()
    while not arena.ceases():
        for sock, stream in list(begun.items()):
            if tell(sock, bytes([next(stream)])):
                arena.did()
            else:
                del begun[sock]
                sock.close()
        wake = time.monotonic() + TRICKLE
        while time.monotonic() < wake and not arena.ceases():
            time.sleep(STEP)


# -- lengths and numbers ------------------------------------------------------------------------


def openings(arena: Arena, make: Callable[[int], bytes], *, answered: bool = True) -> None:
    """Open a connection for each of these beginnings, and close it, at most some turns later."""
    held: deque[socket.socket] = deque()
    for turn in arena.turns():
        sock = arena.connect(make(turn), blocking=answered)
        if sock is None:
            continue
        arena.did()
        held.append(sock)
        if len(held) > 16:
            held.popleft().close()
    for sock in held:
        sock.close()


def claim_lengths(arena: Arena) -> None:
    """Announce the longest frame, and the longest message, that there can be."""
    longest = struct.pack(">I", U32)
    beginnings = [
        PREFACE + HEADER.pack(U32, FrameType.HELLO, 0, 0),
        PREFACE + HEADER.pack(U32, FrameType.BATCH, 0, 0),
        b"",  # a frame behind a HELLO, whose id is always another
        b"\0\0\0\1x" + longest,
        longest,
        b"\0" + longest[1:],
    ]
    frame = HEADER.pack(U32, FrameType.BATCH, 0, 0)
    openings(arena, lambda turn: beginnings[turn % len(beginnings)] or hello() + frame)


def leave_gaps(arena: Arena) -> None:
    """Leave gaps in sequence numbers, and go to where they end."""
    highest = 1 << 63
    last = (1 << 64) - 1

    def make(turn: int) -> bytes:
        return (
            hello() + batch(5),
            hello() + batch(highest),
            hello() + batch(last),
            hello(highest) + batch(highest),
            hello(last) + batch(last),
            hello(last - 1) + batch(last - 1) + batch(last),
            hello() + encode(Lost(0, last, 1)) + batch(last),
            hello() + encode(Lost(highest, highest, 1)),
            hello(last) + batch(0),
        )[turn % 9]

    openings(arena, make)


def impersonate(arena: Arena) -> None:
    """Speak as an honest producer, with its id, but as another user."""

    def make(turn: int) -> bytes:
        lowest = (0, 1 << 63, (1 << 64) - 1)[turn % 3]
        return hello(lowest, producer_id=arena.identity) + batch(lowest)

    openings(arena, make)


def come_and_go(arena: Arena) -> None:
    """Connect and close."""
    for _ in arena.turns():
        sock = arena.connect(blocking=True)
        if sock is not None:
            sock.close()
            arena.did()


# -- who never reads ----------------------------------------------------------------------------


class Deaf:
    """A native connection that sends and never reads."""

    def __init__(self, arena: Arena) -> None:
        self.socket = arena.connect(hello())
        self.sent = 0
        self._unread = 0
        self._since = 0

    def send(self) -> bool:
        """Send one message; return False if the connection is over."""
        if self.socket is None:
            return False
        try:
            self.socket.send(batch(self.sent))
        except BlockingIOError:  # the receiver has more to read than it likes
            return True
        except OSError:
            return False
        self.sent += 1
        return True

    def is_full(self) -> bool:
        """Tell whether no acknowledgement has come for the last 100 messages: there is no room."""
        size = bytearray(4)
        if self.socket is not None:
            ioctl(self.socket, FIONREAD, size)
        unread = int.from_bytes(size, sys.byteorder)
        if unread != self._unread:
            self._unread, self._since = unread, self.sent
        return self.sent - self._since >= 100

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


def never_read(arena: Arena, *, garbage: bool = False) -> None:
    """Send batches on ten connections, and read nothing."""
    deaf = [Deaf(arena) for _ in range(10)]
    for turn in arena.turns():
        place = turn % len(deaf)
        each = deaf[place]
        ended = not each.send()
        arena.did()
        if garbage and each.socket is not None:
            if place % 2 == 0:
                ended = ended or each.is_full()
            elif each.sent == 100:
                ended = True
                with suppress(OSError):
                    each.socket.shutdown(socket.SHUT_RD)
            if ended:
                tell(each.socket, b"garbage!" * 8)
        if ended:
            deaf[place] = Deaf(arena)
            each.close()
    arena.finish()


def send_garbage(arena: Arena) -> None:
    """Read nothing, then send garbage: there is no room for its REJECT, or nobody to read it."""
    never_read(arena, garbage=True)


# -- descriptors --------------------------------------------------------------------------------


def pass_descriptors(arena: Arena) -> None:
    """Pass as many descriptors as a message carries, again and again."""
    reader, writer = os.pipe()
    descriptors = [writer] * MOST_DESCRIPTORS
    sock = arena.connect(hello(), blocking=True)
    for turn in arena.turns():
        if sock is None:
            sock = arena.connect((hello(), b"line\n", b"text", b"")[turn % 4], blocking=True)
            continue
        try:
            socket.send_fds(sock, [b"x"], descriptors)
        except PermissionError:  # the kernel refuses them
            pass
        except OSError:  # the connection was closed, or too many are on their way
            sock.close()
            sock = None
        arena.did()
    os.close(reader)
    os.close(writer)


# -- what is not whole --------------------------------------------------------------------------


def begin_frames(arena: Arena) -> None:
    """Send the longest frame that is taken on each connection, but for its last byte."""
    held = []
    head = struct.pack("<QIIII", 0, 1, 0, 0, MAX_MESSAGE)
    frame = HEADER.pack(len(head) + MAX_MESSAGE, FrameType.BATCH, 0, 0) + head
    body = bytes(64 * KIB)
    for _ in arena.turns():
        sock = arena.connect(hello() + frame, blocking=True)
        if sock is None:
            continue
        with suppress(OSError):
            for begin in range(0, MAX_MESSAGE, len(body)):
                sock.sendall(body[: min(len(body), MAX_MESSAGE - 1 - begin)])
        held.append(sock)
        arena.did()
    arena.finish()


# -- all of them --------------------------------------------------------------------------------


class Bound(NamedTuple):
    """What bounds the memory that an attack takes: limits, and what each costs."""

    name: str
    nbytes: int


class Attack(NamedTuple):
    """One way to attack, and what it may cost."""

    run: Callable[[Arena], None]
    unit: str
    """What is counted."""
    rate: float
    """How many a second, where it is paced; as many as it can, if it is 0."""
    quick: int
    """How many there are in the quick version; 0 for as many as there is time for."""
    full: int
    """How many there are in the full version."""
    bound: Bound
    least: float = 3.0
    """Seconds that the full version takes at least."""
    descriptors: int = 0
    """The receiver's RLIMIT_NOFILE, if it is another than the machine's."""
    spare_descriptors: int = 0
    """How many descriptors the receiver has left once it is made, if that matters."""
    refuses: bool = True
    """Whether the kernel refuses descriptors that a peer passes."""
    breaks: str = ""
    """Why it breaks a bound, if it does."""


FEW: Final = 128  # descriptors of a receiver
FRAMES: Final = 32  # connections that begin the longest frame
ANY: Final = Bound("MAX_MESSAGE", MAX_MESSAGE)
PLACES: Final = Bound("MAX_CONNECTIONS, 16 KiB each", MAX_CONNECTIONS * 16 * KIB)
PRODUCERS: Final = Bound("MAX_PRODUCERS, 320 B each", MAX_PRODUCERS * 320)
WHOLE: Final = Bound(f"{FRAMES + 1} of MAX_MESSAGE", (FRAMES + 1) * MAX_MESSAGE)
CROWD: Final = MAX_CONNECTIONS + MAX_UNPLACED + 16
NEARLY: Final = "to accept, refuse and close so many takes up to a fourth of the receiver's time"
ATTACKS: Final[dict[str, Attack]] = {
    "silent connections": Attack(
        be_silent, "connections", 3000, MAX_CONNECTIONS - FEW, CROWD, PLACES
    ),
    "silent connections, ever more": Attack(be_silent, "connections", 1000, 0, 0, PLACES, least=5),
    "a byte a second": Attack(trickle, "bytes", 1000, 300, 300, PLACES, least=12),
    "lengths of 0xFFFFFFFF": Attack(claim_lengths, "connections", 500, 150, 3000, ANY),
    "never reads": Attack(never_read, "batches", 5000, 0, 0, ANY, least=10),
    "garbage, never reads": Attack(send_garbage, "batches", 5000, 1500, 25_000, ANY),
    "silent, few descriptors": Attack(
        be_silent, "connections", 2000, FEW, 2 * FEW, ANY, descriptors=FEW
    ),
    "silent, few descriptors, ever more": Attack(
        be_silent, "connections", 1000, 0, 0, ANY, least=5, descriptors=FEW
    ),
    "silent, no descriptors left": Attack(
        be_silent, "connections", 2000, 0, 0, ANY, spare_descriptors=40, breaks=NEARLY
    ),
    "253 descriptors": Attack(pass_descriptors, "sends", 1000, 300, 1000, ANY),
    "253 descriptors, older kernel": Attack(
        pass_descriptors, "sends", 1000, 300, 1000, ANY, refuses=False
    ),
    "gaps and high numbers": Attack(
        leave_gaps, "connections", 500, 150, 3000, PRODUCERS, breaks=NEARLY
    ),
    "another's producer id": Attack(
        impersonate, "connections", 500, 150, 3000, PRODUCERS, breaks=NEARLY
    ),
    "connect and close": Attack(come_and_go, "connections", 2000, 700, 50_000, ANY),
    "frames that are not whole": Attack(begin_frames, "connections", 0, 0, FRAMES, WHOLE),
}
