"""Send a window of messages over one connection, never waiting.

Writing comes in three steps, so that a front can make the system call outside its lock:
``begin_write`` chooses what to write and returns a function, which writes it; ``end_write`` takes
note of the result. Short messages on an idle producer take one step, in the window's ``direct``,
while ``let_direct`` allows it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from mpsr import passing, primitives, ring
from mpsr.descriptors import Identity, close_socket
from mpsr.endpoint import check_receiver, peer_of, reach
from mpsr.errors import (
    AddressError,
    MpsrError,
    NoReceiver,
    ReceiverBusy,
    Rejected,
    RemoteProtocolError,
    WrongReceiver,
)
from mpsr.greenlets import world
from mpsr.heap import keep_freed_memory
from mpsr.limits import (
    BACKOFF_FIRST,
    BACKOFF_MOST,
    BUFFER,
    BURST_LOOK,
    LINGER,
    MAX_CONTROL_FRAME,
    MAX_MESSAGE,
    PATIENT_WRITE,
    SEND_BUFFER,
    SEND_PATIENCE,
)
from mpsr.poller import READ, WRITE, PollPoller
from mpsr.wakeup import Wakeup
from mpsr.window import Window
from mpsr.wire.frames import PRODUCER_ID_SIZE, RETRY_CODES, LostReason, RejectCode, Ring
from mpsr.wire.framing import FOREIGN_FRAMINGS
from mpsr.wire.session import Acknowledged, SendingSession, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpsr.endpoint import Address, SocketType
    from mpsr.poller import AnyPoller
    from mpsr.ring import Writer
    from mpsr.trust import ReceiverUid
    from mpsr.window import OnFull
    from mpsr.wire.framing import Framing

    Write = Callable[[], int | OSError]
    """Writes what was chosen; returns how many bytes went, or the error."""

_DATAGRAM_OVERHEAD: Final = 32  # bytes of SO_SNDBUF that Linux keeps: unix_dgram_sendmsg()
_SEND_PATIENCE: Final = struct.pack("@ll", *divmod(int(SEND_PATIENCE * 1e6), 10**6))  # timeval
_OPEN: Final = State.OPEN  # to look it up in the enum takes longer than to compare
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)  # a flag of an enum is slow to pass
_NO_SUCH_DATAGRAM: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM})


class ProducerStats(NamedTuple):
    """What a producer has done since it was created: ``sent = accepted + lost + buffered``.

    What its spool held then counts as sent, and what a spool holds is buffered.
    """

    sent: int
    """Messages taken from the caller."""
    accepted: int
    """Messages that the receiver accepted (foreign framings: that the kernel took)."""
    lost: int
    """Messages dropped here, by ``on_full=`` or because the receiver takes no such size."""
    buffered: int
    """Messages taken and not accepted yet."""
    buffered_bytes: int
    """Bytes of buffer in use."""
    connects: int
    """Connections made."""
    connected: bool
    """Whether there is a receiver that has answered."""


class Outbox:
    """The sending engine. It is not thread-safe: its front serialises the calls."""

    def __init__(
        self,
        address: Address,
        *,
        type: SocketType = "stream",  # noqa: A002 - the standard library's word for it
        framing: Framing = "native",
        label: str = "",
        on_full: OnFull = "block",
        buffer: int = BUFFER,
        linger: float = LINGER,
        max_message: int = MAX_MESSAGE,
        spooled_as: bytes | None = None,
        receiver_uid: ReceiverUid = None,
        poller: AnyPoller | None = None,
    ) -> None:
        keep_freed_memory()
        self.address = address
        self.id = spooled_as or os.urandom(PRODUCER_ID_SIZE)
        self._type: SocketType = type
        self._label = label
        self._receiver_uid = receiver_uid
        if type == "dgram":
            framing = "stream"  # alone in its datagram, as elsewhere in its connection
            max_message = min(max_message, _largest_datagram())
        self._native = framing == "native"
        self._one_each = framing == "stream" and type == "stream"  # a connection a message
        self.window = Window(
            foreign=None if self._native else FOREIGN_FRAMINGS[framing],
            on_full=on_full,
            buffer=buffer,
            linger=linger,
            max_message=max_message,
            spooled=spooled_as is not None,
        )

        self._socket: socket.socket | None = None
        self._identity: Identity | None = None  # of that socket
        self._refuses = False  # whether the kernel refuses descriptors for it
        self._session: SendingSession | None = None
        self._greeting = b""  # preface and HELLO, or BYE, as far as not written
        self._descriptor: int | None = None  # of a ring that was given
        self._given: Writer | None = None  # the ring that was given
        self._ring: Writer | None = None  # the same, once all goes through it
        self.in_write = False  # between begin_write and end_write
        self.interrupted = False  # an exception broke in: nobody knows how far a write went
        self._broken = False  # the connection is to be dropped once that write has ended
        self.blocked = False  # the socket takes no more for now
        self._stalled = False  # nor did it while somebody waited for it
        self.waits = False  # whether the write under way, or the last, is one that waits
        self.burst_until = 0.0  # until then whoever wrote patiently comes back for more
        self._retry_at = 0.0
        self._backoff = BACKOFF_FIRST
        self._connects = 0
        self.obstacle: MpsrError | None = None  # why there is no connection just now
        self.failure: MpsrError | None = None  # why there will never be one again
        self.peer_pid: int | None = None
        self._welcomed_by: int | None = None  # the process of the last WELCOME

        self._read_buffer = memoryview(bytearray(MAX_CONTROL_FRAME))
        self.wakeup = Wakeup()
        self._poller: AnyPoller = PollPoller() if poller is None else poller
        self._poller.register(self.wakeup, READ, self.wakeup)

    # -- writing ----------------------------------------------------------------------------

    def due(self, now: float) -> bool:
        """Tell whether there is something to write, and a socket that may take it."""
        if self._greeting:
            return self._is_free()
        return self.ready() and self.window.is_due(now)

    def ready(self) -> bool:
        """Tell whether messages may be written now."""
        return self._is_free() and self._is_open()

    def _is_free(self, *, patient: bool = False) -> bool:
        """Tell whether there is a socket that may take something, now or soon."""
        full = self.blocked and (self._stalled or not patient)
        busy = full or self.in_write or self.interrupted
        return self._socket is not None and not busy

    @property
    def may_write_patiently(self) -> bool:
        """Whether there is something to write for a caller that waits for the socket."""
        return self.window.unsent and self._is_free(patient=True) and self._is_open()

    def _is_open(self) -> bool:
        """Tell whether messages may pass."""
        return self._session is None or self._session.state is _OPEN

    def begin_write(self, now: float, *, patient: bool = False) -> Write | None:
        """Choose what to write now; return what writes it, if there is anything.

        ``end_write`` must follow, unless somebody has taken the write over in the meantime. A
        ``patient`` caller waits in the write for a full socket, up to SEND_PATIENCE without
        progress, if it sends much at a time.
        """
        chosen = self._choose(now, patient=patient)
        sock = self._socket
        if not chosen or sock is None or self._identity is None:
            return None
        # Everything is bound here: by the time it is written the connection may be another.
        if self._ring is not None:
            return partial(_write_ring, self._ring, sock, self._identity, chosen, self.waits)
        flags = 0 if self.waits else _DONTWAIT
        return partial(_write_socket, sock, self._identity, chosen, flags)

    def _choose(self, now: float, *, patient: bool) -> Sequence[bytes | memoryview]:
        if not self._is_free(patient=patient):
            return ()
        self.waits = False
        if self.window.halting and not self._greeting and not self.window.begun:
            self._move()
        if self._greeting:
            self.in_write = not self.blocked
            return (self._greeting,) if self.in_write else ()
        chosen = self.window.choose(now) if self._is_open() else ()
        if not chosen:
            return ()
        self.waits = patient and self.window.chosen_last >= PATIENT_WRITE and world() is None
        if self.blocked and not self.waits:
            self.window.put_back()
            return ()
        if self._session is not None:
            self._session.sent(self.window.chosen_seq)
        self.in_write = True
        return chosen

    def let_direct(self, now: float) -> None:
        """Have short messages written in one step from now on, if nothing stands against it."""
        busy = self.in_write or self.interrupted or now < self.burst_until
        if self._socket is None or self._identity is None or busy or self._given is not None:
            return
        if self.may_rest and self._identity.holds():
            self.window.let_direct(self._socket.fileno())

    def _ring_sleeps(self, writer: Writer) -> bool:
        try:
            return writer.sleeps()
        except ValueError:
            return False  # the next write tells

    def end_write(self, result: int | OSError, now: float) -> None:
        """Take note of what a write did."""
        self.in_write = False
        if self.waits:
            self.leave(now)
        if self._broken:
            self._drop(self.obstacle, now)
        elif isinstance(result, int):
            self._take_written(result, now)
            if self.window.wants_news and self._session is not None:
                self.read(now)
        elif isinstance(result, BlockingIOError):
            self._stalled = self.waits
            self.window.put_back()
            self._block()
        elif self._type == "dgram" and result.errno in _NO_SUCH_DATAGRAM:
            self.window.lose_first(LostReason.TOO_LARGE)
        else:
            while self._session is not None and self.read(now):
                pass  # what the receiver said before it went stands
            if self._socket is not None:
                self._drop(self._gone(result), now)

    def _take_written(self, size: int, now: float) -> None:
        self._stalled = False
        if self._greeting:
            self._greeting = self._greeting[size:]
            if self._greeting:
                self._block()
            elif self._given is not None and self.window.halting:  # MOVE went
                self._ring, self.window.halting = self._given, False
        elif not self.window.wrote(size):
            if not self.waits:
                self._block()
        elif not self._native:
            self._backoff = BACKOFF_FIRST
            if self._one_each:  # the connection's end marks the message's
                self._drop(None, now)
                self._retry_at = now

    @property
    def may_deliver(self) -> bool:
        """Whether there is a connection, or it is not known yet that there is none."""
        return self._socket is not None or (self.obstacle is None and self.failure is None)

    def in_burst(self, now: float) -> bool:
        """Tell whether writing is left to whoever sends so much that he does it himself."""
        return now < self.burst_until and not self.interrupted

    def leave(self, now: float) -> None:
        """Leave writing to a thread that has just done so, or is about to, for a moment."""
        self.burst_until = now + BURST_LOOK

    @property
    def may_rest(self) -> bool:
        """Whether nothing but acknowledgements is to be expected from the connection."""
        if self._session is None or self.blocked or self._greeting:
            return False
        return self._session.state is _OPEN

    @property
    def resends(self) -> bool:
        """Whether what was not accepted is sent again, and told from what is new."""
        return self._native

    def socket_fileno(self) -> int | None:
        """Return the connection's descriptor, if there is a connection."""
        return None if self._socket is None else self._socket.fileno()

    def _block(self) -> None:
        if self._ring is not None:
            if self._socket is not None and self._ring_sleeps(self._ring):
                self.blocked = True
                self.wakeup.set()
            return
        self.blocked = True
        self.wakeup.set()  # somebody has to wait for room now
        if self._socket is not None:
            self._poller.modify(self._socket, READ | WRITE)

    def _move(self) -> None:
        """Say, between two frames, that what follows comes through the ring."""
        if self._session is None or not self._is_open():
            return
        self._session.move()
        self._greeting = self._session.data_to_send()

    # -- reading, connecting ----------------------------------------------------------------

    @property
    def awaited(self) -> int:
        """What to wait for on the connection's descriptor before ``service`` is called."""
        return READ | WRITE if self.blocked and self._ring is None else READ

    def wait_time(self, now: float) -> float | None:
        """Return the seconds after which ``service`` or a write is due in any case."""
        if self.in_write:
            return None  # whoever writes looks again, and wakes whoever else is needed
        if self.interrupted:
            return 0.0
        if self._socket is None:
            return max(0.0, self._retry_at - now) if self._wants_connection() else None
        if self.due(now):
            return max(0.0, self.burst_until - now)
        if self.window.gathering and self._is_open() and not self.blocked:
            return max(0.0, self.window.due_at - now, self.burst_until - now)
        return None

    def service(self, now: float) -> None:
        """Take what the receiver sent; connect, where that is due."""
        if self.interrupted and not self.in_write:
            self._recover(now)
        self._check_descriptors(now)
        for source, events in self._poller.poll(0):
            if source is self.wakeup:
                self.wakeup.clear()
            elif source is self._socket and source is not None:
                if events & ~READ:
                    self.blocked = False
                    self._poller.modify(source, READ)
                if events & ~WRITE and not self._broken:
                    self.read(now)
        if self._wants_connection() and now >= self._retry_at:
            self._connect(now)

    def _check_descriptors(self, now: float) -> None:
        """Make anew what the program has closed, as one does that becomes a daemon."""
        if not self.wakeup.intact:
            self._poller.unregister(self.wakeup)
            self.wakeup.renew()
            self._poller.register(self.wakeup, READ, self.wakeup)
        if self._identity is not None and not self._identity.holds():
            self._drop(self._gone(None), now)

    def _wants_connection(self) -> bool:
        if self._socket is not None or self.failure is not None:
            return False
        return self._native or self.window.unsent or self.window.gathering

    def _connect(self, now: float) -> None:
        try:
            self._socket = reach(self.address, type=self._type)
            check_receiver(self.address, self._socket, self._receiver_uid)
        except WrongReceiver as exc:
            self._socket.close()  # type: ignore[union-attr]  # it was reached
            self._socket = None
            self.fail(exc)
            return
        except AddressError as exc:
            self.obstacle = exc
            self._retry_later(now)
            return
        self._identity = Identity(self._socket.fileno())
        if self._type == "stream" and self.address.kind != "fd":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self._socket.setblocking(True)  # every call but a patient write says MSG_DONTWAIT
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_PATIENCE)
        self._connects += 1
        self.obstacle = None
        self.peer_pid = peer_of(self._socket).pid
        self._poller.register(self._socket, READ, self._socket)
        takes_ring = self._native and ring.AVAILABLE
        self._refuses = not takes_ring and passing.refuse(self._socket)
        if self._native:
            self._session = SendingSession(
                self.id, self.window.accepted_seq, self._label, takes_ring=takes_ring
            )
            self._greeting = self._session.data_to_send()
            text = f"{self.address} took the connection, but no receiver has answered yet"
            self.obstacle = ReceiverBusy(text, address=str(self.address), pid=self.peer_pid)

    def read(self, now: float) -> bool:
        """Read once; tell whether there may be more."""
        try:
            if self._refuses:
                size = self._socket.recv_into(self._read_buffer, 0, _DONTWAIT)  # type: ignore[union-attr]
            else:
                size = self._read_with_descriptors()
        except BlockingIOError:
            return False
        except OSError as exc:
            self._drop(self._gone(exc), now)
            return False
        if self._ring is not None:
            self.blocked = False  # whatever it says, there may be room: it wakes us so
        if size == 0 and self._type != "dgram":
            self._drop(self._gone(None), now)
        elif self._session is not None:
            self._receive(self._session, self._read_buffer[:size], now)
        return size > 0

    def _read_with_descriptors(self) -> int:
        """Read once, and keep the descriptor of a ring that may come along."""
        data, descriptors = passing.receive(self._socket, MAX_CONTROL_FRAME, _DONTWAIT)  # type: ignore[arg-type]
        self._read_buffer[: len(data)] = data
        if descriptors:
            takes_ring = self._session is not None and self._session.takes_ring
            unasked = descriptors[1:] if takes_ring else descriptors
            if takes_ring:
                self._forget_descriptor()
                self._descriptor = descriptors[0]
            passing.close_apart(unasked)
        return len(data)

    def _forget_descriptor(self) -> None:
        if self._descriptor is not None:
            passing.close_apart([self._descriptor])  # nobody knows what it is of
            self._descriptor = None

    def _attach(self, size: int) -> None:
        """Take the ring that was given, if it is as it should be; else all stays as it is."""
        if self._descriptor is not None:
            self._given = ring.attach(self._descriptor, size)
            self.window.halting = self._given is not None
        if self._given is not None and self._descriptor is not None:
            primitives.close(self._descriptor)
            self._descriptor = None
        self._forget_descriptor()
        if self._socket is not None:
            self._refuses = passing.refuse(self._socket)  # there is but one ring

    def _receive(self, session: SendingSession, data: memoryview, now: float) -> None:
        failure: RemoteProtocolError | None = None
        self.window.adopt_direct()
        if self.window.written_seq and session.state is _OPEN:
            session.sent(self.window.written_seq)
        try:
            session.receive_data(data)
        except RemoteProtocolError as exc:
            failure = exc
        for event in session.events_received():
            if isinstance(event, Acknowledged):
                self.window.accept(event.seq)
            elif isinstance(event, Ring):
                self._attach(event.size)
            elif self.window.resume(event.expected_seq, event.max_message):
                self._check_epoch(event.epoch)
                self.obstacle = None
                self._backoff = BACKOFF_FIRST
            else:
                error = f"the receiver expects message {event.expected_seq}, which does not exist"
                failure = RemoteProtocolError(error, code=RejectCode.GAP)
        if failure is not None:
            if not (isinstance(failure, Rejected) and failure.code in RETRY_CODES):
                self.fail(failure)
            self._drop(failure, now)

    def _check_epoch(self, epoch: int) -> None:
        """Warn if the very receiver that knew this producer has forgotten where it stands."""
        if epoch == 1 and self._welcomed_by == self.peer_pid is not None and self.window.unsent:
            import logging  # noqa: PLC0415 - seldom needed, and not light

            logging.getLogger("mpsr").warning(
                "the receiver at %s (pid %d) has forgotten this producer, as it does when there "
                "are too many: what it had not acknowledged may arrive twice",
                self.address,
                self.peer_pid,
            )
        self._welcomed_by = self.peer_pid

    # -- losing the connection --------------------------------------------------------------

    def _gone(self, error: OSError | None) -> MpsrError:
        why = error.strerror if error is not None and error.strerror else "it closed the connection"
        text = f"the receiver at {self.address} is gone: {why}"
        return NoReceiver(text, address=str(self.address))

    def _drop(self, obstacle: MpsrError | None, now: float) -> None:
        """Give the connection up; what was not accepted waits for the next one."""
        self.obstacle = obstacle
        if self.in_write:
            self.break_off()
            return
        self.window.adopt_direct()  # before the descriptor is another's
        self._broken = self.blocked = self._stalled = False
        if self._socket is not None:
            self._close_socket()
            if self.address.kind == "fd":  # there is no other to reach
                self.fail(obstacle)
        self._session = None
        self._greeting = b""
        self._part_with_ring()
        self.window.rewind()
        self._retry_later(now)

    def break_off(self) -> None:
        """Have a write that is under way end, wherever it waits, and the connection with it."""
        self._broken = True
        if self._ring is not None:
            self._ring.interrupt()
        elif self._socket is not None and self._identity is not None and self._identity.holds():
            with suppress(OSError):  # it has ended of itself
                self._socket.shutdown(socket.SHUT_RDWR)

    def _part_with_ring(self) -> None:
        self._forget_descriptor()
        if self._given is not None:
            self._given.close()
        self._given = self._ring = None
        self.window.halting = False

    def _recover(self, now: float) -> None:
        """Give the connection up after an interruption, and start afresh."""
        self.interrupted = self.in_write = False
        self._drop(self.obstacle, now)
        self.window.recover()
        self._backoff = BACKOFF_FIRST
        self._retry_at = now

    def fail(self, failure: MpsrError | None) -> None:
        """Give the receiver up for good."""
        self.failure = self.failure or failure
        self.window.adopt_direct()
        self.window.packer.close()

    def _retry_later(self, now: float) -> None:
        jitter = 0.5 + int.from_bytes(os.urandom(2), "big") / 0x20000
        self._retry_at = now + self._backoff * jitter
        self._backoff = min(2 * self._backoff, BACKOFF_MOST)

    # -- the end ----------------------------------------------------------------------------

    def say_bye(self) -> None:
        """Prepare the word that this is an orderly end, if it is one."""
        done = self.window.accepted_seq == self.window.next_seq
        busy = self.in_write or self._greeting
        if done and not busy and self._session is not None and self._is_open():
            self._session.bye()
            self._greeting = self._session.data_to_send()

    def close(self) -> None:
        """Close the descriptors."""
        self.window.adopt_direct()
        self._part_with_ring()
        self._close_socket()
        self._poller.close()
        self.wakeup.close()

    def _close_socket(self) -> None:
        if self._socket is not None and self._identity is not None:
            with suppress(OSError):  # an epoll set knows it no more, if the program has closed it
                self._poller.unregister(self._socket)
            if self._refuses or not self._identity.holds():
                close_socket(self._socket, self._identity)
            else:
                passing.close_socket(self._socket)
        self._socket = self._identity = None

    def stats(self, *, may_look: bool = True) -> ProducerStats:
        """Return what was done so far; ``may_look`` says that nobody is at the window."""
        window = self.window
        if may_look:
            window.adopt_direct()
        sent = window.known_seq - window.start_seq
        accepted, lost = window.accepted, window.lost
        return ProducerStats(
            sent=sent,
            accepted=accepted,
            lost=lost,
            buffered=sent - accepted - lost,
            buffered_bytes=window.known_cost,
            connects=self._connects,
            connected=self._socket is not None and self.obstacle is None,
        )


def _write_socket(
    sock: socket.socket, identity: Identity, chosen: Sequence[bytes | memoryview], flags: int
) -> int | OSError:
    try:
        if not identity.holds():
            return _taken_away()
        return sock.sendmsg(chosen, (), flags)
    except OSError as exc:
        return exc


def _write_ring(
    writer: Writer,
    sock: socket.socket,
    identity: Identity,
    chosen: Sequence[bytes | memoryview],
    patient: bool,  # noqa: FBT001 - bound with the rest
) -> int | OSError:
    """Write into the ring, as a socket is written: an error is returned where nothing went."""
    left, done = sum(map(len, chosen)), 0
    try:
        while left:
            size = writer.write(chosen, done)
            done += size
            left -= size
            if size:
                if writer.rouses() and identity.holds():
                    _ring_bell(sock)
            elif not patient or not writer.sleep(SEND_PATIENCE):
                break
    except ValueError as exc:
        return ConnectionAbortedError(errno.ECONNABORTED, str(exc))
    except OSError as exc:
        return exc
    return BlockingIOError() if left and not done else done


def _ring_bell(sock: socket.socket) -> None:
    try:
        sock.send(b"\0", _DONTWAIT)
    except BlockingIOError:
        pass  # there are bells that it has not heard yet


def _taken_away() -> OSError:
    return ConnectionAbortedError(errno.ECONNABORTED, "its descriptor was closed by the program")


def _largest_datagram() -> int:
    """Return how long a datagram may be on this system."""
    with primitives.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _DATAGRAM_OVERHEAD
