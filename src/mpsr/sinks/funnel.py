"""Pass messages on to another receiver: ``mpsr:ADDRESS``.

The sequence numbers of this producer are positions of the journal, and its id is made of the
journal's: so the other receiver knows, after any crash of this process, what it has already.
"""

from __future__ import annotations

import os
import select
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from mpsr._speedups import codec
from mpsr.errors import (
    AddressError,
    ConfigurationError,
    InvalidAddress,
    MessageRejected,
    RemoteProtocolError,
    SinkError,
)
from mpsr.forwarding import wrapped
from mpsr.json_format import host_name
from mpsr.limits import BATCH_TARGET, MAX_CONTROL_FRAME, MAX_HOPS
from mpsr.sinks.options import choice, options
from mpsr.system import primitives
from mpsr.system.address import absolute, parse_address
from mpsr.system.endpoint import check_receiver, reach
from mpsr.system.trust import Trusted, trusted
from mpsr.wire.frames import PRODUCER_ID_SIZE, Lost, LostReason, encode
from mpsr.wire.sending import Acknowledged, SendingSession, Welcomed

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator

    from mpsr.batch import Batch
    from mpsr.system.address import Address


def sink(target: str) -> FunnelSink:
    """Return a sink of ``ADDRESS?origin=claim&label=NAME&receiver_uid=1000``."""
    known: dict[str, Callable[[str], Any]] = {
        "origin": choice("claim", "none"),
        "label": str,
        "receiver_uid": _user,
    }
    text, given = options(target, known)
    try:
        address = parse_address(text)
        if address.kind == "systemd":
            raise ConfigurationError(f"{text} stands for a receiver's sockets; pass their path")
        address = absolute(address)
    except InvalidAddress as exc:
        raise ConfigurationError(str(exc)) from exc
    label = given.get("label", "mpsr recv")
    receivers = trusted(given.get("receiver_uid"))
    return FunnelSink(address, label, receivers, with_origin=given.get("origin") != "none")


def _user(text: str) -> int | Literal["any"]:
    """Return the user that may receive."""
    if text == "any":
        return "any"
    if not (text.isascii() and text.isdecimal()):
        raise ConfigurationError("it is neither a user id nor any")
    return int(text)


class FunnelSink:
    """Sends batches as one producer, and commits once all are acknowledged.

    Attributes:
        leads_to: the address of the other receiver.

    """

    def __init__(
        self, address: Address, label: str, receivers: Trusted, *, with_origin: bool
    ) -> None:
        self.leads_to: Address = address
        self._address = address
        self._label = label
        self._receivers = receivers
        self._with_origin = with_origin
        self._host = host_name()
        self._id = os.urandom(PRODUCER_ID_SIZE)
        self._sock: socket.socket | None = None
        self._session: SendingSession | None = None
        self._next = 0  # the sequence number behind what was sent, or is known there
        self._accepted = 0
        self._largest = 0  # bytes of a message that the receiver takes
        self._looped: list[tuple[int, int]] = []  # ranges of numbers not sent: they are in a loop

    def open(self, journal: str) -> int | None:
        """Connect; the first batch tells from where on."""
        if journal:
            text = f"{journal} {self._label}"
            self._id = sha256(os.fsencode(text)).digest()[:PRODUCER_ID_SIZE]
        try:
            self._sock = reach(self._address)
            check_receiver(self._address, self._sock, self._receivers)
        except AddressError as exc:
            raise SinkError(str(exc)) from exc
        return None

    def write(self, batch: Batch[Any]) -> None:
        """Send a batch, but for what the receiver has already."""
        seq = self._next if batch.position is None else batch.position - (len(batch) or 1)
        session = self._session or self._introduce(seq)
        if not batch:  # a loss takes one position, however many it tells of
            self._send_gap(session, seq + (batch.position is not None))
            return
        end_seq = seq + len(batch)
        if end_seq <= self._next:
            return
        passed = list(wrapped(batch, self._host) if self._with_origin else batch.iter_raw())
        bodies = self._checked(passed, seq)
        self._send_gap(session, seq)
        for part in _parts(bodies, seq, skip_to=self._next):
            self._send(codec.pack_batch(part, self._next))
            self._next += len(part)
            session.sent(self._next)

    def commit(self) -> None:
        """Wait until all that was sent is acknowledged."""
        while self._accepted < self._next:
            self._read(None)

    def close(self) -> None:
        """Close the connection, without a BYE: the receiver is to remember what it has."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    # -- sending --------------------------------------------------------------------------------

    def _introduce(self, seq: int) -> SendingSession:
        session = self._session = SendingSession(self._id, seq, self._label)
        self._next = self._accepted = seq
        self._send(session.data_to_send())
        while not self._largest:
            self._read(None)
        return session

    def _send_gap(self, session: SendingSession, until: int) -> None:
        """Report the numbers before a sequence number as lost, if they were not sent."""
        for begin, end in self._looped:
            self._lose(session, min(begin, until), LostReason.DROPPED_OLDEST)
            self._lose(session, min(end, until), LostReason.LOOPED)
        self._lose(session, until, LostReason.DROPPED_OLDEST)
        self._looped = [each for each in self._looped if each[1] > until]

    def _lose(self, session: SendingSession, until: int, reason: LostReason) -> None:
        if until > self._next:
            self._send(encode(Lost(self._next, until - self._next, reason)))
            self._next = until
            session.sent(until)

    def _checked(self, bodies: list[bytes | None], seq: int) -> list[bytes]:
        """Return the messages; raise MessageRejected for those that the receiver never takes."""
        reasons: dict[int, str] = {}
        for index, body in enumerate(bodies):
            if seq + index < self._next:
                continue
            if body is None:
                self._note_loop(seq + index)
                reasons[index] = (
                    f"{MAX_HOPS} funnels have passed it on already: they form a loop, or it has a "
                    "forged origin"
                )
            elif len(body) > self._largest:
                reasons[index] = (
                    f"it has {len(body)} bytes with its origin, and the receiver at "
                    f"{self._address} takes {self._largest}"
                )
        if reasons:
            raise MessageRejected(reasons)
        return [body or b"" for body in bodies]

    def _note_loop(self, number: int) -> None:
        begin, end = self._looped.pop() if self._looped else (number, number)
        if end != number:
            self._looped.append((begin, end))
            begin = number
        self._looped.append((begin, number + 1))

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._wait(select.POLLOUT | select.POLLIN)
                self._read(0)
            except OSError as exc:
                self._read(0)  # a refusal says more
                raise self._gone(exc.strerror) from exc

    # -- reading --------------------------------------------------------------------------------

    @property
    def _socket(self) -> socket.socket:
        if self._sock is None:
            raise SinkError("it is not connected")
        return self._sock

    def _wait(self, events: int) -> None:
        poll = primitives.poll()
        poll.register(self._socket, events)
        poll.poll()

    def _read(self, timeout: int | None) -> None:
        """Take what the receiver says, if it says anything; wait for it where timeout is None."""
        if self._session is None:
            return
        if timeout is None:
            self._wait(select.POLLIN)
        try:
            data = self._socket.recv(MAX_CONTROL_FRAME)
        except BlockingIOError:
            return
        except OSError as exc:
            raise self._gone(exc.strerror) from exc
        if not data:
            raise self._gone("it closed the connection")
        try:
            self._session.receive_data(memoryview(data))
        except RemoteProtocolError as exc:
            raise SinkError(f"{self._address}: {exc}") from exc
        for event in self._session.events_received():
            if isinstance(event, Welcomed):
                self._next = self._accepted = event.expected_seq
                self._largest = event.max_message
            elif isinstance(event, Acknowledged):
                self._accepted = max(self._accepted, event.seq)

    def _gone(self, why: str | None) -> SinkError:
        return SinkError(f"the receiver at {self._address} is gone: {why}")


def _parts(bodies: Iterable[bytes], seq: int, *, skip_to: int) -> Iterator[list[bytes]]:
    """Give the messages from a sequence number on, in parts as large as a batch is to be."""
    part: list[bytes] = []
    size = 0
    for number, body in enumerate(bodies, seq):
        if number < skip_to:
            continue
        if part and size + len(body) > BATCH_TARGET:
            yield part
            part, size = [], 0
        part.append(body)
        size += len(body) + 4
    if part:
        yield part
