"""Own a log: lock it, append batches and keep cursors, and trim what they have passed.

Messages are numbered 1, 2, 3 … in the order in which they were appended; a batch takes a run of
these positions, one that only tells of lost messages takes one. A cursor is the position up to
which somebody is done.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

from mpsr.errors import (
    Closed,
    ConfigurationError,
    Explanation,
    JournalDamaged,
    JournalDenied,
    JournalError,
    JournalFull,
    JournalInUse,
    MessageTooLarge,
)
from mpsr.limits import CURSOR_ROOM, JOURNAL_LIMIT, MIN_JOURNAL_LIMIT
from mpsr.store import faults, files
from mpsr.store.log import Log
from mpsr.store.reader import Reader
from mpsr.store.records import MAX_HEAD, Header, Use
from mpsr.store.recovery import LOCK, find_segments, open_segment, recover, unfinished
from mpsr.system import lockfile, outputs, primitives
from mpsr.system.forks import watch_forks
from mpsr.system.housekeeping import attempted
from mpsr.system.sigmask import MASK
from mpsr.system.threads import are_stopped
from mpsr.wire.frames import PRODUCER_ID_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mpsr.store.records import Entry, KnownProducer, ProducerKey

_USES: Final = {
    Use.JOURNAL: "is the journal of a receiver",
    Use.SPOOL: "is the spool of a producer",
}


class Journal:
    """A journal, or a spool: a directory of segments that one process owns.

    Every method may be called from any thread, and waits for the one that is at work. What
    ``append`` and ``commit`` wrote is on the disk when they return. After a failure that leaves
    in doubt what the disk holds, the files are closed and the lock is released: everything else
    raises JournalError, and the journal can be opened anew.

    Args:
        path: the directory; its file ``lock`` says who owns it.
        limit: bytes that the directory may take on the disk. One that takes more already does
            not grow.
        create: make the directory if it is missing, and set a damaged journal aside and make a
            new one. If false, both raise.
        use: whether it is a receiver's journal or a producer's spool; None for either.
        begin: the header of the first segment, if one is made: to copy another journal.

    Attributes:
        path: the directory, in full.
        set_aside: where a damaged journal was moved when this one was begun, else None.

    Raises:
        JournalError: it cannot be opened; its subclasses say why. JournalDamaged only if not
            ``create``.

    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limit: int = JOURNAL_LIMIT,
        create: bool = True,
        use: Use | None = Use.JOURNAL,
        begin: Header | None = None,
    ) -> None:
        if limit < MIN_JOURNAL_LIMIT:
            what, why = f"journal_limit={limit} is too small", "a journal needs room for segments"
            advice = f"pass {MIN_JOURNAL_LIMIT} bytes or more"
            raise ConfigurationError(Explanation(what, why, advice))
        self.path: str = _resolved(os.fsdecode(path))
        self.limit = limit
        self.set_aside: str | None = None
        self._mutex = primitives.Lock()
        self._failure: JournalError | None = None
        self._closed = False
        header = begin or Header(os.urandom(PRODUCER_ID_SIZE), use or Use.JOURNAL, 1)
        with faults.translating("open", self.path):
            self._lock = self._take_lock(create=create)
            try:
                self._log = self._open(header, use, create=create)
            except BaseException:
                self._lock.give_back()
                raise
        self._cursors = self._log.cursors
        watch_forks(self._after_fork_in_child)

    # -- batches ------------------------------------------------------------------------------

    @property
    def id(self) -> bytes:
        """16 random bytes, made with the journal."""
        return self._log.header.id

    @property
    def last(self) -> int:
        """The position of the last message that is on the disk; 0 before the first."""
        return self._log.last

    @property
    def trimmed(self) -> int:
        """The position up to which everything is gone."""
        return self._log.trimmed

    @property
    def used(self) -> int:
        """Bytes that the segments take on the disk, with what is set aside for them."""
        return self._log.used

    @property
    def most(self) -> int:
        """Bytes that one ``append`` can take, if each entry takes MAX_HEAD beside its payload."""
        return self.limit // 2 - 4 * CURSOR_ROOM

    def append(
        self,
        entries: Sequence[Entry],
        *,
        producers: Iterable[KnownProducer] = (),
        forget: Iterable[ProducerKey] = (),
    ) -> list[int]:
        """Append batches, and with them the moved cursors; return each entry's last position.

        All of it is on the disk when this returns; if it raises, nothing of it is.

        Args:
            entries: the batches, in order. Each says where its producer stands behind it.
            producers: where others stand.
            forget: who is to be known no longer.

        Raises:
            JournalFull: there is no room for them now; keep them, and try again.
            MessageTooLarge: they would not fit an empty journal.
            JournalError: they could not be written; the journal takes no more.

        """
        size = sum(MAX_HEAD + memoryview(entry.payload).nbytes for entry in entries)
        if size > self.most:
            error = f"{size} bytes at once do not fit {self.path}: raise its limit"
            raise MessageTooLarge(error)
        with self._working("append to"):
            return self._log.append(entries, size, producers, forget)

    def reader(self) -> Reader:
        """Return a reader of what is on the disk, for one thread; close it at the end."""
        return Reader(self.path, until=lambda: self.last)

    # -- cursors and producers ------------------------------------------------------------------

    def cursor(self, name: str) -> int:
        """Return the position of a cursor; one that is new begins before all that is kept."""
        if name not in self._cursors:
            with self._mutex:  # nothing is trimmed meanwhile
                self._cursors.setdefault(name, self.trimmed)
        return self._cursors[name]

    def cursors(self) -> dict[str, int]:
        """Return all cursors and their positions."""
        return dict(self._cursors)

    def move(self, name: str, position: int) -> None:
        """Say that everything up to ``position`` is done; the next commit keeps it.

        Raises ValueError for a position that is behind the cursor or not committed.
        """
        if not self.cursor(name) <= position <= self.last:
            limits = f"{self._cursors[name]} to {self.last}"
            raise ValueError(f"cursor {name!r} can move within {limits}, not to {position}")
        self._cursors[name] = position

    def resume(self, name: str, position: int) -> bool:
        """Set a cursor, even back, if all messages after a position are there; return whether."""
        with self._mutex:  # no segment is trimmed meanwhile
            if not self.trimmed <= position <= self.last:
                return False
            self._cursors[name] = position
            return True

    def rewind(self, name: str, position: int) -> int:
        """Move a cursor back, if it is after a position; return where to read from.

        Until the cursor moves again, nothing after it is trimmed. If the position is trimmed
        already, the result is the oldest one that is kept.
        """
        cursor = self.cursor(name)
        with self._mutex:  # nothing is trimmed meanwhile
            position = max(position, self.trimmed)
            self._cursors[name] = min(cursor, position)
        return position

    def drop(self, name: str) -> None:
        """Remove a cursor, so that it keeps nothing from being trimmed; the next commit does."""
        self._cursors.pop(name, None)

    def producers(self) -> list[KnownProducer]:
        """Return where all producers stand."""
        return list(self._log.state.producers.values())

    # -- settling -----------------------------------------------------------------------------

    def commit(self) -> None:
        """Put the moved cursors on the disk."""
        if self._cursors != self._log.state.cursors:
            with self._working("write the cursors of"):
                self._log.commit()

    def trim(self) -> bool:
        """Remove the segments that all cursors have passed; tell whether there was one."""
        with self._working("trim"):
            return self._log.trim()

    def close(self) -> None:
        """Put the moved cursors on the disk and part with the files.

        If the end of the program has stopped a thread in a write, the kernel closes the files after
        that write, and then unlocks the directory.
        """
        if are_stopped() and self._mutex.locked():
            return
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._failure is not None:
                return
            try:
                if self._log.header.use == Use.SPOOL:
                    with suppress(JournalFull), faults.translating("trim", self.path):
                        self._log.trim()  # nobody reads again what was accepted
                with faults.translating("close", self.path):
                    self._check_lock("close")
                    self._log.finish()
            finally:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _after_fork_in_child(self) -> None:
        """Part with what belongs to the parent."""
        if self._closed:
            return
        self._closed = True
        self._mutex = primitives.Lock()
        if self._failure is None:
            self._log.close()
            self._lock.close()

    # -- writing --------------------------------------------------------------------------------

    @contextmanager
    def _working(self, doing: str) -> Iterator[None]:
        with self._mutex:
            if self._closed:
                raise Closed(f"the journal {self.path} was closed, or is a parent process's")
            if self._failure is not None:
                error = f"cannot {doing} {self.path}: it failed before ({self._failure})"
                raise JournalError(error, path=self.path) from self._failure
            try:
                with faults.translating(doing, self.path):
                    self._check_lock(doing)
                    yield
            except JournalFull:
                raise
            except JournalError as exc:
                self._failure = exc
                self._release()
                raise

    def _check_lock(self, doing: str) -> None:
        """Raise JournalError if the lock is lost: another process may own the journal by now."""
        if not self._lock.holds():
            raise faults.closed(doing, self.path, self.last)

    def _release(self) -> None:
        with MASK:  # a descriptor's number can be closed only once
            self._log.close()
            self._lock.give_back()

    # -- opening --------------------------------------------------------------------------------

    def _take_lock(self, *, create: bool) -> lockfile.Lock:
        """Lock the directory, which is made if it is missing."""
        try:
            find_segments(self.path)
        except FileNotFoundError:
            if not create:
                raise
            files.make_directory(self.path)
        owner = os.stat(self.path).st_uid
        if owner != os.geteuid():
            why = f"it belongs to user {owner}, and this process runs as user {os.geteuid()}"
            advice = "run it as that user, or choose another path"
            error = Explanation(f"cannot open {self.path}", why, advice)
            raise JournalDenied(error, path=self.path)
        try:
            return lockfile.take(os.path.join(self.path, LOCK), uid=owner)
        except lockfile.Held as exc:
            advice = "stop that, or choose another path"
            error = Explanation(f"cannot open {self.path}", f"{exc} has it open", advice)
            raise JournalInUse(error, path=self.path, pid=exc.pid) from None
        except lockfile.NotALock as exc:
            raise faults.foreign(self.path, f"has a file of another kind: {exc}") from None

    def _open(self, header: Header, use: Use | None, *, create: bool) -> Log:
        segments = find_segments(self.path)
        for name in unfinished(self.path):
            path = os.path.join(self.path, name)
            with attempted(f"remove {path}"):
                files.remove(path)
        if not segments:
            if not create:
                raise faults.foreign(self.path, "is an empty directory")
            return Log.create(self.path, self.limit, header)
        try:
            with open_segment(self.path, segments[-1]) as newest:
                recovery = recover(self.path, newest)
        except JournalDamaged as exc:
            if not create:
                raise
            self._move_aside(exc)
            return Log.create(self.path, self.limit, header)
        found = Use(recovery.header.use)
        if use not in {None, found}:
            raise faults.foreign(self.path, _USES[found])
        log = Log.resume(self.path, self.limit, segments[:-1], recovery)
        if recovery.torn:
            _warn(f"{self.path}: a write behind position {log.last} was not finished, and is cut")
        return log

    def _move_aside(self, damage: JournalDamaged) -> None:
        """Rename the directory, lock and all; begin with an empty one."""
        stamp = time.strftime("%Y%m%dT%H%M%S")
        aside, number = f"{self.path}.damaged-{stamp}", 0
        while os.path.lexists(aside):
            number += 1
            aside = f"{self.path}.damaged-{stamp}-{number}"
        files.rename(self.path, aside)
        moved, self._lock = self._lock, self._take_lock(create=True)
        moved.give_back()
        self.set_aside = aside
        _warn(f"{damage}; it was moved to {aside}")


def _resolved(path: str) -> str:
    """Return a path without links; raise JournalDenied for one that another user may have made."""
    try:
        outputs.check_way(path)
    except ConfigurationError as exc:
        raise JournalDenied(Explanation.of(exc), path=path) from None
    return os.path.realpath(path)


def _warn(what: str) -> None:
    import logging  # noqa: PLC0415 - not light, and hardly ever needed

    logging.getLogger("mpsr").warning("%s", what)
