"""Turn what a receiver tells of itself, again and again, into rates and their history."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeAlias

    from mpsr.observe import ProducerSeen, Status

    Key: TypeAlias = tuple[object, ...]

HISTORY: Final = 60  # looks kept for sparklines: as many as a wide screen shows
_SHORTEST: Final = 0.05  # seconds between two looks: a shorter time gives no rate


class Rates(NamedTuple):
    """Messages and bytes a second, now and before; the newest is the last."""

    messages: Sequence[float]
    nbytes: Sequence[float]

    @property
    def messages_now(self) -> float:
        """Messages a second."""
        return self.messages[-1] if self.messages else 0.0

    @property
    def bytes_now(self) -> float:
        """Bytes a second."""
        return self.nbytes[-1] if self.nbytes else 0.0


class Row(NamedTuple):
    """One connection of a producer."""

    key: Key
    seen: ProducerSeen
    rates: Rates


class _Line:
    """What is known of one counter pair over time."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._messages: deque[float] = deque(maxlen=HISTORY)
        self._bytes: deque[float] = deque(maxlen=HISTORY)

    def take(self, messages: int, nbytes: int, seconds: float | None, *, fresh: bool) -> None:
        """Take the counters of now; ``fresh`` says that they began at zero since the last look."""
        before = (0, 0) if fresh and self._last is None else self._last
        self._last = (messages, nbytes)
        if before is None or seconds is None:
            return
        self._messages.append(max(0, messages - before[0]) / seconds)
        self._bytes.append(max(0, nbytes - before[1]) / seconds)

    @property
    def rates(self) -> Rates:
        return Rates(tuple(self._messages), tuple(self._bytes))


class Model:
    """What has been seen of a receiver.

    Attributes:
        status: the last document; None before the first.
        rows: the producers' connections, in the receiver's order.
        total: what was received.

    """

    def __init__(self) -> None:
        self.status: Status | None = None
        self.rows: list[Row] = []
        self.total: Rates = Rates((), ())
        self._lines: dict[Key, _Line] = {}
        self._whole = _Line()

    def take(self, status: Status) -> None:
        """Take the next document; one of a new process begins everything anew."""
        before = self.status
        if before is not None and (before["pid"], before["started"]) != (
            status["pid"],
            status["started"],
        ):
            self.__init__()  # type: ignore[misc]
            before = None
        seconds = None if before is None else status["now"] - before["now"]
        if seconds is not None and seconds < _SHORTEST:
            return
        stats = status["stats"]
        self._whole.take(int(stats["messages"]), int(stats["nbytes"]), seconds, fresh=False)
        self.total = self._whole.rates
        lines: dict[Key, _Line] = {}
        rows = []
        for each in status["producers"]:
            key: Key = (each["id"], each["pid"], each["address"], round(each["connected"], 1))
            while key in lines:  # foreign ones of one process, opened in one moment
                key = (*key, None)
            line = lines[key] = self._lines.get(key) or _Line()
            fresh = before is not None and each["connected"] >= before["now"] - _SHORTEST
            line.take(each["messages"], each["bytes"], seconds, fresh=fresh)
            rows.append(Row(key, each, line.rates))
        self._lines, self.rows, self.status = lines, rows, status


def _text(value: str | None) -> str:
    return (value or "").lower()


COLUMNS: Final[Mapping[str, tuple[Callable[[Row], tuple[object, ...]], bool]]] = {
    "messages": (lambda row: (row.rates.messages_now, row.seen["messages"]), True),
    "bytes": (lambda row: (row.rates.bytes_now, row.seen["bytes"]), True),
    "unacknowledged": (lambda row: (row.seen["unacknowledged"],), True),
    "lost": (lambda row: (row.seen["lost"],), True),
    "pid": (lambda row: (row.seen["pid"] or 0,), False),
    "name": (lambda row: (_text(row.seen["name"]),), False),
    "uid": (lambda row: (-1 if row.seen["uid"] is None else row.seen["uid"],), False),
    "label": (lambda row: (_text(row.seen["label"]),), False),
}
"""What can be sorted by: the value to compare, and whether the largest comes first."""


def shown(rows: Iterable[Row], *, sort: str, backwards: bool = False, text: str = "") -> list[Row]:
    """Return the rows that hold a text, whatever its case, sorted by a column."""
    value, largest_first = COLUMNS[sort]
    wanted = text.lower()
    found = [row for row in rows if not wanted or any(wanted in part for part in _words(row))]
    found.sort(key=value, reverse=largest_first != backwards)
    return found


def _words(row: Row) -> tuple[str, ...]:
    seen = row.seen
    numbers = (str(seen["pid"]), str(seen["uid"]))
    words = (seen["name"], seen["label"], seen["address"], seen["framing"], seen["id"])
    return (*numbers, *map(_text, words))
