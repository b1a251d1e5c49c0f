"""Accept connections at every address of a receiver, and read what comes there in datagrams."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mpsr.engine.receiving.connection import Connection
from mpsr.engine.receiving.datagrams import DatagramReader, PacketEnd, packet_reader
from mpsr.engine.receiving.listener import Listener
from mpsr.engine.receiving.places import Places
from mpsr.errors import RemoteProtocolError
from mpsr.limits import ACCEPTS_PER_ROUND, READ_BEHIND, SILENT_START, STOP_ROUNDS
from mpsr.system import passing
from mpsr.system.peers import ConnectedPeer
from mpsr.system.poller import READ
from mpsr.wire.files import FileSession
from mpsr.wire.frames import RejectCode
from mpsr.wire.receiving import ReceivingSession

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Sequence
    from logging import Logger

    from mpsr.batch import Peer
    from mpsr.engine.receiving.connections import Connections
    from mpsr.engine.receiving.deadlines import Deadlines
    from mpsr.engine.receiving.held import Held
    from mpsr.engine.receiving.inherited import Carried
    from mpsr.engine.receiving.senders import Senders
    from mpsr.system.claims import Claim
    from mpsr.system.descriptors import Socket
    from mpsr.system.poller import AnyPoller
    from mpsr.wire.framing import Framing


class Acceptor:
    """The listeners of a receiver, and the connections that wait for a place.

    Attributes:
        listeners: one for each address.
        places: the connections that wait for a place among those that are open.
        accepted: connections accepted in all.

    """

    def __init__(
        self,
        claims: Sequence[tuple[Claim, Framing]],
        poller: AnyPoller,
        clock: Deadlines,
        logger: Logger,
        *,
        connections: Connections,
        held: Held,
        ready: deque[tuple[Any, int]],
        senders: Senders,
        max_connections: int,
        max_connections_per_uid: int | None = None,
        max_message: int,
        decode: Callable[[bytes], Any] | None,
        accept_files: bool = False,
        may_observe: Callable[[int | None], bool],
    ) -> None:
        """Listen at claimed addresses, with a framing at each.

        What is admitted goes to ``connections``, and to ``ready``: it seldom comes with nothing
        to say.
        """
        self._connections = connections
        self._held = held
        self._may_observe = may_observe
        self._ready = ready
        self._senders = senders
        self._logger = logger
        self._max_message = max_message
        self._decode = decode
        self._session = FileSession if accept_files else ReceivingSession
        self._behind = memoryview(bytearray(READ_BEHIND))
        self.exchanged: Callable[[], None] = _nothing  # called when a listener has another socket
        self.accepted: int = 0
        self._turned_away = 0
        if any(claim.socket.type != socket.SOCK_STREAM for claim, _ in claims):
            self._packets = packet_reader(max_message)
        with ExitStack() as undo:
            self.listeners: list[Listener] = []
            for claim, framing in claims:
                listener = Listener(claim, framing, poller, clock, logger, held=held)
                undo.callback(listener.keep_no_longer)
                self.listeners.append(listener)
                listener.register()
            undo.pop_all()
        self.places: Places = Places(
            max_connections,
            clock,
            logger,
            most_per_uid=max_connections_per_uid,
            connections=connections.open,
            users=connections.users,
            admit=self._admit,
            dismiss=self._dismiss,
        )
        self._datagrams = {
            listener: DatagramReader(
                self._packets,
                address=listener.address,
                framing=listener.framing,
                senders=senders,
                max_message=max_message,
                decode=decode,
                logger=logger,
            )
            for listener in self.listeners
            if listener.type == socket.SOCK_DGRAM
        }

    @property
    def paused(self) -> bool:
        """Whether accepting is suspended, anywhere."""
        return self.places.full or any(each.paused for each in self.listeners)

    @property
    def turned_away(self) -> int:
        """Connections that were closed because too many waited for a place, or to be accepted."""
        return self._turned_away + self._held.evicted

    @property
    def may_go_on(self) -> bool:
        """Whether the addresses can be another receiver's: none is a descriptor of others."""
        return all(listener.may_go_on for listener in self.listeners)

    @property
    def discarded(self) -> int:
        """Datagrams that were too long."""
        return sum(each.discarded for each in self._datagrams.values())

    def wait_times(self, now: float) -> list[float]:
        """Return the seconds after which there is something to do in any case."""
        times = self.places.wait_times(now)
        for listener in self.listeners:
            times += listener.wait_times(now)
        return times

    def keep_open(self, now: float) -> None:
        """Accept again after a pause, and listen anew where a path leads to us no more.

        What was accepted while we stood still is placed.
        """
        for listener in self.listeners:
            if listener.keep_open(now, self.read):
                self.exchanged()
        if self._held.waiting:
            self.take_held()

    def read(self, listener: Listener) -> None:
        """Accept a round of connections, or read a round of datagrams."""
        datagrams = self._datagrams.get(listener)
        if datagrams is not None:
            try:
                self._connections.pending.extend(datagrams.read(listener.socket))
            except OSError as exc:
                listener.fail("recvmsg", exc)
            return
        for _ in range(ACCEPTS_PER_ROUND):
            accepted = listener.accept()
            if accepted is None:
                if listener.starved and self.places.make_way():
                    listener.resume()
                    continue
                return
            self._place(listener, *accepted)
            if listener.paused:
                return

    def take_held(self, *, anyhow: bool = False) -> None:
        """Place connections that were accepted while we stood still, as if we accepted them now.

        Where there are no places they are left, but not with ``anyhow``.
        """
        for _ in range(ACCEPTS_PER_ROUND):
            if (self.places.full and not anyhow) or (held := self._held.take()) is None:
                return
            self._place(held.listener, held.sock, held.order)
        if self._held.waiting:
            self._held.wake()

    def _place(self, listener: Listener, sock: Socket, order: int) -> None:
        self.accepted += 1
        peer = ConnectedPeer(sock)
        if self.places.turns_away(peer.uid):
            self._turned_away += 1
            passing.close_socket(sock)
            return
        self.places.add(self._connection(listener, sock, peer, listener.framing, order))
        if self.places.crowded():
            self._turn_away()

    def _connection(
        self, listener: Listener, sock: Socket, peer: Peer, framing: Framing, order: int
    ) -> Connection:
        packets = listener.type == socket.SOCK_SEQPACKET
        may_observe = self._may_observe(peer.uid)
        refusal = self._senders.refusal(peer, self._logger, quietly=may_observe)
        session = self._session(
            framing,
            max_message=self._max_message,
            peer=peer,
            address=listener.address,
            decode=self._decode,
            packets=packets,
        )
        if refusal is not None:
            session.refusal = RemoteProtocolError(refusal, code=RejectCode.DENIED)
            session.may_observe = may_observe
        refuses = passing.refuse(sock) and listener.refuses
        connection = Connection(sock, peer, session, order, behind=self._behind, refuses=refuses)
        if packets:
            connection.packets = PacketEnd(self._packets, sock)
        return connection

    def part_with(self, connection: Connection) -> None:
        """Close a connection that is no producer's, and of which somebody else has a duplicate."""
        self.accepted -= 1
        self._connections.part_with(connection)

    def adopt(self, connections: Iterable[tuple[Carried, Socket]]) -> None:
        """Go on with connections that another receiver has handed over."""
        for carried, sock in connections:
            sock.setblocking(False)
            listener = self.listeners[carried.listener]
            peer = ConnectedPeer(sock)
            order = self._held.adopt()
            connection = self._connection(listener, sock, peer, carried.framing, order)
            connection.session.seq = carried.seq
            self.accepted += 1
            self._admit(connection)
            failure = connection.feed(0, carried.held) if carried.held else None
            if failure is not None:  # too long for this receiver, for example
                self._connections.reject(connection, str(failure), RejectCode(failure.code))

    def _turn_away(self) -> None:
        """Close one of those that wait for a place, or have the next ones wait in the backlog."""
        crowding = self.places.crowding()
        if crowding is None:
            for listener in self.listeners:
                listener.pause_for(SILENT_START)
            return
        self._turned_away += 1
        crowding.open = False
        crowding.close()

    def _admit(self, connection: Connection) -> None:
        self._connections.admit(connection)
        self._ready.append((connection, READ))

    def _dismiss(self, connection: Connection) -> None:
        text = "it says nothing, and another connection needs its place"
        self._connections.reject(connection, text, RejectCode.BUSY)

    def resume(self) -> None:
        """Accept again, where that was paused."""
        for listener in self.listeners:
            listener.resume()
        if self._held.waiting:
            self._held.wake()

    def stop(self) -> None:
        """Take what has arrived by now, and accept no more."""
        self._held.end()
        for _ in range(STOP_ROUNDS):
            self.take_held(anyhow=True)
            before = (self.accepted, len(self._connections.pending))
            for listener in self.listeners:
                self.read(listener)
            if (self.accepted, len(self._connections.pending)) == before:
                break
        for listener in self.listeners:
            listener.pause()
            listener.paused = False  # it has ended
        self.places.fill(anyhow=True)

    def close(self, *, inherited: bool = False) -> None:
        """Close what waits for a place, and give the addresses up.

        If they are ``inherited``, they are the parent's, and only the descriptors are closed.
        """
        self.places.close()
        self._held.close(inherited=inherited)
        for listener in self.listeners:
            listener.close(inherited=inherited)

    def __str__(self) -> str:
        return ", ".join(listener.address for listener in self.listeners)


def _nothing() -> None:
    """Do nothing."""
