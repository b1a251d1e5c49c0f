"""Serve the metrics of a receiver over HTTP, whatever its consumer does."""

from __future__ import annotations

import re
import socket
from collections import Counter
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.process_collector import ProcessCollector

from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import say
from mpsr.errors import AddressInUse, Explanation, MpsrError
from mpsr.limits import HANDOVER_TIMEOUT, MAX_SCRAPE_REQUEST, MAX_SCRAPES, SCRAPE_DEADLINE
from mpsr.metrics import Collector
from mpsr.system import primitives
from mpsr.system.descriptors import accept
from mpsr.system.poller import READ, WRITE, Poller
from mpsr.system.sockets import peer_of
from mpsr.system.threads import start_thread
from mpsr.system.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.cli.metrics.place import Listening, Place
    from mpsr.sync.receiver import Receiver
    from mpsr.system.threads import Thread

_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")  # the empty line after the last header
_RETRY: Final = 0.05  # seconds until a place that is in use is tried again


@contextmanager
def served(receiver: Receiver, place: Place, *, handover: bool, quiet: bool) -> Iterator[None]:
    """Serve a receiver's metrics, and this process's, until the block ends.

    With ``handover`` the receiver before may still serve its own there: then it is waited for in
    the background, for as long as it may take to end.

    Raises:
        AddressError: it cannot be served there; its subclasses say why.
        CommandFailed: somebody else is there.

    """
    registry = CollectorRegistry()
    registry.register(Collector(receiver))
    ProcessCollector(registry=registry)
    page = _Page(registry, quiet=quiet)
    try:
        try:
            page.listen(place.listen())
        except AddressInUse as exc:
            if not handover:  # said here: what the receiver's own address needs is other advice
                raise CommandFailed(Status.BUSY, Explanation.of(exc)) from exc
            page.listen_later(place)
        yield
    finally:
        page.close()


class _Handler(WSGIRequestHandler):
    """Handler that answers one scrape and logs nothing."""

    def address_string(self) -> str:
        """Return no address: a peer at a Unix socket has none, and nobody asks for it."""
        return ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing: a scrape is no event of the receiver."""


class _Answering(WSGIServer):
    """What a handler needs of a server, without a socket of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()
        self.set_app(make_wsgi_app(registry))

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: who has gone away needs no answer."""


class _Request:
    """A complete request, as a handler reads it from a socket; it keeps the answer.

    Attributes:
        answer: the bytes that the handler has written.

    """

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.answer: bytearray = bytearray()

    def makefile(self, *_: object) -> BytesIO:
        """Return the request as a file."""
        return BytesIO(self._head)

    def sendall(self, data: bytes) -> None:
        """Keep a part of the answer."""
        self.answer += data


class _Scrape:
    """One connection: it sends a request, then it reads the answer.

    Attributes:
        source: its user, or at a port its address.
        deadline: when it is closed, on the monotonic clock, even if it is slow and not idle.
        answered: whether its request is complete.

    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        sock.setblocking(False)
        self.socket: socket.socket = sock
        unix = sock.family == socket.AF_UNIX
        self.source: object = peer_of(sock).uid if unix else sock.getpeername()[0]
        self.deadline: float = deadline
        self.answered: bool = False
        self._bytes = b""  # of the request; then the remainder of the answer

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.socket.fileno()

    def proceed(self, answering: _Answering) -> bool:
        """Read and write without waiting; return False if the connection must be closed."""
        try:
            if not self.answered:
                data = self.socket.recv(MAX_SCRAPE_REQUEST)
                self._bytes += data
                if not _HEAD_END.search(self._bytes):
                    return bool(data) and len(self._bytes) < MAX_SCRAPE_REQUEST
                request = _Request(self._bytes)
                _Handler(request, ("", 0), answering)  # type: ignore[arg-type]  # all that it uses
                self._bytes, self.answered = bytes(request.answer), True
            self._bytes = self._bytes[self.socket.send(self._bytes) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(self._bytes)


class _Page:
    """The page, served by one thread that never waits for a single connection.

    A connection is answered once its request is complete. If there are too many, the user or
    address with the most loses its oldest one without a complete request.
    """

    def __init__(self, registry: CollectorRegistry, *, quiet: bool) -> None:
        self._answering = _Answering(registry)
        self._quiet = quiet
        self._listening: Listening | None = None
        self._nudge = Wakeup()
        self._poller = Poller()
        self._poller.register(self._nudge, READ, None)
        self._scrapes: dict[_Scrape, None] = {}  # the oldest first
        self._closing = False
        self._thread: Thread | None = None

    def listen(self, listening: Listening) -> None:
        """Serve at sockets that listen."""
        self._show(listening)
        self._thread = start_thread(partial(self._serve, listening), name="mpsr metrics")

    def listen_later(self, place: Place) -> None:
        """Serve at a place as soon as its present owner releases it."""
        work = partial(self._await_place, place, monotonic() + HANDOVER_TIMEOUT)
        self._thread = start_thread(work, name="mpsr metrics")

    def close(self) -> None:
        """Release the place; close the connections."""
        self._closing = True
        self._nudge.set()
        if self._thread is not None:
            self._thread.join()
        for scrape in list(self._scrapes):
            self._drop(scrape)
        self._poller.close()
        self._nudge.close()
        if self._listening is not None:
            self._listening.close()

    def _show(self, listening: Listening) -> None:
        self._listening = listening
        if not self._quiet:
            say(f"metrics at {listening.shown}")

    def _await_place(self, place: Place, until: float) -> None:
        while not self._closing:
            try:
                listening = place.listen()
            except MpsrError as exc:
                if not isinstance(exc, AddressInUse) or monotonic() >= until:
                    say(f"no metrics are served: {exc}")
                    return
                primitives.sleep(_RETRY)
                continue
            self._show(listening)
            self._serve(listening)
            return

    def _serve(self, listening: Listening) -> None:
        for listener in listening.sockets:
            self._poller.register(listener, READ, listener)
        while not self._closing:
            now = monotonic()
            for scrape in [each for each in self._scrapes if each.deadline <= now]:
                self._drop(scrape)
            due = min((each.deadline for each in self._scrapes), default=inf)
            for source, _ in self._poller.poll(None if due == inf else due - now):
                if isinstance(source, _Scrape):
                    self._proceed(source)
                elif source is not None:
                    self._accept(source)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock = accept(listener)
        except BlockingIOError:
            return
        except OSError:  # there are no descriptors left
            primitives.sleep(_RETRY)
            return
        try:
            scrape = _Scrape(sock, monotonic() + SCRAPE_DEADLINE)
        except OSError:  # it has disconnected
            sock.close()
            return
        if len(self._scrapes) >= MAX_SCRAPES:
            self._evict()
        self._scrapes[scrape] = None
        self._poller.register(scrape, READ, scrape)
        self._proceed(scrape)

    def _proceed(self, scrape: _Scrape) -> None:
        if scrape not in self._scrapes:  # evicted since it was found ready
            return
        answered = scrape.answered
        if not scrape.proceed(self._answering):
            self._drop(scrape)
        elif scrape.answered != answered:
            self._poller.modify(scrape, WRITE)

    def _evict(self) -> None:
        ((source, _),) = Counter(each.source for each in self._scrapes).most_common(1)
        theirs = [each for each in self._scrapes if each.source == source]
        self._drop(min(theirs, key=lambda each: each.answered))  # of equal ones, the oldest

    def _drop(self, scrape: _Scrape) -> None:
        del self._scrapes[scrape]
        self._poller.unregister(scrape)
        scrape.socket.close()
