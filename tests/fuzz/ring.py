"""Read a ring that a hostile peer writes to: between the calls, and before any access in them.

The accesses in a call are hooked in the build for fuzzing only (hostile.h); elsewhere what the
peer writes meanwhile is written before the call.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from mpsr.system import ring
from tests.fuzz.feeding import Source

if TYPE_CHECKING or ring.AVAILABLE:
    from mpsr._speedups import _c

SIZE: Final = 4096  # bytes of data
HEAD, TAIL, READER_SLEEPS, WRITER_SLEEPS = 0, 64, 128, 192  # offsets in the control page
WIDTHS: Final = {HEAD: 8, TAIL: 8, READER_SLEEPS: 4, WRITER_SLEEPS: 4}
WORDS: Final = [HEAD, HEAD, HEAD, TAIL, READER_SLEEPS, WRITER_SLEEPS]
ENOUGH: Final = 4  # a part of the ring: with less room nobody is woken
BY_SOCKET, BY_FUTEX = 1, 2
MASK: Final = (1 << 64) - 1
MOST_CALLS: Final = 200
Write = tuple[int, int]  # an offset and a value


class Broken(Exception):
    """The counters cannot be true."""


class Model:
    """Says what a reader has to do, and what is then in the control page."""

    def __init__(self) -> None:
        self.words: dict[int, int] = dict.fromkeys(WIDTHS, 0)
        self.own = self.other = 0
        self.script: deque[Write | None] = deque()

    def peer_writes(self) -> None:
        if self.script:
            write = self.script.popleft()
            if write is not None:
                self.words[write[0]] = write[1]

    def load(self, word: int) -> int:
        self.peer_writes()
        return self.words[word]

    def store(self, word: int, value: int) -> None:
        self.peer_writes()
        self.words[word] = value

    def look(self) -> int:
        before = self.other - self.own & MASK
        head = self.load(HEAD)
        filled = head - self.own & MASK
        if filled > SIZE or filled < before:
            raise Broken
        self.other = head
        return filled

    def look_or_sleep(self) -> int:
        filled = self.look()
        if filled:
            return filled
        self.store(READER_SLEEPS, 1)
        filled = self.look()
        if not filled:
            raise BlockingIOError
        self.store(READER_SLEEPS, 0)
        return filled

    def take(self, most: int) -> int:
        """Return how many bytes are taken."""
        taken = min(self.look_or_sleep(), most)
        self.own = self.own + taken & MASK
        self.store(TAIL, self.own)
        return taken

    def wake_writer(self) -> bool:
        if not self.load(WRITER_SLEEPS):
            return False
        if SIZE - self.look() < SIZE // ENOUGH:
            return False
        sleeps = self.load(WRITER_SLEEPS)
        self.words[WRITER_SLEEPS] = 0
        return sleeps not in (0, BY_FUTEX)


class Peer:
    """The hostile end: it has the memory mapped, and a script for the next call."""

    def __init__(self, descriptor: int) -> None:
        self.memory = mmap.mmap(descriptor, _c.CONTROL + SIZE)
        self._page = ctypes.c_char.from_buffer(self.memory)
        self._script: Any = None
        self._play: Any = getattr(ctypes.CDLL(_c.__file__), "mpsr_fuzz_script", None)
        self.hooked = self._play is not None

    def write(self, at: int, value: int) -> None:
        self.memory[at : at + WIDTHS[at]] = value.to_bytes(WIDTHS[at], "little")

    def play(self, script: list[Write | None]) -> None:
        """Have these written during the next call."""
        words = [(write[0], WIDTHS[write[0]], write[1]) if write else (0, 0, 0) for write in script]
        flat = [number for word in words for number in word]
        self._script = (ctypes.c_uint64 * len(flat))(*flat)
        self._play(ctypes.byref(self._page), self._script, ctypes.c_size_t(len(script)))

    @property
    def data(self) -> bytes:
        return self.memory[_c.CONTROL :]

    def close(self) -> None:
        if self.hooked:
            self._play(None, None, ctypes.c_size_t(0))
        del self._page
        self.memory.close()


class Match:
    """A reader, its peer, and the model that says what the reader should do."""

    def __init__(self, descriptor: int, source: Source) -> None:
        self.source = source
        self.peer = Peer(descriptor)
        self.reader = _c.Reader(descriptor, SIZE)
        self.model = Model()

    def write(self, width: int) -> Write:
        """Return something for the peer to write: a counter mostly near the reader's own."""
        kind = self.source.number()
        at = WORDS[kind % len(WORDS)]
        if at == HEAD and kind & 64:
            return at, self.source.number(8) & MASK
        if at == HEAD:
            return at, self.model.own + self.source.number(2) % (SIZE + 2) & MASK
        return at, self.source.number(width) & (1 << 8 * WIDTHS[at]) - 1

    def script(self, count: int) -> None:
        """Have something written before some of the next accesses."""
        script = [self.write(1) if self.source.number() & 1 else None for _ in range(count)]
        if self.peer.hooked:
            self.model.script = deque(script)
            self.peer.play(script)
            return
        for write in script:
            if write is not None:
                self.model.words[write[0]] = write[1]
                self.peer.write(*write)

    def expected(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except (Broken, BlockingIOError) as exc:
            return ValueError if isinstance(exc, Broken) else BlockingIOError

    def got(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except BlockingIOError:
            return BlockingIOError
        except ValueError as exc:
            return ValueError if "counters" in str(exc) else exc

    def step(self) -> None:
        """Do one thing, and compare."""
        kind = self.source.number()
        if kind & 8:
            self.script(kind >> 4 & 7)
        match kind % 8:
            case 0 | 1:
                at, value = self.write(8)
                self.model.words[at] = value
                self.peer.write(at, value)
            case 2:
                at = _c.CONTROL + self.source.number(2) % SIZE
                piece = self.source.take(self.source.number())[: _c.CONTROL + SIZE - at]
                self.peer.memory[at : at + len(piece)] = piece
            case 3 | 4:
                self.receive(1 + self.source.number(2))
            case 5:
                self.receive_into([self.source.number(2) % 6000 for _ in range(kind >> 5)])
            case 6:
                assert self.got(self.reader.wake_writer) == self.expected(self.model.wake_writer)
            case _:
                assert self.got(self.reader.filled) == self.expected(self.model.look)
        self.model.script.clear()
        if self.peer.hooked:
            self.peer.play([])
        words = {
            at: int.from_bytes(self.peer.memory[at : at + width], "little")
            for at, width in WIDTHS.items()
        }
        assert words == self.model.words

    def receive(self, most: int) -> None:
        own, data = self.model.own, self.peer.data * 2
        taken = self.expected(self.model.take, most)
        if isinstance(taken, int):
            taken = data[own % SIZE :][:taken]
        assert self.got(self.reader.recv, most) == taken

    def receive_into(self, sizes: list[int]) -> None:
        own, data = self.model.own, self.peer.data * 2
        rooms = [bytearray(size) for size in sizes]
        taken = self.expected(self.model.take, sum(sizes))
        assert self.got(self.reader.recv_into, rooms) == taken
        if isinstance(taken, int):
            assert b"".join(rooms)[:taken] == data[own % SIZE :][:taken]
            assert not any(b"".join(rooms)[taken:])


def run(data: bytes) -> None:
    """Play what the input says."""
    if not ring.AVAILABLE:
        return
    descriptor = os.memfd_create("mpsr-fuzz", os.MFD_CLOEXEC)
    try:
        os.truncate(descriptor, _c.CONTROL + SIZE)
        source = Source(data)
        match = Match(descriptor, source)
        start = source.number(8) if source.number() & 1 else 0
        if start:
            _go_on_at(match, start)
        for _ in range(MOST_CALLS):
            if not source:
                break
            match.step()
        match.reader.close()
        match.peer.close()
    finally:
        os.close(descriptor)


def _go_on_at(match: Match, start: int) -> None:
    """Have the ring go round a few times, as a long-lived one has."""
    for _ in range(start % 4):
        head = match.model.own + SIZE - start % 64
        match.model.words[HEAD] = head
        match.peer.memory[HEAD : HEAD + 8] = struct.pack("<Q", head)
        match.receive(SIZE)
