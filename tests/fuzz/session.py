"""Feed a receiver a native connection: C and Python understand the same, however it is cut."""

from __future__ import annotations

from itertools import cycle
from typing import Any, Final, Literal

from tests.fuzz.feeding import MOST_PIECES, Source
from tests.fuzz.trees import TREES, Tree, same

UID: Final = 1000
PRODUCER_ID: Final = bytes(range(16))
LIMITS: Final = [1, 100, 20_000, 1 << 20]  # bytes: largest messages to try
HEADER: Final = 8  # bytes of a frame
BEYOND: Final = 24  # bytes of a batch beside its message
CONTROL: Final = 4096  # bytes of the largest frame that is no batch
RING: Final = 1 << 20  # bytes


class Setting:
    """What a receiver is, and what it knows of the producer."""

    def __init__(self, source: Source) -> None:
        kind = source.number()
        self.framing: Literal["auto", "native"] = "auto" if kind & 1 else "native"
        self.max_message = LIMITS[kind >> 1 & 3]
        self.in_place = bool(kind & 8)  # whether large frames are read into their places
        self.runs = bool(kind & 16)
        self.ends = bool(kind & 32)
        self.gives_ring = bool(kind & 64)
        self.known = source.number() if kind & 128 else None
        self.sizes = source.sizes()
        self.stream = source.rest(runs=self.runs)


class End:
    """A receiving session of one tree, and all that it told."""

    def __init__(self, tree: Tree, setting: Setting) -> None:
        self.tree = tree
        self.setting = setting
        self.ledger = tree.ledger.Ledger()
        if setting.known is not None:
            identity = tree.batch.ProducerIdentity(PRODUCER_ID, "")
            state = self.ledger.open(UID, identity, 0, 0.0)
            state.expected_seq, state.accepted_seq = setting.known, setting.known // 2
            self.ledger.gone(state, 0.0, orderly=False)
        self.session = tree.receiving.ReceivingSession(
            setting.framing, max_message=setting.max_message
        )
        self.sent = b""
        self.error: tuple[int, str] | None = None
        self.moved: bool = False
        self.log: list[Any] = []  # what was told, step by step
        self.all: list[Any] = []  # the same, whatever the steps

    def feed(self, sizes: list[int]) -> None:
        """Take the stream in pieces of these sizes; check what holds at every moment."""
        stream, at = self.setting.stream, 0
        most = HEADER + max(self.setting.max_message + BEYOND, CONTROL)
        for step, size in enumerate(cycle(sizes or [len(stream)])):
            if at >= len(stream) or self.failed or self.moved:
                break
            end = len(stream) if step >= MOST_PIECES else at + size
            at += self._step(stream[at:end])
            failed = self.session.state.name == "FAILED"
            assert failed or self.session.pending <= most
            assert failed is self.failed
        if self.setting.ends:
            self._try(self.session.receive_eof)

    def _step(self, piece: bytes) -> int:
        """Take a piece, or as much as there is a place for; return how much."""
        rooms = self.session.wanted() if self.setting.in_place else []
        if not rooms:
            buffer = bytearray(piece)  # which is used again at once, as a shared one is
            given = piece if len(piece) % 2 else memoryview(buffer)
            self._try(self.session.receive_data, given)
            buffer[:] = b"\xee" * len(buffer)
            return len(piece)
        self.log.append([len(room) for room in rooms])
        filled = 0
        for room in rooms:
            part = piece[filled : filled + len(room)]
            room[: len(part)] = part
            filled += len(part)
            room.release()
        self._try(self.session.receive_wanted, filled)
        return filled

    def _try(self, take: Any, *data: Any) -> None:
        try:
            take(*data)
        except self.tree.errors.RemoteProtocolError as exc:
            self.error = int(exc.code), str(exc)
        self._settle()

    def _settle(self) -> None:
        hello = None
        for event in self.session.events_received():
            kind = type(event).__name__
            if kind == "Batch":
                self._take(event)
                continue
            self._tell((kind, tuple(event)))
            hello = event if kind == "Hello" else hello
            if kind == "Move":
                self.moved = True
        if hello is not None:
            self._greet(hello)
        out = self.session.data_to_send()
        self.sent += out
        self.log.append((out, self.error, self.session.state.name, self.session.pending))
        self.log.append((self.session.settled, self.session.apart, self.session.framing))

    def _greet(self, hello: Any) -> None:
        try:
            identity = self.tree.batch.ProducerIdentity(hello.producer_id, hello.label)
            state = self.ledger.open(UID, identity, hello.lowest_seq, 0.0)
            self.session.welcome(state)
            if self.setting.gives_ring and self.session.state.name == "OPEN":
                self.session.give_ring(RING)
        except self.tree.errors.RemoteProtocolError as exc:
            self.error = int(exc.code), str(exc)
        self._settle()

    def _take(self, batch: Any) -> None:
        bodies = list(batch)
        assert len(batch) == len(bodies)
        assert batch.raw == bodies
        assert batch.nbytes == sum(map(len, bodies))
        assert batch.lost or bodies, "an event that says nothing"
        self.log.append((batch.first_seq, batch.lost, bodies))
        if batch.lost:
            self._tell(("lost", batch.lost))
        if bodies:
            self._tell(("messages", batch.first_seq, bodies))

    def _tell(self, what: tuple[Any, ...]) -> None:
        """Note an event, as one with the last where only the cut parts them."""
        self.log.append(what)
        last: tuple[Any, ...] = self.all[-1] if self.all else ("nothing",)
        if what[0] == last[0] == "lost":
            self.all[-1] = ("lost", last[1] + what[1])
        elif what[0] == last[0] == "messages":
            assert what[1] == last[1] + len(last[2])
            self.all[-1] = ("messages", last[1], last[2] + what[2])
        else:
            self.all.append(what)

    @property
    def failed(self) -> bool:
        """Whether the format was broken."""
        return self.error is not None

    @property
    def outcome(self) -> tuple[Any, ...]:
        """What must not depend on how the stream is cut."""
        return self.all, self.sent, self.error


def run(data: bytes) -> None:
    """Feed the stream to a receiver of each twin, and once more in one piece."""
    setting = Setting(Source(data))
    ends = [End(tree, setting) for tree in TREES]
    for end in ends:
        end.feed(setting.sizes)
    same([end.log for end in ends])
    if setting.sizes and not setting.gives_ring:
        whole = End(TREES[0], setting)
        whole.feed([])
        same([ends[0].outcome, whole.outcome])
