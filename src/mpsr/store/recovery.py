"""Find the segments of a log, and read in the newest what the log has come to."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr.store import faults
from mpsr.store.records import HEADER_SIZE, MAX_HEAD, VERSION, Kind
from mpsr.store.segments import Segment, list_segments
from mpsr.store.state import State

if TYPE_CHECKING:
    from mpsr.store.records import Header

LOCK: Final = "lock"  # the name of the lock file
UNFINISHED: Final = ".new"  # how the name of a segment ends that is being made
_UNFINISHED: Final = re.compile(r"(\d{20}\.mpsr|spare)\.new", re.ASCII)
SPARE: Final = "spare" + UNFINISHED  # the name of a file that will be a segment again


class Recovery(NamedTuple):
    """What the newest segment says."""

    header: Header
    state: State
    end: int
    """The offset behind its last record."""
    group: int
    """The offset of what was written last."""
    last_kind: int
    records: int
    """How many it has."""
    torn: list[int]
    """The offsets behind it where there is something of a torn write: its begin, whole records."""


def find_segments(path: str) -> list[int]:
    """Return the first positions of a log's segments, in order; none if the directory is empty.

    Raises NotAJournal for what is no journal, and OSError.
    """
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise faults.foreign(path, "is no directory, as a journal is")
    segments = list_segments(path)
    if not segments and {*os.listdir(path)} - {LOCK, *unfinished(path)}:
        raise faults.foreign(path, "is a directory of other things, no journal")
    return segments


def find_log(path: str) -> tuple[list[int], bytes]:
    """Return the first positions of the segments of the log at a path, in order, and the log's id.

    The id is empty if the header of the newest segment is damaged. Raises JournalError if there is
    no log, and OSError.
    """
    while segments := find_segments(path):
        try:
            with open_segment(path, segments[-1]) as newest:
                return segments, newest.header.id if newest.header is not None else b""
        except FileNotFoundError:
            if find_segments(path) == segments:
                raise
    raise faults.foreign(path, "is an empty directory")


def unfinished(path: str) -> list[str]:
    """Return the names of segments that a process was making when it was killed."""
    return [name for name in os.listdir(path) if _UNFINISHED.fullmatch(name)]


def open_segment(path: str, first: int) -> Segment:
    """Open a segment for reading; raise NewerJournal for a format that is not known, or OSError."""
    segment = Segment(path, first)
    if segment.version > VERSION:
        segment.close()
        raise faults.newer(path, segment.version, VERSION)
    return segment


def recover(path: str, segment: Segment) -> Recovery:
    """Read the newest segment to its end.

    A torn write at its end does not count. A batch whose payload is damaged does: that is reported
    when it is read.

    Raises JournalDamaged where it is not sure what the log has come to, and OSError.
    """
    name = os.path.basename(segment.path)
    header = segment.header
    if header is None:
        raise faults.damaged(path, f"the header of {name} is not what was written")
    if segment.first != segment.named:
        raise faults.damaged(path, f"{name} is another segment, which begins at {segment.first}")
    state = State(header.first - 1)
    end, group, last_kind, records = HEADER_SIZE, HEADER_SIZE, 0, 0
    for found in segment.walk(newest=True):
        kind, place, *_ = found.head
        as_expected = (
            place.offset == end
            and place.position == state.last + 1
            and (kind == Kind.SNAPSHOT) == (end == HEADER_SIZE)
            and (kind == Kind.BATCH or found.payload is not None)
        )
        if not as_expected:
            raise faults.unreadable(path, state.last + 1)
        state.follow(found)
        end, group, last_kind, records = found.head.end, place.group, kind, records + 1
    left = list(segment.heads(end))
    reach = max((head.end for head in left), default=end)
    if end == HEADER_SIZE or last_kind == Kind.SEAL or segment.size < reach + MAX_HEAD:
        raise faults.damaged(path, f"what follows position {state.last} is missing", state.last + 1)
    torn = [] if segment.is_blank(end) else [end]
    torn += [head.place.offset for head in left]
    return Recovery(header, state, end, group, last_kind, records, torn)
