"""Write batches into a stream, each message exactly once."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final

from mpsr.errors import SinkError
from mpsr.json_format import host_name
from mpsr.sinks.nats import layout
from mpsr.sinks.nats.connection import Connection
from mpsr.sinks.nats.lane import Lane, Part
from mpsr.sinks.nats.publisher import RESERVE, publish
from mpsr.sinks.nats.stream import place_of, prepare
from mpsr.sinks.nats.subjects import Subjects
from mpsr.sinks.nats.thread import LoopThread

if TYPE_CHECKING:
    from mpsr.batch import Batch
    from mpsr.sinks.nats.address import Target

_MOST_FLYING: Final = 16  # batches under way: of a stream's 50 others need some, too
_MOST_LANES: Final = 10_000  # subjects of which we remember where they stand


class NatsSink:
    """Publishes atomic batches, whose last message says up to which position a subject has all.

    The server takes a batch only if the last message of the subject is the one that we know: so
    one that was sent and is not known to have arrived can never come a second time.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._subjects = Subjects(target.subject)
        self._host = host_name()
        self._with_origin = target.options.get("origin") != "none"
        self._pack: int = target.options.get("pack", 0)
        self._journal = ""
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self._flying: deque[Lane] = deque()
        self._thread: LoopThread | None = None
        self._connection = Connection(target)

    def open(self, journal: str) -> int | None:
        """Connect; return the position of the last message of the subject, if there is one."""
        self._journal = journal
        self._thread = thread = LoopThread(f"mpsr sink {self._target}")
        thread.call(self._connection.open())
        thread.call(prepare(self._connection, self._target))
        if self._subjects.fixed is None or not journal:
            return None
        return self._lane(self._subjects.fixed).known or None

    def write(self, batch: Batch[Any]) -> None:
        """Publish what is full, and keep the rest."""
        lane = self._lane(self._subjects.of(batch))
        if batch.position is None:
            skip = 0
        else:
            skip = max(0, lane.known - batch.position + (len(batch) or 1))
        if skip >= (len(batch) or 1):
            return
        who = layout.who(batch, self._host) if self._with_origin else ""
        if not batch:
            self._make_room(lane)
            lane.add(Part(batch, who, [], batch.first_seq, batch.lost, batch.position), 0)
            return
        bodies = list(batch.iter_raw())
        largest = self._connection.client.max_payload - RESERVE - len(who)
        while skip < len(bodies):
            self._make_room(lane)
            end = _end(bodies, skip, lane.room, min(lane.room_bytes, largest), largest)
            if end == skip:
                self._refuse(batch, bodies, skip, largest)
            position = None
            if batch.position is not None:
                position = batch.position - len(bodies) + end
            lost = 0 if skip else batch.lost
            part = Part(batch, who, bodies[skip:end], batch.first_seq + skip, lost, position)
            lane.add(part, largest)
            skip = end

    def commit(self) -> None:
        """Publish the rest, and wait until all is acknowledged."""
        for lane in self._lanes.values():
            if not lane.empty:
                self._send(lane)
        while self._flying:
            self._settle(self._flying[0])

    def close(self) -> None:
        """Close the connection; a server that hangs holds it up for a second at most."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.call(self._connection.close())
            thread.close()

    # -- publishing -----------------------------------------------------------------------------

    @property
    def _loop(self) -> LoopThread:
        if self._thread is None:
            raise SinkError("it is not open")
        return self._thread

    def _lane(self, subject: str) -> Lane:
        lane = self._lanes.get(subject)
        if lane is not None:
            self._lanes.move_to_end(subject)
            return lane
        last, known = None, None
        if self._journal:
            last, known = self._loop.call(place_of(self._connection, subject, self._journal))
        lane = self._lanes[subject] = Lane(subject, last, known or 0, self._pack)
        while len(self._lanes) > _MOST_LANES:
            _, oldest = self._lanes.popitem(last=False)
            if not oldest.empty:
                self._send(oldest)
            self._settle(oldest)
        return lane

    def _make_room(self, lane: Lane) -> None:
        if not lane.room:
            self._send(lane)

    def _send(self, lane: Lane) -> None:
        """Publish a subject's batch, once the one before is acknowledged."""
        self._settle(lane)
        while len(self._flying) >= _MOST_FLYING:
            self._settle(self._flying[0])
        more = {}
        if self._journal:
            more = {
                layout.JOURNAL: self._journal,
                layout.POSITION: str(lane.position),
                layout.PREVIOUS: str(lane.last),
            }
        lane.flying = lane.position
        lane.flight = self._loop.begin(
            publish(
                self._connection,
                self._target.stream,
                lane.take(),
                expected=lane.last,
                more=more,
            )
        )
        self._flying.append(lane)

    def _settle(self, lane: Lane) -> None:
        """Wait until a subject's batch is acknowledged."""
        if lane.flight is None:
            return
        self._flying.remove(lane)
        flight, lane.flight = lane.flight, None
        last = flight.result()
        if self._journal:
            lane.last, lane.known = last, lane.flying or 0

    def _refuse(self, batch: Batch[Any], bodies: list[bytes], index: int, largest: int) -> None:
        self.commit()
        where = batch.first_seq + index
        if batch.position is not None:
            where = batch.position - len(bodies) + 1 + index
        raise SinkError(
            f"message {where} has {len(bodies[index])} bytes, and the server takes {largest}: "
            "raise its max_payload; until then this and what follows waits"
        )


def _end(bodies: list[bytes], begin: int, count: int, nbytes: int, largest: int) -> int:
    """Return how far messages go together: so many, so many bytes, and none that is too large."""
    size, end = 0, begin
    for body in bodies[begin : begin + count]:
        length = len(body)
        if length > largest or (size and size + length > nbytes):
            break
        size += length
        end += 1
    return end
