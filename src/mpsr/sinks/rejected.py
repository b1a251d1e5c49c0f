"""Store the messages that a sink can never write, where they can be read and sent again."""

from __future__ import annotations

import os
import re
from math import inf
from typing import TYPE_CHECKING, Any, Final

from mpsr.batch import part_of, position_of
from mpsr.errors import ConfigurationError, MessageRejected, SinkError
from mpsr.json_format import to_json
from mpsr.limits import SINK_REMINDER
from mpsr.sinks.file import FileSink
from mpsr.sinks.records import json_lines
from mpsr.sinks.rotation import Rotation
from mpsr.system.clock import monotonic
from mpsr.system.outputs import PRIVATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mpsr.batch import Batch
    from mpsr.sinks.protocol import Sink
    from mpsr.sinks.table import NamedSink

_SUFFIX: Final = ".rejected"
_LONGEST: Final = 100  # characters of a sink's name in the name of a file
_UNSAFE: Final = re.compile(r"[^\w.-]+", re.ASCII)  # in the name of a file


def output_of(sink: Sink) -> str | None:
    """Return the path of the local file or directory that a sink writes; None if it has none."""
    output: str | None = getattr(sink, "output", None)
    return None if output is None else os.path.abspath(output)


def place_of(named: NamedSink, output: str | None, journal: str | None) -> str | None:
    """Return the path where messages that a sink rejects are stored; None to stop it instead.

    Args:
        named: the sink's options.
        output: the path of its local file or directory; None if it has none.
        journal: the path of the receiver's journal; None without one.

    Raises:
        ConfigurationError: They are to be stored, and there is no place for them.

    """
    if named.on_reject == "stop":
        return None
    if named.rejected is not None:
        return os.path.abspath(named.rejected)
    if output is not None:
        label = f".{_safe(named.label)}" if named.label else ""
        return f"{output}{label}{_SUFFIX}"
    if journal is not None:
        return f"{os.path.abspath(journal)}.{_safe(named.name)}{_SUFFIX}"
    if named.on_reject == "store":
        error = "there is no journal next to which rejected messages could be stored"
        raise ConfigurationError(f"{named.name}: on_reject=store: {error}; add rejected=FILE")
    return None


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name)[:_LONGEST]


def checked(batch: Batch[Any], rejection: MessageRejected) -> dict[int, str]:
    """Return the reason of each rejected message, by its index in this batch.

    Raises:
        SinkError: The batch has no such message, or none was named: the sink has a bug.

    """
    reasons = rejection.reasons
    wrong = [index for index in reasons if not 0 <= index < len(batch)]
    if wrong or not reasons:
        what = f"message {wrong[0]}" if wrong else "no message"
        raise SinkError(f"it rejected {what} of a batch of {len(batch)}: this is a bug in the sink")
    return dict(sorted(reasons.items()))


def rest_of(batch: Batch[Any], reasons: Mapping[int, str]) -> Iterator[Batch[Any]]:
    """Yield the messages that were not rejected, as batches that together keep the loss."""
    lost, begin = batch.lost, 0
    for end in (*reasons, len(batch)):
        if end > begin:
            yield part_of(batch, begin, end, lost=lost)
            lost = 0
        begin = end + 1
    if lost:  # no message is left to which it could be added
        yield part_of(batch, len(batch), len(batch), lost=lost)


class Rejections:
    """Stores, counts and reports the rejected messages of one sink.

    A line of the file is a message as the ``file:`` sink writes it, with ``sink`` and ``reason``.
    The file is open only while messages are added, so that anyone may move it away meanwhile. With
    a journal, its ``.position`` tells which messages it has had: none is stored twice.

    Args:
        name: the sink's.
        path: the file; None if a rejected message stops the sink.
        journal: the journal's id; "" without one.
        tell: is given a line to report.

    Attributes:
        path: as given.
        count: messages that were rejected.

    Raises:
        ConfigurationError: The path leads to something that is not a file of this user.

    """

    def __init__(
        self, name: str, path: str | None, journal: str, tell: Callable[[str], None]
    ) -> None:
        self.path = path
        self.count: int = 0
        self._name = name
        self._journal = journal
        self._tell = tell
        if path is not None:
            self._opened(path)
        self._told, self._told_at = 0, -inf
        self._stored: set[int] = set()  # without a journal: sequence numbers of the batch in hand

    def has_last(self, position: int) -> bool:
        """Return whether the message at this position is the last one that was stored."""
        if self.path is None or not os.path.exists(f"{self.path}.position"):
            return False
        file = self._opened(self.path)
        try:
            return file.open(self._journal) == position
        finally:
            file.close()

    def add(self, batch: Batch[Any], reasons: Mapping[int, str]) -> None:
        """Return once these messages are on the disk.

        Raises:
            SinkError: They cannot be stored now.
            MessageRejected: They are to stop the sink.

        """
        if self.path is None:
            raise MessageRejected(reasons)
        try:
            new = self._store(self.path, batch, reasons)
        except OSError as exc:
            error = f"a rejected message cannot be stored in {self.path}: {exc.strerror or exc}"
            raise SinkError(error) from exc
        self.count += len(new)
        if new and monotonic() > self._told_at + SINK_REMINDER:
            left = self.count - self._told - 1
            more = f"; {left} more were rejected" if left else ""
            self._report(f"rejected {described(batch, new[0])}: {reasons[new[0]]}{more}")

    def committed(self) -> None:
        """Record that the batch in hand is committed, and will not be given again."""
        self._stored.clear()

    def finish(self) -> None:
        """Report the messages that no line has reported yet."""
        if self.count > self._told:
            self._report(f"rejected {self.count} messages in all")

    def _report(self, what: str) -> None:
        self._told, self._told_at = self.count, monotonic()
        self._tell(f"{self._name} {what}; stored in {self.path}, and delivery continues")

    def _store(self, path: str, batch: Batch[Any], reasons: Mapping[int, str]) -> list[int]:
        """Store the messages that are not stored yet; return their indexes."""
        file = self._opened(path)
        try:
            stored = file.open(self._journal) or 0
            new = [index for index in reasons if not self._is_stored(batch, index, stored)]
            for index in new:
                more = to_json({"sink": self._name, "reason": reasons[index]})[1:-1]
                line = json_lines(part_of(batch, index, index + 1), more)
                file.append(line, position_of(batch, index))
            if new:
                file.commit()
        finally:
            file.close()
        if batch.position is None:
            self._stored.update(batch.first_seq + index for index in new)
        return new

    def _is_stored(self, batch: Batch[Any], index: int, stored: int) -> bool:
        position = position_of(batch, index)
        if position is None:
            return batch.first_seq + index in self._stored
        return position <= stored

    @staticmethod
    def _opened(path: str) -> FileSink:
        return FileSink(path, "json", Rotation(path, None, None, None, compress=False), PRIVATE)


def described(batch: Batch[Any], index: int) -> str:
    """Return which message of a batch is meant, and its sender."""
    position = position_of(batch, index)
    where = f"message {batch.first_seq + index}" if position is None else f"position {position}"
    label = "" if batch.producer is None else f' of "{batch.producer.label}"'
    return f"{where}{label} (pid {batch.peer.pid})"


__all__ = ["Rejections", "checked", "described", "output_of", "place_of", "rest_of"]
