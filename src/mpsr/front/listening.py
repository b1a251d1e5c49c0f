"""Say where a receiver listens, and claim it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from mpsr import arguments
from mpsr.errors import ConfigurationError, Explanation
from mpsr.limits import LEAST_MAX_MESSAGE
from mpsr.system.address import SOCKET_TYPES, Address, parse_address
from mpsr.system.claims import claim_passed
from mpsr.system.endpoint import claim
from mpsr.system.path_claim import DEFAULT_MODE
from mpsr.system.sockets import type_of
from mpsr.wire.packing import RECEIVER_FRAMINGS

if TYPE_CHECKING:
    from mpsr.system.address import SocketType
    from mpsr.system.claims import Claim
    from mpsr.wire.framing import Framing

_NATIVE = ("auto", "native")  # the framings of a socket that may take files


class Endpoint(NamedTuple):
    """One of several addresses of a receiver, with what is its own.

    What is None is taken from the receiver's argument of the same name.

    Attributes:
        address: a path, ``@name``, ``fd:N`` or ``systemd:NAME``.
        type: ``"stream"``, ``"dgram"`` or ``"seqpacket"``.
        framing: how bytes become messages.
        mode: the permissions of a path.
        group: the group of a path, by name or id.

    """

    address: str | os.PathLike[str]
    type: SocketType | None = None
    framing: Framing | None = None
    mode: int | None = None
    group: str | int | None = None


class Place(NamedTuple):
    """Where to listen, with every argument checked."""

    address: Address
    type: SocketType | None
    """None stands for whatever a socket of systemd's is."""
    framing: Framing
    mode: int
    group: str | int | None
    backlog: int

    def claim(self) -> list[Claim]:
        """Claim the address, for which systemd may have passed several sockets.

        Raises what ``endpoint.claim`` and ``claim_passed`` raise.
        """
        if self.address.kind != "systemd":
            kind, mode, group = self.type or "stream", self.mode, self.group
            return [claim(self.address, type=kind, mode=mode, group=group, backlog=self.backlog)]
        claims = claim_passed(self.address, self.type)
        try:
            for each in claims:
                kind = type_of(each.socket)
                arguments.framing(self.framing, RECEIVER_FRAMINGS, socket_type=kind)
        except BaseException:
            for each in claims:
                each.close()
            raise
        return claims


Where = str | os.PathLike[str] | Endpoint | Sequence[str | os.PathLike[str] | Endpoint]


def endpoints_of(where: object) -> list[Endpoint]:
    """Return what was given as an address, as a list."""
    several = [where] if isinstance(where, str | bytes | os.PathLike | Endpoint) else where
    if not isinstance(several, Sequence):
        arguments.address(several)
        return []
    if not several:
        raise ConfigurationError("address=[]: pass at least one address")
    endpoints = [each if isinstance(each, Endpoint) else Endpoint(each) for each in several]
    for each in endpoints:
        arguments.address(each.address)
    return endpoints


def places_of(where: object, shared: Endpoint, backlog: int) -> list[Place]:
    """Check where a receiver is to listen; what an address does not say is as in ``shared``."""
    endpoints = endpoints_of(where)
    return [_place(each, shared, backlog, alone=len(endpoints) == 1) for each in endpoints]


def _place(endpoint: Endpoint, shared: Endpoint, backlog: int, *, alone: bool) -> Place:
    kind = endpoint.type or shared.type
    if kind is not None:
        arguments.choice("type", kind, SOCKET_TYPES)
    framing = endpoint.framing or shared.framing or "auto"
    address = parse_address(endpoint.address)
    if kind is not None or address.kind != "systemd":
        arguments.framing(framing, RECEIVER_FRAMINGS, socket_type=kind or "stream")
    shared_mode = arguments.mode(shared.mode)
    arguments.group(shared.group)
    mode, group = endpoint.mode, endpoint.group
    if alone or address.kind == "path":  # of several, the shared ones are for the paths
        mode, group = shared_mode if mode is None else mode, group or shared.group
    mode = arguments.mode(DEFAULT_MODE if mode is None else mode)
    arguments.group(group)
    permissions = group is not None or mode != DEFAULT_MODE
    if permissions and address.kind == "systemd":
        what = f"{address} has the permissions that its .socket unit gives it"
        advice = "see SocketMode= and SocketGroup=; leave out mode= and group="
        raise ConfigurationError(Explanation(what, "", advice))
    return Place(address, kind, framing, mode, group, backlog)


def check_max_message(places: Sequence[Place], max_message: int) -> None:
    """Refuse a limit that native producers, whose frames have 4 KiB in any case, may exceed."""
    if max_message < LEAST_MAX_MESSAGE and any(each.framing in _NATIVE for each in places):
        what = f"max_message={max_message} is too small for native producers"
        why = f"a native message may have {LEAST_MAX_MESSAGE} bytes in any case"
        advice = f"pass max_message={LEAST_MAX_MESSAGE} or more, or framing= of a foreign protocol"
        raise ConfigurationError(Explanation(what, why, advice))


def check_files(places: Sequence[Place], *, journal: bool) -> None:
    """Refuse a receiver that is to accept files, and cannot."""
    if journal:
        error = "accept_files=True: a journal keeps bytes, not files; leave out one of them"
        raise ConfigurationError(error)
    if not any(each.framing in _NATIVE and each.type != "dgram" for each in places):
        error = (
            "accept_files=True: files come with native messages alone, over stream or seqpacket: "
            'use framing="auto" or "native"'
        )
        raise ConfigurationError(error)


def claim_all(places: Sequence[Place]) -> list[tuple[Claim, Framing]]:
    """Claim every address, or none."""
    with ExitStack() as undo:
        claimed: list[tuple[Claim, Framing]] = []
        for each in places:
            for found in each.claim():
                undo.callback(found.close)
                claimed.append((found, each.framing))
        undo.pop_all()
        return claimed
