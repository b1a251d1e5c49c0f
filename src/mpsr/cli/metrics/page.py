"""Serve the metrics of a receiver over HTTP, whatever its consumer does."""

from __future__ import annotations

import select
import socket
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.process_collector import ProcessCollector

from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import say
from mpsr.errors import AddressInUse, Explanation, MpsrError
from mpsr.limits import HANDOVER_TIMEOUT, MAX_SCRAPES, SCRAPE_DEADLINE
from mpsr.metrics import Collector
from mpsr.system import primitives
from mpsr.system.descriptors import accept
from mpsr.system.threads import start_thread
from mpsr.system.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpsr.cli.metrics.place import Listening, Place
    from mpsr.sync.receiver import Receiver
    from mpsr.system.threads import Thread

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
    """Answers one scrape, and tells nobody of it."""

    def address_string(self) -> str:
        """Return no address: a peer at a Unix socket has none, and nobody asks for it."""
        return ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing: a scrape is none of what a receiver tells of."""


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


class _Page:
    """The page: one thread accepts, and one answers each scrape, a few at a time.

    A connection that is not done with in time is shut down, however slowly it goes on; so the
    threads are few, and none is stuck.
    """

    def __init__(self, registry: CollectorRegistry, *, quiet: bool) -> None:
        self._answering = _Answering(registry)
        self._quiet = quiet
        self._listening: Listening | None = None
        self._nudge = Wakeup()
        self._open: dict[socket.socket, float] = {}  # each with its deadline
        self._lock = primitives.Lock()
        self._closing = False
        self._threads: list[Thread] = []

    def listen(self, listening: Listening) -> None:
        """Serve at sockets that listen."""
        self._listening = listening
        if not self._quiet:
            say(f"metrics at {listening.shown}")
        work = partial(self._accept, listening)
        self._threads.append(start_thread(work, name="mpsr metrics"))

    def listen_later(self, place: Place) -> None:
        """Serve at a place as soon as whoever has it gives it up."""
        work = partial(self._await_place, place, monotonic() + HANDOVER_TIMEOUT)
        self._threads.append(start_thread(work, name="mpsr metrics"))

    def close(self) -> None:
        """Give the place up; what is being answered is broken off."""
        with self._lock:
            self._closing = True
            self._nudge.set()
        for thread in self._threads:
            thread.join()
        with self._lock:
            for connection in self._open:
                _shut(connection)
        self._nudge.close()
        if self._listening is not None:
            self._listening.close()

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
            self._listening = listening
            if not self._quiet:
                say(f"metrics at {listening.shown}")
            self._accept(listening)

    def _accept(self, listening: Listening) -> None:
        listeners = {each.fileno(): each for each in listening.sockets}
        while True:
            now = monotonic()
            with self._lock:
                self._nudge.clear()
                if self._closing:  # looked at behind it, so that no nudge is missed
                    return
                for connection, deadline in self._open.items():
                    if deadline <= now:
                        _shut(connection)
                        self._open[connection] = inf  # its thread sees it, and forgets it
                until = min(self._open.values(), default=inf)
                room = len(self._open) < MAX_SCRAPES
            poll = primitives.poll()
            poll.register(self._nudge.fileno(), select.POLLIN)
            for descriptor in listeners if room else ():
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll(None if until == inf else (until - now) * 1000 + 1):
                if descriptor in listeners:
                    self._take(listeners[descriptor])

    def _take(self, listener: socket.socket) -> None:
        try:
            connection = accept(listener)
        except OSError:  # it has gone away, or there are no descriptors: it will come again
            primitives.sleep(_RETRY)
            return
        connection.settimeout(SCRAPE_DEADLINE)
        with self._lock:
            self._open[connection] = monotonic() + SCRAPE_DEADLINE
        try:
            start_thread(partial(self._answer, connection), name="mpsr scrape")
        except (RuntimeError, MemoryError):
            self._forget(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):  # it has gone away, or its time is over
                _Handler(connection, ("", 0), self._answering)
        finally:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            del self._open[connection]
            self._nudge.set()
        connection.close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
