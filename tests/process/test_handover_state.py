"""A hand-over whose packets or state are malformed is one error; the old receiver continues."""

from __future__ import annotations

import os
import socket
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpsr
from mpsr.engine.receiving import handover
from mpsr.engine.receiving.inherited import read_state
from mpsr.json_format import to_json
from mpsr.system.descriptors import registry
from mpsr.wire.frames import PRODUCER_ID_SIZE
from tests.eventually import eventually
from tests.process.workers import PATIENCE, beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Malform = Callable[[dict[str, Any]], object]

STATE: Final[dict[str, Any]] = {
    "connections": [[0, "text", 3, "aGFsZg=="], [1, "auto", 0, ""]],
    "producers": [[0, "00" * PRODUCER_ID_SIZE, "label", 1, 7], [None, "ff" * 16, "", 0, 0]],
}
JUNK: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 3),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["=", "native", "00" * 17, "\ud800", [], {}, [[]], "A" * 1000]),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container within a JSON value with each of its keys."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(each, dict | list):
            yield from places(each)


@settings(max_examples=150, deadline=None)
@given(number=st.integers(0), junk=JUNK, doing=st.sampled_from(["replace", "remove", "cut"]))
def test_any_change_of_a_state_is_read_within_range_or_refused(
    number: int, junk: object, doing: str
) -> None:
    """Every malformed state raises ValueError; every other one holds only valid values."""
    state = deepcopy(STATE)
    found = list(places(state))
    container, key = found[number % len(found)]
    if doing == "remove":
        del container[key]
    else:
        container[key] = junk
    text = to_json(state).encode("utf-8", "surrogatepass")
    memory = os.memfd_create("state")
    try:
        os.write(memory, text[: number % len(text)] if doing == "cut" else text)
        connections, producers = read_state(memory, 2)
    except ValueError:
        return
    finally:
        os.close(memory)
    assert all(each.listener in (0, 1) and each.seq >= 0 for each in connections)
    assert all(
        len(each.identity.id) == PRODUCER_ID_SIZE and each.epoch >= 0 <= each.accepted_seq
        for each in producers
    )


def set_at(value: object, *where: Any) -> Malform:
    """Return a change that sets one item of a state or packet."""

    def change(told: dict[str, Any]) -> None:
        item: Any = told
        for key in where[:-1]:
            item = item[key]
        item[where[-1]] = value

    return change


MALFORMED: Final[dict[str, tuple[str, Malform]]] = {
    "index beyond the listeners": ("producers", set_at(1, "connections", 0, 0)),
    "negative index": ("producers", set_at(-1, "connections", 0, 0)),
    "unknown framing": ("producers", set_at("morse", "connections", 0, 1)),
    "negative number": ("producers", set_at(-1, "connections", 0, 2)),
    "number beyond 64 bits": ("producers", set_at(2**64, "connections", 0, 2)),
    "no base64": ("producers", set_at("aGFsZg==!", "connections", 0, 3)),
    "fewer connections than sockets": ("producers", set_at([], "connections")),
    "no connections": ("producers", lambda told: told.pop("connections")),
    "long producer id": ("producers", set_at("00" * 17, "producers", 0, 1)),
    "negative epoch": ("producers", set_at(-1, "producers", 0, 3)),
    "locked without a lock": ("listeners", set_at(False, "listeners", 0, "locked")),
    "address of no bytes": ("listeners", set_at("\u20ac", "listeners", 0, "address")),
    "step that is a number": ("listeners", set_at(1, "step")),
}


@pytest.mark.parametrize("journal", [False, True])
def test_malformed_hand_over_is_one_error_and_the_old_receiver_loses_nothing(
    address: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, journal: bool
) -> None:
    """Also the native producer and the client in the middle of a line stay connected."""
    kept: dict[str, Any] = {"journal": tmp_path / "events.journal"} if journal else {}
    chosen: list[str] = []
    write = to_json

    def written(told: Any) -> str:
        key, change = MALFORMED[chosen[0]]
        if key in told:
            told = deepcopy(told)
            change(told)
        return write(told)

    monkeypatch.setattr(handover, "to_json", written)
    got: list[bytes] = []
    # A journal has the producers, and then the state lists none.
    names = [
        name
        for name, (_, change) in MALFORMED.items()
        if not (journal and name in ("long producer id", "negative epoch"))
    ]
    with mpsr.Receiver[bytes](address, **kept) as old, beside(lambda: got.extend(old)):
        with socket.socket(socket.AF_UNIX) as foreign, mpsr.Producer[bytes](address) as producer:
            foreign.connect(address)
            foreign.sendall(b"line\nhalf")
            producer.send(b"first")
            producer.flush(PATIENCE)
            eventually(lambda: {b"line", b"first"} <= set(got))
            for name in names:
                chosen[:] = [name]
                with pytest.raises(mpsr.AddressInUse, match="its hand-over cannot be read: "):
                    mpsr.Receiver(address, handover=True, **kept)
                producer.send(name.encode())
                producer.flush(PATIENCE)
                # The old receiver opens its journal again, and the segment once it reads from it.
                eventually(lambda: name.encode() in got)  # noqa: B023 - it is called here
                if name == names[0]:
                    before = descriptors()
            eventually(lambda: descriptors() <= before)
            foreign.sendall(b" a line\n")
            eventually(lambda: b"half a line" in got)
            assert producer.stats().connects == 1
        old.stop()
    assert sorted(got) == sorted([b"line", b"half a line", b"first", *map(str.encode, names)])


def descriptors() -> int:
    registry()  # the process keeps its descriptors, so that they exist before the first count
    return len(os.listdir("/proc/self/fd"))


def test_path_that_is_not_utf_8_is_handed_over(address: str) -> None:
    """Its connections, in the middle of a line, and its listener go to the new receiver."""
    path = os.fsdecode(os.fsencode(address) + b"\xff\xfe")
    got: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as foreign:
        with mpsr.Receiver[bytes](path) as old, beside(lambda: got.extend(old)):
            foreign.connect(os.fsencode(path))
            foreign.sendall(b"line\nhalf")
            eventually(lambda: got == [b"line"])
            with pytest.raises(mpsr.ConfigurationError, match="takes all of its addresses"):
                mpsr.Receiver([path, address], handover=True)
            new = mpsr.Receiver[bytes](path, handover=True)
        with new:
            foreign.sendall(b" a line\n")
            assert new.receive(PATIENCE) == b"half a line"
            with mpsr.Producer[bytes](path) as producer:
                producer.send(b"native")
                assert new.receive(PATIENCE) == b"native"
                new.acknowledge()
    assert not os.path.lexists(path)


def test_begun_message_that_is_too_long_for_the_new_receiver_is_rejected(address: str) -> None:
    """Its connection is closed, as if it had sent it to that receiver; others continue."""
    got: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as foreign:
        with mpsr.Receiver[bytes](address) as old, beside(lambda: got.extend(old)):
            foreign.connect(address)
            foreign.sendall(b"line\n" + bytes(6000))
            eventually(lambda: got == [b"line"])
            new = mpsr.Receiver[bytes](address, handover=True, max_message=5000)
        with new, mpsr.Producer[bytes](address) as producer:
            producer.send(b"next")
            assert new.receive(PATIENCE) == b"next"
            new.acknowledge()
            foreign.settimeout(PATIENCE)
            assert foreign.recv(1) == b""
            assert new.stats().rejected == 1
