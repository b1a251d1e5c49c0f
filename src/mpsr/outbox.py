"""Send over one connection, with a buffer and a window, never waiting.

Messages gather in an open batch; a batch that is due is sealed into a parcel, which is kept
until the receiver has accepted it, and sent again, in order, after a reconnect.

Writing comes in three steps, so that a front can make the system call outside its lock:
``begin_write`` chooses what to write, ``write`` writes it, ``end_write`` takes note.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from mpsr.endpoint import peer_of, reach
from mpsr.errors import (
    AddressError,
    MessageTooLarge,
    MpsrError,
    NoReceiver,
    ReceiverBusy,
    Rejected,
    RemoteProtocolError,
    UnframeableMessage,
)
from mpsr.limits import (
    BACKOFF_FIRST,
    BACKOFF_MOST,
    BATCH_TARGET,
    BUFFER,
    IDLE_FRACTION,
    LINGER,
    MAX_CONTROL_FRAME,
    MAX_MESSAGE,
    MIN_BATCHES,
    WRITE_BUFFERS,
    WRITE_SIZE,
)
from mpsr.wakeup import Wakeup
from mpsr.wire import codec
from mpsr.wire.frames import (
    HEADER,
    PRODUCER_ID_SIZE,
    RETRY_CODES,
    Lost,
    LostReason,
    RejectCode,
    encode,
    max_frame,
)
from mpsr.wire.framing import FOREIGN_FRAMINGS, ForeignFraming
from mpsr.wire.session import Acknowledged, SendingSession, State, Welcomed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpsr.endpoint import Address, SocketType
    from mpsr.wire.framing import Framing

OnFull = Literal["block", "raise", "drop_newest", "drop_oldest"]

MESSAGE_COST: Final = 8  # bytes of buffer that a message takes beside its own
_DATAGRAM_OVERHEAD: Final = 32  # bytes of SO_SNDBUF that Linux keeps: unix_dgram_sendmsg()


class ProducerStats(NamedTuple):
    """What a producer has done since it was created: ``sent = accepted + lost + buffered``."""

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


class _Parcel:
    """A sealed batch, or the word that messages were lost, until it is accepted."""

    __slots__ = ("cost", "data", "end_seq", "first_seq", "reason", "split")

    def __init__(
        self,
        first_seq: int,
        end_seq: int,
        data: bytes,
        cost: int,
        *,
        split: Callable[[], list[bytes]] = list,
        reason: LostReason | None = None,
    ) -> None:
        self.first_seq = first_seq
        self.end_seq = end_seq
        self.data = data
        self.cost = cost
        self.split = split  # gives the messages back
        self.reason = reason  # None unless they were lost


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
    ) -> None:
        self.address = address
        self.id = os.urandom(PRODUCER_ID_SIZE)
        self._type: SocketType = type
        self._label = label
        self._on_full = on_full
        self._buffer = buffer
        self._linger = linger
        self._foreign = None if framing == "native" and type == "stream" else FOREIGN_FRAMINGS[
            "stream" if type == "dgram" else framing
        ]  # fmt: skip
        self._alone = self._foreign is not None and self._foreign.alone
        self.max_message = min(max_message, _largest_datagram()) if type == "dgram" else max_message
        self._target = 1 if self._alone else max(1, min(BATCH_TARGET, buffer // MIN_BATCHES))

        self._open: list[bytes] = []
        self._open_cost = 0
        self.due_at = 0.0  # when the open batch is to be sealed
        self._sealed_seq = 0  # the sequence number of the first message in the open batch
        self._unsent: deque[_Parcel] = deque()
        self._inflight: deque[_Parcel] = deque()  # sent, not accepted
        self._cost = 0  # of everything above
        self.accepted_seq = 0
        self._lost = 0
        self._lost_accepted = 0

        self._socket: socket.socket | None = None
        self._session: SendingSession | None = None
        self._greeting = b""  # preface and HELLO, or BYE, as far as not written
        self._offset = 0  # how much of the first unsent parcel is written
        self.in_write = False  # between begin_write and end_write
        self._chosen = 0  # parcels handed to that write
        self._broken = False  # the connection is to be dropped once that write has ended
        self._blocked = False  # the socket takes no more for now
        self._wrote_at = 0.0
        self._retry_at = 0.0
        self._backoff = BACKOFF_FIRST
        self._connects = 0
        self.obstacle: MpsrError | None = None  # why there is no connection just now
        self.failure: MpsrError | None = None  # why there will never be one again
        self.peer_pid: int | None = None

        self._read_buffer = memoryview(bytearray(MAX_CONTROL_FRAME))
        self._selector = selectors.DefaultSelector()
        self.wakeup = Wakeup()
        self._selector.register(self.wakeup, selectors.EVENT_READ)

    # -- taking messages --------------------------------------------------------------------

    @property
    def next_seq(self) -> int:
        """The sequence number that the next message will have."""
        return self._sealed_seq + len(self._open)

    def prepare(self, message: bytes) -> bytes:
        """Return a message as ``offer`` takes it.

        Raises MessageTooLarge, and UnframeableMessage in framings that cannot carry it.
        """
        if len(message) > self.max_message:
            error = f"a message of {len(message)} bytes: the most here is {self.max_message}"
            raise MessageTooLarge(error)
        if self._foreign is None:
            return message
        try:
            return self._foreign.pack([message])
        except ValueError as exc:
            error = f"{exc}: choose another framing, or encode it"
            raise UnframeableMessage(error) from None

    def offer(self, message: bytes, now: float) -> bool:
        """Take a message, or drop one as ``on_full`` says; False where it has to wait for room."""
        cost = len(message) + MESSAGE_COST
        if self._cost and self._cost + cost > self._buffer and not self._make_room(cost):
            if self._on_full in ("block", "raise"):
                return False
            self._lose(LostReason.DROPPED_NEWEST)
            return True
        if self._open and self._open_cost + cost > self._target:
            self.seal()
        if not self._open:
            idle = now - self._wrote_at >= self._linger / IDLE_FRACTION and not self._unsent
            self.due_at = now if idle or self._alone else now + self._linger
        self._open.append(message)
        self._open_cost += cost
        self._cost += cost
        return True

    def offer_many(self, messages: Sequence[bytes], position: int, now: float) -> int:
        """Offer messages from ``position`` on; return where it stopped.

        It stops at the end, for want of room, or when there is enough for a write.
        """
        enough = len(self._unsent) + WRITE_SIZE // BATCH_TARGET
        while position < len(messages) and self.offer(messages[position], now):
            position += 1
            if len(self._unsent) >= enough and self.due(now):
                break
        return position

    def _make_room(self, cost: int) -> bool:
        """Drop the oldest messages that are not on their way, if that is the policy."""
        if self._on_full != "drop_oldest":
            return False
        while self._cost + cost > self._buffer:
            oldest = next(
                (
                    index
                    for index in range(self._untouched(), len(self._unsent))
                    if self._unsent[index].reason is None
                ),
                None,
            )
            if oldest is not None:
                self._replace_with_lost(oldest, LostReason.DROPPED_OLDEST)
            elif self._open:
                self.seal()
            else:
                return False
        return True

    def _replace_with_lost(self, index: int, reason: LostReason) -> None:
        """Put the word that they were lost in the place of a parcel's messages."""
        parcel = self._unsent[index]
        self._cost -= parcel.cost
        self._lost += parcel.end_seq - parcel.first_seq
        first_seq = parcel.first_seq
        if index > self._untouched() and self._unsent[index - 1].reason is reason:
            first_seq = self._unsent[index - 1].first_seq
            index -= 1
            del self._unsent[index]
        self._unsent[index] = self._lost_parcel(first_seq, parcel.end_seq, reason)

    def _untouched(self) -> int:
        """Return the index of the first unsent parcel of which no byte is on its way."""
        return max(self._chosen, 1 if self._offset else 0)

    def _lose(self, reason: LostReason) -> None:
        """Give the next sequence number to a message that is not kept."""
        self.seal()
        self._unsent.append(_Parcel(self._sealed_seq, self._sealed_seq + 1, b"", 0))
        self._sealed_seq += 1
        self._replace_with_lost(len(self._unsent) - 1, reason)

    def _lost_parcel(self, first_seq: int, end_seq: int, reason: LostReason) -> _Parcel:
        data = b"" if self._foreign else encode(Lost(first_seq, end_seq - first_seq, reason))
        return _Parcel(first_seq, end_seq, data, 0, reason=reason)

    def seal(self) -> None:
        """Close the open batch, so that it is sent now."""
        if not self._open:
            return
        messages, self._open = self._open, []
        cost, self._open_cost = self._open_cost, 0
        first_seq, self._sealed_seq = self._sealed_seq, self._sealed_seq + len(messages)
        if self._foreign is None:
            data = codec.pack_batch(messages, first_seq)
            split = partial(_split_frame, data)
        else:
            data = b"".join(messages)
            split = partial(self._foreign.split, data)
        self._unsent.append(_Parcel(first_seq, self._sealed_seq, data, cost, split=split))

    # -- writing ----------------------------------------------------------------------------

    def due(self, now: float) -> bool:
        """Tell whether there is something to write, and a socket that may take it."""
        if self._socket is None or self._blocked or self.in_write:
            return False
        if self._greeting:
            return True
        if self._session is not None and self._session.state is not State.OPEN:
            return False
        return bool(self._unsent) or (bool(self._open) and now >= self.due_at)

    def begin_write(self, now: float) -> list[memoryview]:
        """Choose what to write now; where that is anything, ``end_write`` must follow."""
        if not self.due(now):
            return []
        if self._greeting:
            self.in_write = True
            return [memoryview(self._greeting)]
        if self._open and now >= self.due_at:
            self.seal()
        self._skip_lost()
        chosen: list[memoryview] = []
        size = 0
        for parcel in islice(self._unsent, 1 if self._alone else WRITE_BUFFERS):
            if size >= WRITE_SIZE or (self._foreign is not None and parcel.reason is not None):
                break
            chosen.append(memoryview(parcel.data))
            size += len(parcel.data)
        if not chosen:
            return []
        self.in_write = True
        self._chosen = len(chosen)
        self._wrote_at = now
        if self._session is not None:
            self._session.sent(self._unsent[self._chosen - 1].end_seq)
        chosen[0] = chosen[0][self._offset :]
        return chosen

    def write(self, chosen: list[memoryview]) -> int | OSError:
        """Write; return how many bytes went, or the error. Touches nothing but the socket."""
        try:
            return self._socket.sendmsg(chosen)  # type: ignore[union-attr]  # kept by in_write
        except OSError as exc:
            return exc

    def end_write(self, result: int | OSError, now: float) -> None:
        """Take note of what a write did."""
        self.in_write = False
        chosen, self._chosen = self._chosen, 0
        if self._broken:
            self._drop(self.obstacle, now)
        elif isinstance(result, BlockingIOError):
            self._block()
        elif isinstance(result, OSError):
            self._fail_write(result, now)
        elif self._greeting:
            self._greeting = self._greeting[result:]
            if self._greeting:
                self._block()
        else:
            self._take_written(chosen, result, now)

    def _take_written(self, chosen: int, size: int, now: float) -> None:
        self._offset += size
        for _ in range(chosen):
            parcel = self._unsent[0]
            if self._offset < len(parcel.data):
                self._block()
                return
            self._offset -= len(parcel.data)
            self._unsent.popleft()
            if self._foreign is not None:
                self._accept_parcel(parcel)
                self._backoff = BACKOFF_FIRST
                if self._alone and self._type == "stream":  # its end marks the message's
                    self._drop(None, now)
                    self._retry_at = now
            elif parcel.end_seq <= self.accepted_seq:
                self._accept_parcel(parcel)
            else:
                self._inflight.append(parcel)

    def _fail_write(self, error: OSError, now: float) -> None:
        if self._type == "dgram" and error.errno in (errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM):
            self._replace_with_lost(0, LostReason.TOO_LARGE)
        else:
            self._drop(self._gone(error), now)

    def _block(self) -> None:
        self._blocked = True
        if self._socket is not None:
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(self._socket, events)

    def _skip_lost(self) -> None:
        """Count what was lost as settled in framings that cannot tell it."""
        while self._foreign is not None and self._unsent and self._unsent[0].reason is not None:
            self._accept_parcel(self._unsent.popleft())

    # -- reading ----------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``service`` has something to do."""
        return self._selector.fileno()

    def wait_time(self, now: float) -> float | None:
        """Return the seconds after which ``service`` or a write is due in any case."""
        if self.in_write:
            return None  # whoever writes will look again
        if self._socket is None:
            return max(0.0, self._retry_at - now) if self._wants_connection() else None
        if self.due(now):
            return 0.0
        ready = self._session is None or self._session.state is State.OPEN
        if self._open and ready and not self._blocked:
            return max(0.0, self.due_at - now)
        return None

    def service(self, now: float) -> None:
        """Take what the receiver sent; connect, where that is due."""
        for key, mask in self._selector.select(0):
            if key.fileobj is self.wakeup:
                self.wakeup.clear()
                continue
            if mask & selectors.EVENT_WRITE and self._socket is not None:
                self._blocked = False
                self._selector.modify(self._socket, selectors.EVENT_READ)
            if mask & selectors.EVENT_READ and not self._broken:
                self._read(now)
        if self._wants_connection() and now >= self._retry_at:
            self._connect(now)

    def _wants_connection(self) -> bool:
        if self._socket is not None or self.failure is not None:
            return False
        return self._foreign is None or bool(self._unsent or self._open)

    def _connect(self, now: float) -> None:
        try:
            self._socket = reach(self.address, type=self._type)
        except AddressError as exc:
            self.obstacle = exc
            self._retry_later(now)
            return
        self._connects += 1
        self.peer_pid = peer_of(self._socket).pid
        self._selector.register(self._socket, selectors.EVENT_READ)
        if self._foreign is None:
            self._session = SendingSession(self.id, self.accepted_seq, self._label)
            self._greeting = self._session.data_to_send()
            text = f"{self.address} took the connection, but no receiver has answered yet"
            self.obstacle = ReceiverBusy(text, address=str(self.address), pid=self.peer_pid)
        else:
            self.obstacle = None

    def _read(self, now: float) -> None:
        try:
            size = self._socket.recv_into(self._read_buffer)  # type: ignore[union-attr]
        except BlockingIOError:
            return
        except OSError as exc:
            self._drop(self._gone(exc), now)
            return
        if size == 0 and self._type != "dgram":
            self._drop(self._gone(None), now)
        elif self._session is not None:
            self._receive(self._session, self._read_buffer[:size], now)

    def _receive(self, session: SendingSession, data: memoryview, now: float) -> None:
        failure: RemoteProtocolError | None = None
        try:
            session.receive_data(data)
        except RemoteProtocolError as exc:
            failure = exc
        for event in session.events_received():
            if isinstance(event, Acknowledged):
                self._accept(event.seq)
            elif event.expected_seq > self._sealed_seq:
                error = f"the receiver expects message {event.expected_seq}, which does not exist"
                failure = RemoteProtocolError(error, code=RejectCode.GAP)
            else:
                self._welcome(event)
        if failure is not None:
            if not (isinstance(failure, Rejected) and failure.code in RETRY_CODES):
                self.failure = failure
            self._drop(failure, now)

    def _welcome(self, welcomed: Welcomed) -> None:
        self.obstacle = None
        self._backoff = BACKOFF_FIRST
        while self._unsent and self._unsent[0].end_seq <= welcomed.expected_seq:
            self._inflight.append(self._unsent.popleft())
        if welcomed.max_message < self.max_message:
            self.max_message = welcomed.max_message
            self._target = min(self._target, self.max_message)
            self._refit()

    def _refit(self) -> None:
        """Pack anew what is larger than the receiver takes, message by message."""
        self.seal()
        parcels, self._unsent = self._unsent, deque()
        for parcel in parcels:
            if len(parcel.data) <= HEADER.size + max_frame(self.max_message):
                self._unsent.append(parcel)
                continue
            for seq, message in enumerate(parcel.split(), parcel.first_seq):
                data = codec.pack_batch([message], seq)
                cost = len(message) + MESSAGE_COST
                split: Callable[[], list[bytes]] = partial(list, (message,))
                self._unsent.append(_Parcel(seq, seq + 1, data, cost, split=split))
                if len(message) > self.max_message:
                    self._replace_with_lost(len(self._unsent) - 1, LostReason.TOO_LARGE)

    def _accept(self, seq: int) -> None:
        self.accepted_seq = max(self.accepted_seq, seq)
        while self._inflight and self._inflight[0].end_seq <= seq:
            self._accept_parcel(self._inflight.popleft())

    def _accept_parcel(self, parcel: _Parcel) -> None:
        self.accepted_seq = max(self.accepted_seq, parcel.end_seq)
        self._cost -= parcel.cost
        if parcel.reason is not None:
            self._lost_accepted += parcel.end_seq - parcel.first_seq

    # -- losing the connection --------------------------------------------------------------

    def _gone(self, error: OSError | None) -> MpsrError:
        why = error.strerror if error is not None and error.strerror else "it closed the connection"
        text = f"the receiver at {self.address} is gone: {why}"
        return NoReceiver(text, address=str(self.address))

    def _drop(self, obstacle: MpsrError | None, now: float) -> None:
        """Give the connection up; what was not accepted waits for the next one."""
        self.obstacle = obstacle
        if self.in_write:
            self._broken = True
            return
        self._broken = self._blocked = False
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
            if self.address.kind == "fd" and not self._alone:
                self.failure = self.failure or obstacle
        self._session = None
        self._greeting = b""
        if self._foreign is not None and self._offset:
            self._cut(self._foreign)
        self._offset = 0
        self._unsent.extendleft(reversed(self._inflight))
        self._inflight.clear()
        self._retry_later(now)

    def _cut(self, foreign: ForeignFraming) -> None:
        """Drop the messages from a partly written parcel that went whole."""
        parcel = self._unsent.popleft()
        messages = parcel.split()
        whole = size = 0
        for message in messages:
            size += len(foreign.pack([message]))
            if size > self._offset:
                break
            whole += 1
        rest = messages[whole:]
        data = foreign.pack(rest)
        cost = len(data) + MESSAGE_COST * len(rest)
        middle = parcel.first_seq + whole
        done = _Parcel(parcel.first_seq, middle, b"", parcel.cost - cost)
        self._accept_parcel(done)
        split = partial(foreign.split, data)
        self._unsent.appendleft(_Parcel(middle, parcel.end_seq, data, cost, split=split))

    def _retry_later(self, now: float) -> None:
        jitter = 0.5 + int.from_bytes(os.urandom(2), "big") / 0x20000
        self._retry_at = now + self._backoff * jitter
        self._backoff = min(2 * self._backoff, BACKOFF_MOST)

    # -- the end ----------------------------------------------------------------------------

    def say_bye(self) -> bool:
        """Prepare the word that this is an orderly end, if it is one; True if it is to be sent."""
        done = self.accepted_seq == self.next_seq and not self.in_write and not self._greeting
        if not done or self._session is None or self._session.state is not State.OPEN:
            return False
        self._session.bye()
        self._greeting = self._session.data_to_send()
        return True

    def close(self) -> None:
        """Close the descriptors."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._selector.close()
        self.wakeup.close()

    def unaccepted(self) -> list[bytes]:
        """Return the messages that were taken and not accepted, in order."""
        self.seal()
        messages: list[bytes] = []
        for parcel in (*self._inflight, *self._unsent):
            if parcel.reason is None:
                start = max(0, self.accepted_seq - parcel.first_seq)
                messages += parcel.split()[start:]
        return messages

    def stats(self) -> ProducerStats:
        """Return what was done so far."""
        sent = self.next_seq
        accepted = self.accepted_seq - self._lost_accepted
        return ProducerStats(
            sent=sent,
            accepted=accepted,
            lost=self._lost,
            buffered=sent - accepted - self._lost,
            buffered_bytes=self._cost,
            connects=self._connects,
            connected=self._socket is not None and self.obstacle is None,
        )


def _split_frame(data: bytes) -> list[bytes]:
    return codec.split_batch(data[HEADER.size :], 0)


def _largest_datagram() -> int:
    """Return how long a datagram may be on this system."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _DATAGRAM_OVERHEAD
