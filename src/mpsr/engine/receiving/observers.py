"""Answer observers in a thread of their own, also while the engine's caller is stuck.

The engine runs in its caller's thread: while that handles a batch, nobody accepts. So this thread
looks, too, once somebody has connected: if the engine has not moved for STANDSTILL, it accepts, and
serves whoever proves to be an observer. All others wait for the engine, in order. An observer that
the engine has accepted itself it hands over. While nobody connects, the thread sleeps.
"""

from __future__ import annotations

import os
import select
import socket
from collections import Counter, deque
from contextlib import ExitStack, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from mpsr.engine.receiving.complaints import logger
from mpsr.engine.receiving.observer import Observer
from mpsr.errors import RemoteProtocolError
from mpsr.json_format import to_json
from mpsr.limits import (
    LONGEST_WAIT,
    LOOK_AGAIN,
    MAX_OBSERVERS,
    MAX_OBSERVERS_PER_UID,
    MIN_STATUS_INTERVAL,
    STANDSTILL,
    UNDECIDED_TIME,
)
from mpsr.names import all_in_utf8
from mpsr.system.clock import monotonic
from mpsr.system.descriptors import Socket
from mpsr.system.poller import READ, WRITE, EpollPoller, Poller
from mpsr.system.sockets import peer_of
from mpsr.system.threads import Thread
from mpsr.system.wakeup import Wakeup
from mpsr.wire.frames import (
    HEADER,
    OBSERVER_OPENING,
    OBSERVER_OPENING_SIZE,
    PREFACE,
    Observe,
    RejectCode,
    decode,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.engine.receiving.held import Held, HeldConnection
    from mpsr.engine.receiving.listener import Listener
    from mpsr.engine.receiving.overview import Overview
    from mpsr.engine.receiving.samples import Sampler
    from mpsr.system.poller import AnyPoller

_JOIN: Final = 1.0  # seconds: the thread never waits for longer than a system call
_ONCE: Final = READ | getattr(select, "EPOLLONESHOT", 0)


class Observers:
    """The observers of one receiver.

    The thread owns the poller, the wakeup and the connections of observers, and closes them at its
    end; ``close()`` asks it to end, waits, and closes the remainder once there is no thread.

    Attributes:
        overview: what is told of the receiver.
        samplers: those that want samples of what is handed out.

    """

    def __init__(self, held: Held, uids: frozenset[int]) -> None:
        """Let our own user and root look, and ``uids``.

        The thread is started once there is something to receive, its descriptors are made now:
        where there are too few, a receiver fails at once and not later.
        """
        self.samplers: tuple[Sampler, ...] = ()
        self._held = held
        self._uids = uids
        self._listeners: list[Listener] = []
        self._observers: set[Observer] = set()
        self._handed: deque[Observer] = deque()  # by the engine, to the thread
        self._thread: Thread | None = None
        self._closing = False
        # Whether the program had closed the poller: the thread may wait in it until the end.
        self._lost = False
        self._watched: dict[Listener, Socket] = {}  # which of its sockets is polled
        self._looks: dict[Listener, tuple[float, int]] = {}  # when, and the engine's rounds then
        self._undecided: dict[HeldConnection, float] = {}  # until when
        self._still: tuple[int, float] | None = None  # the rounds, and since when
        self._described_at = -inf  # when the last document was made
        self._documents: dict[int, bytes] = {}  # made then, by the number of producers in them
        with ExitStack() as undo:
            self._poller: AnyPoller = Poller()
            undo.callback(self._poller.close)
            self._wakeup = Wakeup()
            undo.callback(self._wakeup.close)
            self._poller.register(self._wakeup, READ, None)
            undo.pop_all()

    def look_at(self, listeners: Sequence[Listener], overview: Overview) -> None:
        """Tell of a receiver with these listeners."""
        self.overview: Overview = overview
        self._listeners = [each for each in listeners if each.type != socket.SOCK_DGRAM]

    # -- for the engine ---------------------------------------------------------------------

    def permits(self, uid: int | None) -> bool:
        """Tell whether a user may look."""
        return uid in (0, os.geteuid()) or uid in self._uids

    def has_place(self, uid: int | None) -> bool:
        """Return whether one more observer of a user can be served."""
        users = Counter(each.uid for each in [*self._handed, *self._observers])
        return users.total() < MAX_OBSERVERS and users[uid] < MAX_OBSERVERS_PER_UID

    def engine_moves(self) -> None:
        """Note that the engine looks at what is ready; the first time, begin to look as well."""
        if not self._held.rounds:
            self.start()
        self._held.rounds += 1

    def start(self) -> bool:
        """Begin to look, once there is something to receive; tell whether that is possible."""
        if self._thread is None and self._listeners and not self._closing:
            self._watch()
            thread = Thread(self._run, name="mpsr observers")
            with suppress(RuntimeError, MemoryError):  # there are too many, or the program ends
                thread.start()
                self._thread = thread
        return self._thread is not None and self._thread.alive

    def take(self, descriptor: int, uid: int | None, request: Observe) -> Observer:
        """Return an observer whose connection the engine has, which is duplicated.

        Raises RemoteProtocolError if it may not look, or cannot be served.
        """
        if not self.permits(uid):
            why = "it would observe, and may not look here"
            raise RemoteProtocolError(why, code=RejectCode.DENIED)
        if not self.start():
            why = "the receiver has no thread that could answer"
            raise RemoteProtocolError(why, code=RejectCode.BUSY)
        try:
            number = os.dup(descriptor)
        except OSError as exc:
            why = f"the receiver has no descriptor left: {exc.strerror}"
            raise RemoteProtocolError(why, code=RejectCode.BUSY) from None
        sock = Socket(fileno=number)
        sock.setblocking(False)
        return Observer(sock, uid, request, self._wakeup.set)

    def begin(self, observer: Observer) -> None:
        """Serve an observer."""
        self._handed.append(observer)
        self._wakeup.set()

    def renew(self) -> None:
        """Look at the sockets of the listeners anew: one was exchanged."""
        if self._thread is not None and not self._closing:
            self._wakeup.set()

    def close(self) -> None:
        """End the thread, and with it the connections of observers; it may be called again."""
        if not self._closing:  # before the thread closes the poller
            self._lost = not self._poller.intact
        self._closing, self.samplers = True, ()
        self._wakeup.set()
        thread = self._thread
        if thread is not None and thread.is_current():  # a finalizer may run in any thread
            return
        if thread is None or self._lost or thread.join(_JOIN):
            self._release()

    def abandon(self) -> None:
        """Close the descriptors that a forked child inherited."""
        self._closing, self.samplers = True, ()
        self._release(inherited=True)

    # -- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing and self._poller.intact:
                self._step()
        except Exception as exc:
            if self._poller.intact:  # else the program has closed it
                what = "the receiver no longer answers observers: %r; this is a bug in mpsr"
                logger().error(what, exc)
            raise
        finally:
            self._release()

    def _step(self) -> None:
        """Wait until there is something to do, and do it."""
        now = monotonic()
        dues = [at for at, _ in self._looks.values()]
        dues += [each.due for each in self._observers]
        if self._undecided:
            dues.append(now + LOOK_AGAIN)
        due = min(dues, default=inf)
        ready = self._poller.poll(None if due == inf else min(max(0.0, due - now), LONGEST_WAIT))
        if self._closing:
            return
        self._wakeup.clear()
        now = monotonic()
        for source, events in ready:
            if isinstance(source, Observer):
                self._serve(source, events, now)
            elif source is not None:
                self._looks[source] = (now + STANDSTILL, self._held.rounds)
        while self._handed:
            self._begin(self._handed.popleft(), now)
        self._watch()
        self._look_all(now)
        self._decide(now)
        for observer in list(self._observers):
            if observer.wants(now):
                self._serve(observer, 0, now)

    # -- accepting --------------------------------------------------------------------------

    def _watch(self) -> None:
        """Wait for connections, where the poller has an epoll that can report each once."""
        if not isinstance(self._poller, EpollPoller):
            return
        with self._held.lock:  # no socket is exchanged meanwhile
            for listener in self._listeners:
                if self._watched.get(listener) is not listener.socket:
                    with suppress(OSError):
                        self._poller.register(listener.socket, _ONCE, listener)
                        self._watched[listener] = listener.socket

    def _watch_again(self, listener: Listener) -> None:
        """Wait for the next connection, unless the socket was exchanged: ``_watch`` sees that."""
        with self._held.lock:
            if self._watched.get(listener) is listener.socket:
                with suppress(OSError):
                    self._poller.modify(listener.socket, _ONCE)

    def _look_all(self, now: float) -> None:
        for listener, (at, rounds) in list(self._looks.items()):
            if now >= at:
                del self._looks[listener]
                self._look(listener, rounds, now)

    def _look(self, listener: Listener, rounds: int, now: float) -> None:
        """Accept what the engine has not, if it has not moved, or accepts no more for now."""
        still = self._held.rounds == rounds
        if still and (self._still is None or self._still[0] != rounds):
            self._still = (rounds, now - STANDSTILL)
        if still or listener.paused:
            unless_moved = rounds if still else None
            while (held := self._held.accept_apart(listener, unless_moved, now)) is not None:
                self._undecided[held] = now + UNDECIDED_TIME
            self._held.wake()
            if self._held.full:  # some of those that are held can be evicted soon
                self._looks[listener] = (now + LOOK_AGAIN, rounds)
                return
        self._watch_again(listener)

    def _decide(self, now: float) -> None:
        """Take those from the engine that prove to be observers."""
        for held, until in list(self._undecided.items()):
            opening = self._held.peek(held, OBSERVER_OPENING_SIZE)
            if opening is None or not OBSERVER_OPENING.startswith(opening[: len(OBSERVER_OPENING)]):
                del self._undecided[held]
            elif len(opening) == OBSERVER_OPENING_SIZE:
                del self._undecided[held]
                if self._held.remove(held):
                    self._admit(held, now)
            elif now >= until:
                del self._undecided[held]

    def _admit(self, held: HeldConnection, now: float) -> None:
        """Serve an observer that was accepted here, if its user may look."""
        opening = held.sock.recv(OBSERVER_OPENING_SIZE)
        head = len(PREFACE)
        kind = HEADER.unpack_from(opening, head)[1]
        request = decode(kind, opening[head + HEADER.size :])
        if not isinstance(request, Observe):
            held.sock.close()
            return
        uid = peer_of(held.sock).uid
        observer = Observer(held.sock, uid, request, self._wakeup.set)
        if self.permits(uid):
            self._begin(observer, now)
        else:
            observer.reject(RejectCode.DENIED, "it would observe, and may not look here")
            observer.close()

    # -- observers --------------------------------------------------------------------------

    def _begin(self, observer: Observer, now: float) -> None:
        if not self.has_place(observer.uid):
            observer.reject(RejectCode.BUSY, "too many observe the receiver already")
            observer.close()
            return
        self._observers.add(observer)
        self._poller.register(observer, READ, observer)
        if observer.sampler is not None:
            self.samplers = (*self.samplers, observer.sampler)
        self._serve(observer, 0, now)

    def _serve(self, observer: Observer, events: int, now: float) -> None:
        waited = observer.waits
        if events & ~WRITE:
            observer.hear()
        again = self._described_at + MIN_STATUS_INTERVAL
        if self._described_at < now < again:
            observer.status_at = max(observer.status_at, again)
        if not observer.ended:
            observer.serve(now, partial(self._document, now))
        if observer.ended:
            self._observers.discard(observer)
            self.samplers = tuple(
                each.sampler for each in self._observers if each.sampler is not None
            )
            # In this order: if a forked process has a copy, a close does not end the registration.
            self._poller.unregister(observer)
            observer.close()
        elif observer.waits != waited:
            self._poller.modify(observer, READ | WRITE if observer.waits else READ)

    def _document(self, now: float, most: int) -> bytes:
        """Return the status with at most ``most`` producers, made once for all observers."""
        if self._described_at != now:
            self._described_at = now
            self._documents.clear()
        if most not in self._documents:
            self._documents[most] = to_json(all_in_utf8(self._describe(most))).encode()
        return self._documents[most]

    def _describe(self, most: int) -> dict[str, Any]:
        still = None
        if self._still is not None:
            rounds, since = self._still
            if rounds != self._held.rounds:
                self._still = None
            elif self._something_waits():
                still = since
            else:  # the next message or connection waits from now on, at the earliest
                self._still = (rounds, monotonic())
        return self.overview.document(still_since=still, most=most)

    def _something_waits(self) -> bool:
        """Return whether anything but observers waits for the engine, which has not moved."""
        undecided = {each.order for each in self._undecided}  # it may be an observer
        held = set(self._held.waiting)  # in one step, for the engine may take one meanwhile
        return self._held.full or not held <= undecided or self.overview.messages_wait()

    def _release(self, *, inherited: bool = False) -> None:
        for observer in [*self._observers, *self._handed]:
            observer.close(inherited=inherited)
        self._observers.clear()
        self._handed.clear()
        self._poller.close()
        self._wakeup.close()
