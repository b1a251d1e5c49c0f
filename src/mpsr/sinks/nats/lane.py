"""Gather what is published to one subject, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpsr.batch import payload_of
from mpsr.sinks.nats import layout
from mpsr.sinks.nats.publisher import MOST, MOST_BYTES, AtomicBatch

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mpsr.batch import Batch

_HEAD: Final = 20  # bytes of a packed message, beside four for each message and its body


class Part(NamedTuple):
    """Messages of one batch that follow each other."""

    batch: Batch[Any]
    who: str
    """The lines of headers that say who sent it."""
    bodies: list[bytes]
    first_seq: int
    lost: int
    """How many messages were lost before the first."""
    position: int | None
    """Of the last; None without a journal."""

    @property
    def sender(self) -> object:
        """What tells the sender from all others; None where nothing does."""
        producer = self.batch.producer
        return None if producer is None else (producer.id, self.batch.peer)

    def whole_payload(self) -> bytes | None:
        """Return the messages as they were packed by their producer, if they are all of these."""
        payload = payload_of(self.batch)
        if payload is None or len(self.bodies) != len(self.batch):
            return None
        data = bytes(payload)
        return data if int.from_bytes(data[8:12], "little") == len(self.bodies) else None


class _Pack:
    """Messages that become one."""

    def __init__(self, part: Part) -> None:
        self.lines = part.who + _lost(part.lost)
        self.first_seq = part.first_seq
        self.bodies = list(part.bodies)
        self.nbytes = sum(map(len, self.bodies)) + 4 * len(self.bodies) + _HEAD
        self._part: Part | None = part

    def join(self, part: Part, most: int, largest: int) -> bool:
        """Take more, if it goes on with them and there is room; tell whether it did."""
        size = sum(map(len, part.bodies)) + 4 * len(part.bodies)
        follows = part.first_seq == self.first_seq + len(self.bodies) and not part.lost
        room = len(self.bodies) + len(part.bodies) <= most and self.nbytes + size <= largest
        if not (follows and room):
            return False
        self.bodies += part.bodies
        self.nbytes += size
        self._part = None
        return True

    def message(self) -> tuple[str, bytes]:
        """Return it, as headers and a body."""
        data = None if self._part is None else self._part.whole_payload()
        if data is None:
            data = layout.packed(self.bodies, self.first_seq)
        return f"{self.lines}{layout.PACKED}: {len(self.bodies)}\r\n", data


class Lane:
    """One subject: its open batch, the one that is on the way, and where the stream stands.

    Attributes:
        last: the number that its last message has in the stream; None if it does not matter.
        known: the position up to which the stream has everything; 0 if it has nothing.
        position: that of the last message in the open batch.
        flight: holds the number that the last message of the batch on the way will have.

    """

    def __init__(self, subject: str, last: int | None, known: int, pack: int) -> None:
        self.subject = subject
        self.last = last
        self.known = known
        self.position: int | None = None
        self.flight: Future[int] | None = None
        self.flying: int | None = None  # the position behind it
        self._pack = pack
        self._batch = AtomicBatch(subject)
        self._packs: list[_Pack] = []
        self._open: dict[object, _Pack] = {}
        self._nbytes = 0

    @property
    def room(self) -> int:
        """How many messages may be added at once; 0 if it is to be sent first."""
        if self._pack:
            full = len(self._packs) >= MOST or self._nbytes >= MOST_BYTES
            return 0 if full else self._pack
        return 0 if self._batch.full else MOST - self._batch.count

    @property
    def room_bytes(self) -> int:
        """How many bytes these may have, unless it is one."""
        return max(1, MOST_BYTES - (self._nbytes if self._pack else self._batch.nbytes))

    @property
    def empty(self) -> bool:
        """Whether nothing is to be sent."""
        return not self._packs and not self._batch.count

    def add(self, part: Part, largest: int) -> None:
        """Add messages, as many as there is room for; packed ones are ``largest`` at most."""
        self.position = part.position
        if self._pack and part.bodies:
            self._nbytes += sum(map(len, part.bodies))
            pack = self._open.get(part.sender) if part.sender is not None else None
            if pack is None or not pack.join(part, self._pack, largest):
                self._open[part.sender] = _Pack(part)
                self._packs.append(self._open[part.sender])
        elif self._pack:
            self._packs.append(_Loss(part))
        else:
            self._batch.add(_single(part))

    def take(self) -> AtomicBatch:
        """Return what is to be sent, and begin anew."""
        batch, self._batch = self._batch, AtomicBatch(self.subject)
        if self._packs:
            batch.add([each.message() for each in self._packs])
            self._packs, self._open, self._nbytes = [], {}, 0
        return batch


class _Loss(_Pack):
    """Messages that were lost, and nothing behind them."""

    def message(self) -> tuple[str, bytes]:
        return f"{self.lines}{layout.SEQ}: {self.first_seq}\r\n{layout.EMPTY}: 1\r\n", b""


def _lost(count: int) -> str:
    return f"{layout.LOST}: {count}\r\n" if count else ""


def _single(part: Part) -> list[tuple[str, bytes]]:
    """Return each message by itself, as headers and a body."""
    if not part.bodies:
        return [_Loss(part).message()]
    head, lost, seq = part.who, _lost(part.lost), part.first_seq
    messages = []
    for number, (body, claim) in enumerate(layout.apart(part.bodies), seq):
        messages.append((f"{head}{lost}{layout.SEQ}: {number}\r\n{claim}", body))
        lost = ""
    return messages
