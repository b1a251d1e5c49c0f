"""Hold one observer's connection: what it asked for, and what it is sent."""

from __future__ import annotations

import socket
from math import inf
from typing import TYPE_CHECKING

from mpsr.engine.receiving.samples import Sampler
from mpsr.json_format import to_json
from mpsr.limits import MIN_STATUS_INTERVAL, OBSERVER_DEADLINE, PACKET_STATUS, TOLD_PRODUCERS
from mpsr.names import all_in_utf8
from mpsr.system import passing
from mpsr.system.descriptors import DONTWAIT
from mpsr.wire.frames import Reject as RejectFrame
from mpsr.wire.frames import RejectCode, encode, encode_status, encode_tap

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.engine.receiving.samples import Sample
    from mpsr.system.descriptors import Socket
    from mpsr.wire.frames import Observe

    Describe = Callable[[int], bytes]
    """Return a status as JSON, with at most so many producers."""


class Observer:
    """An observer, which is sent what it reads: what it does not is skipped.

    Attributes:
        uid: its user.
        sampler: takes samples for it, if it wants some.
        status_at: when it is to be sent a status, on the monotonic clock.
        ended: whether its connection is to be closed, by its owner.

    """

    def __init__(
        self, sock: Socket, uid: int | None, request: Observe, wake: Callable[[], None]
    ) -> None:
        """Serve what was asked for through a socket; ``wake`` makes the thread come that does."""
        self._socket = sock
        self.uid: int | None = uid
        self._packets = sock.type == socket.SOCK_SEQPACKET
        self._interval = 0.0
        if request.interval:
            self._interval = max(MIN_STATUS_INTERVAL, request.interval / 1000)
        self.sampler: Sampler | None = None
        if request.rate:
            self.sampler = Sampler(request.rate, request.clip, wake)
        self.status_at: float = 0.0
        self.ended: bool = False
        self._out: list[bytes] = []  # frames; of the first a part may be sent
        self._due: float = inf  # when it has to have read something
        self._last = not (request.interval or request.rate)  # whether it is done once out

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def waits(self) -> bool:
        """Whether there is something that it has not read."""
        return bool(self._out)

    @property
    def due(self) -> float:
        """When there is something to do in any case, on the monotonic clock."""
        return min(self.status_at, self._due)

    def wants(self, now: float) -> bool:
        """Tell whether there is something to do for it."""
        return now >= self.due or (self.sampler is not None and bool(self.sampler.samples))

    def serve(self, now: float, describe: Describe) -> None:
        """Send what is due; end an observer that does not read."""
        if now >= self._due:
            self.ended = True
            return
        if now >= self.status_at:
            if not self._out:  # else it is sent the next one
                self._add(self._status(describe))
            self.status_at = now + self._interval if self._interval else inf
        while self.sampler is not None and self.sampler.samples and not self._out:
            self._add(_tap(self.sampler.samples.popleft()))
            self.flush(now)
        self.flush(now)

    def reject(self, code: RejectCode, text: str) -> None:
        """Send the reason why it is not served, and end."""
        self._out.append(encode(RejectFrame(code, text)))
        self.flush(0.0)
        self.ended = True

    def hear(self) -> None:
        """Take note of its end: it has nothing more to say."""
        try:
            self._socket.check()
            said = self._socket.recv(1, DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            self.reject(RejectCode.UNEXPECTED, "an observer says nothing behind OBSERVE")
        else:
            self.ended = True

    def flush(self, now: float) -> None:
        """Send what it will take now."""
        while self._out and not self.ended:
            frame = self._out[0]
            try:
                self._socket.check()
                sent = self._socket.send(frame)
            except BlockingIOError:
                self._due = min(self._due, now + OBSERVER_DEADLINE)
                return
            except OSError:  # gone
                self.ended = True
                return
            self._due = inf if sent == len(frame) else now + OBSERVER_DEADLINE
            if sent == len(frame):
                del self._out[0]
            else:
                self._out[0] = frame[sent:]
        if self._last and not self._out and self.status_at == inf:
            self.ended = True

    def close(self, *, inherited: bool = False) -> None:
        """Close the connection; of one that is ``inherited``, only the descriptor."""
        if inherited:
            self._socket.close()
        else:
            passing.close_socket(self._socket)

    def _add(self, frame: bytes) -> None:
        self._out.append(frame)

    def _status(self, describe: Describe) -> bytes:
        """Return a status, which of packets has to fit one."""
        most = TOLD_PRODUCERS
        document = describe(most)
        while self._packets and len(document) > PACKET_STATUS and most:
            most //= 2
            document = describe(most)
        return encode_status(document)


def _tap(sample: Sample) -> bytes:
    producer = sample.producer
    identity = None if producer is None else {"id": producer.id.hex(), "label": producer.label}
    head = {
        "time": sample.time,
        "peer": sample.peer._asdict(),
        "producer": identity,
        "address": sample.address,
        "seq": sample.seq,
        "size": sample.size,
        "skipped": sample.skipped,
    }
    return encode_tap(to_json(all_in_utf8(head)).encode(), sample.body)
