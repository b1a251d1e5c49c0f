"""Funnels that form a loop pass no message on without end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mpsr import observe
from mpsr.batch import UNKNOWN_PEER, Batch, batch_of
from mpsr.forwarding import Forwarded, forwarded, wrapped
from mpsr.limits import MAX_HOPS
from tests.cli.conftest import Cli
from tests.eventually import eventually
from tests.sinks.conftest import Funnel, lines_in


def passed_on(message: bytes) -> list[bytes | None]:
    batch: Batch[bytes] = batch_of([message], UNKNOWN_PEER)
    return list(wrapped(batch, "here"))


def test_message_is_passed_on_a_limited_number_of_times() -> None:
    """The origin is the first one, and counts the funnels after it."""
    message: bytes | None = b"one"
    for hops in range(MAX_HOPS + 1):
        assert message is not None
        (message,) = passed_on(message)
        assert message is not None
        found = forwarded(message)
        assert found.body == b"one"
        assert found.origin is not None
        assert found.origin.get("hops", 0) == hops
    assert passed_on(message or b"") == [None]


@pytest.mark.parametrize("hops", [-1, MAX_HOPS, 2**63 - 1])
def test_forged_count_is_not_passed_on(hops: int) -> None:
    (message,) = passed_on(b"one")
    assert message is not None
    origin = forwarded(message).origin
    text = json.dumps({**(origin or {}), "hops": hops - 1 if hops < 0 else hops}).encode()
    forged = message[:8] + len(text).to_bytes(4, "little") + text + b"one"
    assert passed_on(forged) == [None]


def test_message_that_only_looks_forwarded_gets_an_origin() -> None:
    """It is an ordinary message, and arrives as it was sent."""
    fake = b"\x89MPSR>\r\n\x02\0\0\0{}one"
    assert forwarded(fake) == Forwarded(fake, None)
    (message,) = passed_on(fake)
    assert message is not None
    assert forwarded(message).body == fake


@pytest.mark.parametrize("spelling", ["app.sock", "./app.sock", "link.sock", "@"])
def test_receivers_own_address_is_refused(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "link.sock").symlink_to("app.sock")
    abstract = f"@mpsr-{tmp_path.name}-{hash(tmp_path)}"
    target, address = (abstract, abstract) if spelling == "@" else (spelling, "app.sock")
    status, _, told = Cli(tmp_path).call("recv", address, "--to", f"mpsr:{target}")
    assert status == 78
    assert told.splitlines()[-3:] == [
        f"mpsr: mpsr:{target} is an address of this receiver itself",
        "  why: messages would circulate without end",
        "  try: name the address of another receiver",
    ]


def test_loop_of_two_receivers_ends(funnels: Callable[..., Funnel], tmp_path: Path) -> None:
    """A passes on to B and B to A: the message ends in the store of rejected messages, once."""
    one = funnels("mpsr:b.sock", "file:one.txt?format=lines", name="a").start()
    two = funnels("mpsr:a.sock", name="b").start()
    one.send(b"round", b"and round")
    stores = [
        tmp_path / "a.journal.mpsr_b.sock.rejected",
        tmp_path / "b.journal.mpsr_a.sock.rejected",
    ]
    eventually(lambda: sum(len(lines_in(each)) for each in stores) == 2)
    rounds = MAX_HOPS // 2 + 1
    eventually(lambda: len(lines_in(tmp_path / "one.txt")) == 2 * rounds)
    one.send(b"later")  # the numbers of rejected messages are skipped now, and count as no loss
    eventually(lambda: len(lines_in(tmp_path / "one.txt")) == 3 * rounds)
    eventually(lambda: sum(len(lines_in(each)) for each in stores) == 3)
    for each in (one, two):
        assert observe.status(each.address)["stats"]["lost"] == 0
        assert each.end() == 0, each.told
