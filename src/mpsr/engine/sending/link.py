"""Keep a connection to the receiver: make one, read what it says, and make another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mpsr.engine.sending.connection import Connection, largest_packet
from mpsr.engine.sending.states import WRITE_TRANSITIONS, Carrier, WriteEvent, WriteState
from mpsr.engine.sending.window import Window
from mpsr.errors import (
    AddressError,
    Explanation,
    MpsrError,
    NoReceiver,
    ReceiverBusy,
    Rejected,
    RemoteProtocolError,
    WrongReceiver,
)
from mpsr.limits import BACKOFF_FIRST, BACKOFF_MOST, BUFFER, LINGER, MAX_CONTROL_FRAME, MAX_MESSAGE
from mpsr.system import ring
from mpsr.system.calls import PEER_GONE
from mpsr.system.endpoint import check_receiver, reach
from mpsr.system.trust import Trusted, trusted
from mpsr.system.wakeup import Wakeup
from mpsr.wire.frames import PRODUCER_ID_SIZE, RETRY_CODES, RejectCode, Ring
from mpsr.wire.packing import FOREIGN_FRAMINGS, PACKET
from mpsr.wire.sending import Acknowledged, SendingSession

if TYPE_CHECKING:
    from mpsr.engine.sending.window import OnFull
    from mpsr.system.address import Address, SocketType
    from mpsr.wire.framing import Framing


class Link:
    """A window of messages, and the connection over which they are sent.

    Attributes:
        window: the messages that are not accepted yet.
        state: whether messages may be written.
        obstacle: why there is no connection just now.
        failure: why there will never be one again.
        peer_pid: the process that receives, or did last, where the kernel tells it.
        packets: whether the socket sends packets, whose size the system limits.
        sends_files: whether a file may go with a message at all.
        takes_files: whether the receiver takes files, by its own word; True while there is none
            that has answered.
        wakeup: is set when the background has to call ``service`` again.

    """

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
        receivers: Trusted | None = None,
    ) -> None:
        self.address = address
        self.id: bytes = spooled_as or os.urandom(PRODUCER_ID_SIZE)
        self._type: SocketType = type
        self.packets: bool = type != "stream"
        self._label = label
        self._receivers = receivers or trusted()
        self._native = framing == "native"
        self.sends_files: bool = self._native and spooled_as is None
        self.takes_files: bool = True
        self._one_each = framing == "eof"  # a connection for every message
        foreign = None
        if not self._native:
            foreign = PACKET if framing == "packet" else FOREIGN_FRAMINGS[framing]
        packet = None if type == "stream" else largest_packet(address, type)
        self.window: Window = Window(
            foreign=foreign,
            on_full=on_full,
            buffer=buffer,
            linger=linger,
            max_message=max_message,
            spooled=spooled_as is not None,
            largest_packet=packet,
        )
        self.state: WriteState = WriteState.DOWN
        self._connection: Connection | None = None
        self._retry_at = 0.0
        self._backoff = BACKOFF_FIRST
        self.generation: int = 0  # of the descriptors that are to be waited for
        self._connects = 0
        self.obstacle: MpsrError | None = None
        self.failure: MpsrError | None = None
        self.peer_pid: int | None = None
        self._welcomed_by: int | None = None  # the process of the last WELCOME
        self._read_buffer = memoryview(bytearray(MAX_CONTROL_FRAME))
        self.wakeup: Wakeup = Wakeup()

    def _turn(self, event: WriteEvent) -> None:
        """Go to the next state."""
        self.state = WRITE_TRANSITIONS[self.state, event]

    def _renew_wakeup(self) -> None:
        self.wakeup.renew()
        self.generation += 1

    # -- connecting and reading -------------------------------------------------------------

    @property
    def resends(self) -> bool:
        """Whether what was not accepted is sent again, and the receiver drops what it has."""
        return self._native

    @property
    def may_deliver(self) -> bool:
        """Whether there is a connection, or it is not known yet that there is none."""
        return self._connection is not None or (self.obstacle is None and self.failure is None)

    def retry(self) -> None:
        """Let the next service connect, however long it would have waited to try again."""
        self._retry_at = 0.0

    def _room(self) -> None:
        if (self.state, WriteEvent.ROOM) in WRITE_TRANSITIONS:
            self._turn(WriteEvent.ROOM)

    def _wants_connection(self) -> bool:
        if self.state is not WriteState.DOWN or self.failure is not None:
            return False
        return self._native or self.window.unsent or self.window.gathering

    def _connect(self, now: float) -> None:
        try:
            sock = reach(self.address, type=self._type)
            try:
                check_receiver(self.address, sock, self._receivers)
            except AddressError:
                sock.close()
                raise
        except WrongReceiver as exc:
            self.fail(exc)
            return
        except AddressError as exc:
            self.obstacle = _without_frames(exc)
            self._retry_later(now)
            return
        session = self._new_session() if self._native else None
        self._connection = Connection(sock, session, is_ours=self.address.kind != "fd")
        self._turn(WriteEvent.CONNECT)
        self._connects += 1
        self.generation += 1
        self.obstacle = None
        self.peer_pid = self._connection.pid
        if self._native:
            text = f"{self.address} took the connection, but no receiver has answered yet"
            self.obstacle = ReceiverBusy(text, address=str(self.address), pid=self.peer_pid)

    def _new_session(self) -> SendingSession:
        seq = self.window.accepted_seq
        # A ring carries bytes: beside packets there is none.
        takes_ring = ring.AVAILABLE and self._type == "stream"
        files = self.sends_files
        return SendingSession(self.id, seq, self._label, takes_ring=takes_ring, sends_files=files)

    def read(self, now: float) -> bool:
        """Read once; return whether there may be more."""
        connection = self._connection
        if connection is None:
            return False
        try:
            data = connection.read(self._read_buffer)
        except BlockingIOError:
            return False
        except OSError as exc:
            self._drop(self._gone(exc, "recvmsg"), now)
            return False
        if connection.carrier is Carrier.RING:
            self._room()  # any byte may announce room in the ring
        if not data and self._type != "dgram":
            self._drop(self._gone(None), now)
        elif connection.session is not None:
            self._receive(connection, connection.session, data, now)
        return len(data) > 0

    def _receive(
        self, connection: Connection, session: SendingSession, data: memoryview, now: float
    ) -> None:
        failure: RemoteProtocolError | None = None
        self.window.collect_direct()
        if self.window.written_seq and connection.is_open:
            session.sent(self.window.written_seq)
        try:
            session.receive_data(data)
        except RemoteProtocolError as exc:
            failure = exc
        for event in session.events_received():
            if isinstance(event, Acknowledged):
                self.window.accept(event.seq)
            elif isinstance(event, Ring):
                connection.take_ring(event.size)
            elif self.window.resume(event.expected_seq, event.max_message):
                self._check_epoch(event.epoch)
                self._check_files(takes_files=event.accepts_files)
                self.obstacle = None
                self._backoff = BACKOFF_FIRST
            else:
                error = f"the receiver expects message {event.expected_seq}, which does not exist"
                failure = RemoteProtocolError(error, code=RejectCode.GAP)
        if failure is not None:
            if not (isinstance(failure, Rejected) and failure.code in RETRY_CODES):
                self.fail(failure)
            self._drop(failure, now)

    def _check_files(self, *, takes_files: bool) -> None:
        """Drop what is to go with a file, where the receiver takes none."""
        self.takes_files = takes_files
        if not takes_files:
            self.window.refuse_files()

    def _check_epoch(self, epoch: int) -> None:
        """Warn if the process that knew this producer has forgotten where it stands."""
        if epoch == 1 and self._welcomed_by == self.peer_pid is not None and self.window.unsent:
            import logging  # noqa: PLC0415 - seldom needed, and not light

            logging.getLogger("mpsr").warning(
                "the receiver at %s (pid %d) has forgotten this producer: it had too many "
                "producers, or is a new receiver in that process. Messages that it had not "
                "acknowledged may arrive twice",
                self.address,
                self.peer_pid,
            )
        self._welcomed_by = self.peer_pid

    # -- losing the connection --------------------------------------------------------------

    def _gone(self, error: OSError | None, call: str = "") -> MpsrError:
        if error is not None and error.errno not in PEER_GONE:
            what = f"the system does not let messages through to {self.address}"
            text = Explanation(what, f"{call}: {error.strerror}")
            return AddressError(text, address=str(self.address))
        why = error.strerror if error is not None and error.strerror else "it closed the connection"
        text = Explanation(f"the receiver at {self.address} is gone", why, "start it again")
        return NoReceiver(text, address=str(self.address))

    def _drop(self, obstacle: MpsrError | None, now: float) -> None:
        """Give the connection up, at once or behind the write that is under way."""
        self.obstacle = obstacle
        self._turn(WriteEvent.CLOSE)
        if self.state is WriteState.DOWN:
            self._close_connection(now)
        elif self._connection is not None and self.state is not WriteState.INTERRUPTED:
            self._connection.writer.break_off()  # the write that is under way

    def _close_connection(self, now: float) -> None:
        """Close the connection; what was not accepted waits for the next one."""
        self.window.collect_direct()  # before the descriptor is another's
        connection, self._connection = self._connection, None
        self.takes_files = True
        if connection is not None:
            connection.close()
            if self.address.kind == "fd":  # there is no other to reach
                self.fail(self.obstacle)
        self.window.rewind()
        self._retry_later(now)

    def fail(self, failure: MpsrError | None) -> None:
        """Give the receiver up for good."""
        self.failure = self.failure or (failure and _without_frames(failure))
        self.window.collect_direct()
        self.window.packer.close()

    def _retry_later(self, now: float) -> None:
        jitter = 0.5 + int.from_bytes(os.urandom(2), "big") / 0x20000
        self._retry_at = now + self._backoff * jitter
        self._backoff = min(2 * self._backoff, BACKOFF_MOST)


def _without_frames(error: MpsrError) -> MpsrError:
    """Return an error without its tracebacks: their frames refer to the producer that keeps it."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
