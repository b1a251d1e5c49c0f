"""Send a window of messages over one connection after the other, never waiting.

A write takes three steps, so that a front can make the system call without its lock:
``begin_write`` decides what to write, calling the Write that it returns writes it, and
``end_write`` takes note of the result. Short messages on an idle producer take one step, in the
window's ``direct``, while ``allow_direct`` lets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mpsr.engine.sending.connection import Connection
from mpsr.engine.sending.link import Link
from mpsr.engine.sending.states import Carrier, Failure, WriteEvent, WriteState, failure_of
from mpsr.limits import BACKOFF_FIRST, BURST_TIME, WAITING_WRITE
from mpsr.stats import ProducerStats
from mpsr.system import primitives
from mpsr.system.greenlets import world
from mpsr.system.heap import keep_freed_memory
from mpsr.system.poller import READ, WRITE, ready_events
from mpsr.wire.frames import LostReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.engine.transport import WriteEnd
    from mpsr.system.address import Address
    from mpsr.system.files import KeptFile

_FREE: Final = WriteState.FREE  # to look it up in the enum takes longer than to compare
_FULL: Final = WriteState.FULL


class Write:
    """One write: what was chosen, bound to its connection; the outbox may have another by then.

    Attributes:
        waits: whether it waits for room, so that a signal handler may interrupt it.
        passes: whether it passes a file.
        thread: the one that began it.

    """

    __slots__ = ("_buffers", "_writer", "passes", "thread", "waits")

    def __init__(
        self,
        writer: WriteEnd,
        buffers: Sequence[bytes | memoryview],
        *,
        waits: bool,
        passes: bool = False,
    ) -> None:
        self._writer = writer
        self._buffers = buffers
        self.waits: bool = waits
        self.passes: bool = passes
        self.thread: int = primitives.get_ident()

    def __call__(self) -> int | OSError:
        """Write; return how many bytes were written, or the error."""
        return self._writer.write(self._buffers, wait=self.waits)


class Outbox(Link):
    """The sending engine. It is not thread-safe: its front serialises the calls."""

    def __init__(self, address: Address, **options: Any) -> None:  # noqa: ANN401 - as Link takes them
        keep_freed_memory()
        super().__init__(address, **options)
        self._write: Write | None = None  # under way
        self._burst_until = 0.0  # until then a thread that has waited in a write writes again

    # -- what may be done -------------------------------------------------------------------

    @property
    def writing(self) -> bool:
        """Whether a write is under way."""
        return self._write is not None

    @property
    def interrupted_here(self) -> bool:
        """Whether the calling code has interrupted a write of its own thread."""
        return self._write is not None and self._write.thread == primitives.get_ident()

    @property
    def only_acks(self) -> bool:
        """Whether nothing but acknowledgements is to be expected from the connection."""
        connection = self._connection
        if connection is None or connection.session is None or connection.control:
            return False
        return connection.is_open and self.state not in (_FULL, WriteState.STALLED)

    def ready(self) -> bool:
        """Tell whether messages may be written now."""
        connection = self._connection
        return connection is not None and self.state is _FREE and connection.is_open

    def due(self, now: float) -> bool:
        """Tell whether there is something to write, and a connection that may take it."""
        if self._connection is not None and self._connection.control:
            return self.state is _FREE
        return self.ready() and self.window.is_due(now)

    def may_write_waiting(self) -> bool:
        """Tell whether there is something to write for a caller that waits for room."""
        connection = self._connection
        if connection is None or self.state not in (_FREE, _FULL):
            return False
        return self.window.unsent and connection.is_open

    # -- writing ----------------------------------------------------------------------------

    def begin_write(self, now: float, *, patient: bool = False) -> Write | None:
        """Decide what to write now; return the write, if there is anything.

        ``end_write`` must follow. A ``patient`` caller may be given a write that waits for room,
        if it sends much at a time.
        """
        connection = self._connection
        if connection is None or not (self.state is _FREE or (patient and self.state is _FULL)):
            return None
        if connection.carrier is Carrier.SWITCHING and not self.window.begun:
            connection.switch()
        if connection.control:
            return self._begin(connection, (connection.control,)) if self.state is _FREE else None
        if not connection.is_open:
            return None
        chosen = self.window.choose(now, only_begun=connection.carrier is Carrier.SWITCHING)
        if not chosen:
            return None
        waits = patient and self.window.chosen_nbytes >= WAITING_WRITE and world() is None
        if self.state is _FULL and not waits:
            self.window.put_back()
            return None
        if connection.session is not None:
            connection.session.sent(self.window.chosen_seq)
        return self._begin(connection, chosen, waits=waits, file=self.window.chosen_file)

    def _begin(
        self,
        connection: Connection,
        buffers: Sequence[bytes | memoryview],
        *,
        waits: bool = False,
        file: KeptFile | None = None,
    ) -> Write:
        writer = connection.writer_of(file)
        write = Write(writer, buffers, waits=waits, passes=file is not None)
        self._turn(WriteEvent.BEGIN)
        self._write = write
        return write

    def end_write(self, write: Write, result: int | OSError, now: float) -> None:
        """Record the result of a write; do nothing for one that was interrupted."""
        connection = self._connection
        if write is not self._write or connection is None:
            return
        self._write = None
        if write.waits:
            self.extend_burst(now)
        if self.state is not WriteState.WRITING:
            self._end_given_up(connection, write, result, now)
        elif isinstance(result, int):
            self._end_with(self._took(connection, write, result))
            if self._one_each and not self.window.begun and not connection.control:
                self._drop(None, now)  # the connection's end marks the message's
                self._retry_at = now
            elif self.window.many_in_flight and connection.session is not None:
                self.read(now)
        elif isinstance(result, BlockingIOError):
            self.window.put_back()
            self._end_with(WriteEvent.STALL if write.waits else WriteEvent.FILL)
        elif self._dropped(write, result):
            self._turn(WriteEvent.END)
        else:
            self._turn(WriteEvent.END)
            self._fail_write(connection, result, now)

    def _end_given_up(
        self, connection: Connection, write: Write, result: int | OSError, now: float
    ) -> None:
        """Record the result of a write whose connection was given up meanwhile."""
        if self.state is WriteState.BREAKING and isinstance(result, int):
            self._took(connection, write, result)
        self._turn(WriteEvent.END)
        if self.state is WriteState.DOWN:
            self._close_connection(now)

    def _dropped(self, write: Write, error: OSError) -> bool:
        """Drop what was chosen, if the system would never take it; return whether that is so."""
        failure = failure_of(error, file=write.passes, packet=self._type != "stream")
        if failure is Failure.PACKET:
            self.window.drop_chosen(LostReason.TOO_LARGE)
        elif failure is Failure.FILE:
            self.window.drop_chosen(LostReason.FILE_REFUSED)
        return failure is not Failure.CONNECTION

    def _fail_write(self, connection: Connection, error: OSError, now: float) -> None:
        """Give the connection up; what the receiver said before it went stands."""
        while self._connection is connection and self._native and self.read(now):
            pass
        if self._connection is connection:
            self._drop(self._gone(error, "sendmsg"), now)

    def _took(self, connection: Connection, write: Write, size: int) -> WriteEvent:
        """Note that the connection took so many bytes; return how the write ends."""
        if connection.control:
            return WriteEvent.END if connection.control_written(size) else WriteEvent.FILL
        whole = self.window.wrote(size)
        if whole and not self._native:
            self._backoff = BACKOFF_FIRST
        return WriteEvent.END if whole or write.waits else WriteEvent.FILL

    def _end_with(self, event: WriteEvent) -> None:
        """End the write that was under way; where there is no room, have it announced."""
        connection = self._connection
        if event is not WriteEvent.END and connection is not None:
            if connection.writer.is_full():
                self.wakeup.set()  # somebody has to wait for room now
            else:
                event = WriteEvent.END
        self._turn(event)

    def allow_direct(self, now: float) -> None:
        """Let short messages be written in one step from now on, if nothing forbids it."""
        connection = self._connection
        if connection is None or self.state is not _FREE or now < self._burst_until:
            return
        if connection.carrier is Carrier.SOCKET and self.only_acks and connection.holds():
            self.window.allow_direct(connection.fileno())

    def in_burst(self, now: float) -> bool:
        """Tell whether a thread that sends in bulk writes by itself what falls due."""
        return now < self._burst_until and self.state is not WriteState.INTERRUPTED

    @property
    def burst_until(self) -> float:
        """Until when that is so, on the monotonic clock (seconds)."""
        return self._burst_until

    def extend_burst(self, now: float) -> None:
        """Leave writing to a thread that has just waited in a write, or is about to."""
        self._burst_until = now + BURST_TIME

    # -- reading and connecting -------------------------------------------------------------

    @property
    def awaited(self) -> tuple[int, int] | None:
        """What to wait for before ``service`` is called, and at which descriptor."""
        connection = self._connection
        if connection is None:
            return None
        full = self.state in (_FULL, WriteState.STALLED)
        return connection.fileno(), connection.writer.room_events if full else READ

    def wait_time(self, now: float) -> float | None:
        """Return the seconds after which ``service`` or a write is due in any case."""
        if self._write is not None:
            return None  # the writing thread begins the next write, and wakes the background
        if self.state is WriteState.INTERRUPTED:
            return 0.0
        if self._connection is None:
            return max(0.0, self._retry_at - now) if self._wants_connection() else None
        if self.due(now):
            return max(0.0, self._burst_until - now)
        if self.window.gathering and self._connection.is_open and self.state is _FREE:
            return max(0.0, self.window.due_at - now, self._burst_until - now)
        return None

    def service(self, now: float) -> None:
        """Read what the receiver has sent; connect, where that is due."""
        if self.state is WriteState.INTERRUPTED:
            self._repair(now)
        self._check_descriptors(now)
        self.wakeup.clear()
        if self.awaited is not None:
            events = ready_events(*self.awaited)
            if events & ~READ:
                self._room()
            if events & ~WRITE and self.state is not WriteState.BREAKING:
                self.read(now)
        if self._wants_connection() and now >= self._retry_at:
            self._connect(now)

    def _check_descriptors(self, now: float) -> None:
        """Make anew what the program has closed, as one does that becomes a daemon."""
        if not self.wakeup.intact:
            self._renew_wakeup()
        if self._connection is not None and not self._connection.holds():
            self._drop(self._gone(None), now)

    # -- losing the connection --------------------------------------------------------------

    def break_off(self) -> None:
        """End a write that is under way, wherever it waits, and the connection with it."""
        if self._write is not None and self._connection is not None:
            self._turn(WriteEvent.CLOSE)
            self._connection.writer.break_off()

    def interrupt(self) -> None:
        """Note that an exception has interrupted the calling code, and the write that it made."""
        if self._write is not None and not self.interrupted_here:
            self._turn(WriteEvent.TEAR)  # the write of another thread goes on
        else:
            self._write = None
            self._turn(WriteEvent.INTERRUPT)
        self.wakeup.set()

    def take_over(self) -> None:
        """End a write that the calling code has interrupted: it goes on only once that returns."""
        self.break_off()
        self.interrupt()

    def _repair(self, now: float) -> None:
        """Give the connection up after an interruption, and start afresh."""
        self._turn(WriteEvent.REPAIR)
        self._close_connection(now)
        self.window.repair()
        self._backoff = BACKOFF_FIRST
        self._retry_at = now

    # -- the end ----------------------------------------------------------------------------

    def say_bye(self) -> None:
        """Prepare to say that this is an orderly end, if it is one."""
        connection = self._connection
        done = self.window.accepted_seq == self.window.next_seq
        if connection is None or not done or self._write is not None or connection.control:
            return
        if connection.is_open:
            connection.say_bye()

    def close(self) -> None:
        """Close the descriptors."""
        self.window.collect_direct()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.window.forget_files()
        self.wakeup.close()

    def stats(self, *, exact: bool = True) -> ProducerStats:
        """Return what was done so far; ``exact`` collects what was written directly first."""
        window = self.window
        if exact:
            window.collect_direct()
        sent = window.known_seq - window.start_seq
        accepted, lost = window.accepted, window.lost
        return ProducerStats(
            sent=sent,
            accepted=accepted,
            lost=lost,
            buffered=sent - accepted - lost,
            buffered_bytes=window.known_cost,
            connects=self._connects,
            connected=self._connection is not None and self.obstacle is None,
        )
