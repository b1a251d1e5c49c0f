"""Take a receiver's addresses over from the one that runs, which goes on until all is passed."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack, suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

from mpsr.engine.receiving.handover import DESCRIPTORS, PACKET, Word, read_word
from mpsr.engine.receiving.inherited import NOTHING, Inherited, read_state
from mpsr.errors import (
    AddressError,
    AddressInUse,
    ConfigurationError,
    Explanation,
    RemoteProtocolError,
)
from mpsr.front.listening import claim_all
from mpsr.json_format import to_json
from mpsr.limits import HANDOVER_PAUSE, HANDOVER_TIMEOUT, MAX_CONTROL_FRAME
from mpsr.system import closing, passing, primitives
from mpsr.system.address import absolute
from mpsr.system.claims import Claim
from mpsr.system.clock import monotonic
from mpsr.system.descriptors import Socket
from mpsr.system.endpoint import reach
from mpsr.system.path_claim import PathClaim
from mpsr.system.poller import READ, ready_events, wait_readable
from mpsr.system.sockets import peer_of, type_of
from mpsr.wire.frames import (
    HEADER,
    PREFACE,
    RETRY_CODES,
    Handover,
    Offer,
    Reject,
    decode,
    encode,
    frame_size,
)
from mpsr.wire.framing import Framing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpsr.front.listening import Place

_CONNECTED: Final = ("stream", "seqpacket")

Taken = tuple[list[tuple[Claim, Framing]], Inherited]
"""The addresses, and what goes with them."""


class _Cancelled(Exception):
    """The receiver that ran has ended by itself, or goes on."""


def claim_or_take_over(places: Sequence[Place], *, journal: bool) -> Taken:
    """Claim every address, or take all of them over from the receiver that has them.

    ``journal`` says that its journal is wanted, too: then its end is waited for.

    Raises:
        AddressInUse: it does not hand over, or not in time.
        ConfigurationError: it has other addresses.

    """
    until = monotonic() + HANDOVER_TIMEOUT
    while True:
        try:
            return claim_all(places), NOTHING
        except AddressInUse as exc:
            held = exc
        try:
            with ExitStack() as undo:
                return _Taker(places, held, until, undo).take(journal=journal)
        except _Cancelled:
            if monotonic() >= until:
                error = _refused(held, f"it did not hand over within {HANDOVER_TIMEOUT:g} s")
                raise AddressInUse(error, address=held.address, pid=held.pid) from None
        primitives.sleep(HANDOVER_PAUSE)


def _refused(held: AddressInUse, why: str) -> Explanation:
    """Return the text for an address that stays with its receiver, and why."""
    text = Explanation.of(held)
    return Explanation(text.what, f"{text.why}; {why}", text.advice)


class _Taker:
    """The end of a hand-over that becomes the receiver."""

    def __init__(
        self, places: Sequence[Place], held: AddressInUse, until: float, undo: ExitStack
    ) -> None:
        self._places = places
        self._held = held
        self._until = until
        self._undo = undo
        self._descriptors: list[int] = []  # that came and are nobody's yet
        undo.callback(lambda: closing.close_apart(self._descriptors))

    def take(self, *, journal: bool) -> Taken:
        """Ask, and take what comes."""
        sock = self._undo.enter_context(self._ask())
        offer = self._hear(sock)
        if offer is None:
            raise _Cancelled
        claims = self._adopt(offer)
        self._say(sock, "ready")
        sockets: list[int] = []
        inherited = NOTHING
        while (message := self._hear(sock)) is not None:
            if message["step"] in ("connections", "state"):
                try:
                    if message["step"] == "connections":
                        sockets += self._taken([True] * len(self._descriptors))
                        continue
                    inherited = self._inherit(sockets, len(claims))
                except ValueError as exc:
                    self._descriptors += sockets
                    raise self._unreadable(exc) from exc
                sockets = []
                self._say(sock, "taken")
            elif message["step"] == "done":
                if journal:
                    self._await_end(sock)
                break
        closing.close_apart(sockets)  # of a giver that died in between
        for place, (claim, _) in zip(self._places, claims, strict=True):
            claim.own(place.backlog)
        self._undo.pop_all().pop_all()
        sock.close()
        return claims, inherited

    def _ask(self) -> Socket:
        """Return our end of the pair of sockets that the receiver gives us."""
        place = next((each for each in self._places if (each.type or "stream") in _CONNECTED), None)
        if place is None or place.address.kind not in ("path", "abstract"):
            why = (
                "a hand-over takes a path or @name to which one connects: type stream or seqpacket"
            )
            raise ConfigurationError(_refused(self._held, why))
        try:
            with reach(place.address, type=place.type or "stream") as sock:
                if peer_of(sock).uid not in (0, os.geteuid()):
                    raise self._held
                sock.send(PREFACE + encode(Handover()))
                data, descriptors = b"", list[int]()
                while len(data) < HEADER.size or len(data) < frame_size(data):
                    self._wait(sock)
                    piece, along = passing.receive(sock, MAX_CONTROL_FRAME)
                    descriptors += along
                    if not piece:
                        raise _Cancelled
                    data += piece
        except (AddressError, OSError) as exc:
            if exc is self._held:
                raise
            raise _Cancelled from exc
        try:
            frame = decode(HEADER.unpack_from(data)[1], data[HEADER.size :])
        except RemoteProtocolError as exc:
            closing.close_apart(descriptors)
            raise self._unreadable(exc) from exc
        if isinstance(frame, Reject):
            raise self._rejected(frame)
        if not isinstance(frame, Offer) or len(descriptors) != 1:
            closing.close_apart(descriptors)
            raise self._held
        return Socket(fileno=descriptors[0])

    def _rejected(self, frame: Reject) -> Exception:
        """Return the error for a receiver that does not hand over; _Cancelled if it may later."""
        if frame.code in RETRY_CODES:
            return _Cancelled()
        why = f"it does not hand over: {frame.text}"
        return AddressInUse(
            _refused(self._held, why), address=self._held.address, pid=self._held.pid
        )

    def _inherit(self, sockets: Sequence[int], listeners: int) -> Inherited:
        """Return what was passed with a state; raise ValueError if it does not fit together."""
        (memory,) = self._taken([False])
        try:
            carried, producers = read_state(memory, listeners)
        finally:
            closing.close_apart([memory])
        if len(carried) != len(sockets):
            error = f"it has {len(carried)} connections and {len(sockets)} sockets"
            raise ValueError(error)
        connected = [Socket(fileno=each) for each in sockets]
        return Inherited(list(zip(carried, connected, strict=True)), producers)

    def _adopt(self, offer: Word) -> list[tuple[Claim, Framing]]:
        """Return claims of the addresses that are offered, which must be ours."""
        wanted = [absolute(place.address).value for place in self._places]
        listeners = offer.get("listeners", [])
        try:
            addresses = [os.fsdecode(told["address"].encode("latin-1")) for told in listeners]
        except ValueError as exc:
            raise self._unreadable(exc) from exc
        offered = [address.removeprefix("@") for address in addresses]
        if wanted != offered:
            why = f"a hand-over takes all of its addresses, in order: {', '.join(addresses)}"
            raise ConfigurationError(_refused(self._held, why))
        try:
            kinds = ((True, False) if told["locked"] else (True,) for told in listeners)
            descriptors = self._taken([*chain.from_iterable(kinds)])
        except ValueError as exc:
            raise self._unreadable(exc) from exc
        claims: list[tuple[Claim, Framing]] = []
        for place, told in zip(self._places, listeners, strict=True):
            sock = Socket(fileno=descriptors.pop(0))
            lock = descriptors.pop(0) if told["locked"] else None
            claims.append((_claim(place, sock, lock), place.framing))
            self._undo.callback(claims[-1][0].abandon)  # its lock stays with the giver
        return claims

    def _unreadable(self, exc: Exception) -> AddressInUse:
        """Return the error for a hand-over that another version, or no mpsr, has written."""
        why = f"its hand-over cannot be read: {exc}"
        return AddressInUse(
            _refused(self._held, why), address=self._held.address, pid=self._held.pid
        )

    def _taken(self, kinds: Sequence[bool]) -> list[int]:
        """Return the descriptors of the last packet, of which these must be sockets, in order.

        Raises ValueError if they are others; they are closed with the hand-over.
        """
        if [stat.S_ISSOCK(os.fstat(each).st_mode) for each in self._descriptors] != list(kinds):
            error = f"the descriptors of a packet are not {len(kinds)} as described"
            raise ValueError(error)
        taken, self._descriptors = self._descriptors, []
        return taken

    def _hear(self, sock: socket.socket) -> Word | None:
        """Return what the giver says next; None if it has died."""
        self._wait(sock)
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            data, descriptors, _, _ = socket.recv_fds(sock, PACKET, 2 * DESCRIPTORS, flags)
        except OSError:
            return None
        self._descriptors += descriptors
        if not data:
            return None
        try:
            message = read_word(data)
        except ValueError as exc:
            raise self._unreadable(exc) from exc
        if message["step"] == "cancel":
            raise _Cancelled
        return message

    def _say(self, sock: socket.socket, step: str) -> None:
        """Say how far we are; if the giver is gone, its last words or its end tell."""
        with suppress(OSError):
            sock.send(to_json({"step": step}).encode())

    def _wait(self, sock: socket.socket) -> None:
        left = self._until - monotonic()
        if left > 0:
            wait_readable(sock, left)
        if not ready_events(sock.fileno(), READ):
            raise _Cancelled

    def _await_end(self, sock: socket.socket) -> None:
        """Wait until the giver has closed its journal."""
        while self._hear(sock) is not None:
            pass


def _claim(place: Place, sock: Socket, lock: int | None) -> Claim:
    if place.address.kind != "path":
        return Claim(place.address, sock)
    claim = PathClaim(place.address, type_of(sock), sock)
    gid = place.group if isinstance(place.group, int) else None
    claim.adopt(lock, place.mode, gid, place.backlog)
    return claim
