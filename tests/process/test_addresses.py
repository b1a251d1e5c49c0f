"""One receiver at several addresses, each with its own type, framing and permissions."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

import mpsr
from tests.process.workers import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


def test_batches_tell_where_they_came(address: str) -> None:
    """Stream, datagrams, packets and an abstract name, in one receiver."""
    others = [f"{address}.{name}" for name in ("dgram", "packets")]
    abstract = f"@mpsr-several-{os.getpid()}-{os.urandom(4).hex()}"
    endpoints: list[str | mpsr.Endpoint] = [
        address,
        mpsr.Endpoint(others[0], type="dgram", mode=0o660),
        mpsr.Endpoint(others[1], type="seqpacket"),
        mpsr.Endpoint(abstract, framing="null"),
    ]
    with mpsr.Receiver(endpoints, mode=0o640) as receiver:
        assert [str(each) for each in receiver.addresses] == [address, *others, abstract]
        assert receiver.address == receiver.addresses[0]
        modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (address, *others)]
        assert modes == [0o640, 0o660, 0o640]
        with (
            mpsr.Producer(address) as stream,
            mpsr.Producer(others[0], type="dgram") as datagrams,
            mpsr.Producer(others[1], type="seqpacket") as packets,
            socket.socket(socket.AF_UNIX) as null,
        ):
            for producer in (stream, datagrams, packets):
                producer.send(b"x")
            null.connect(abstract.replace("@", "\0"))
            null.sendall(b"a\nb\0")
            came: dict[str | None, list[bytes]] = {}
            while len(came) < 4:
                batch = receiver.receive_batch(PATIENCE)
                came.setdefault(batch.address, []).extend(batch)
            receiver.acknowledge()
    assert came == {address: [b"x"], others[0]: [b"x"], others[1]: [b"x"], abstract: [b"a\nb"]}
    assert not any(map(os.path.lexists, (address, *others)))


def test_all_or_none_are_claimed(address: str) -> None:
    """Where one is taken, the others are given back."""
    with mpsr.Receiver(address):
        with pytest.raises(mpsr.AddressInUse):
            mpsr.Receiver([f"{address}.1", address, f"{address}.2"])
        assert not os.path.lexists(f"{address}.1")
    with mpsr.Receiver([f"{address}.1", address]):
        pass


def test_stop_hands_out_what_came_at_every_address(address: str) -> None:
    with mpsr.Receiver([address, mpsr.Endpoint(f"{address}.1", type="dgram")]) as receiver:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"datagram", f"{address}.1")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address)
            sock.sendall(b"line\n")
        receiver.stop()
        assert sorted(receiver) == [b"datagram", b"line"]


def test_lost_path_is_made_anew_among_others(address: str) -> None:
    with mpsr.Receiver([address, f"{address}.1"]) as receiver:
        os.unlink(f"{address}.1")
        with mpsr.Producer(f"{address}.1") as producer:
            producer.send(b"found")
            assert receiver.receive(PATIENCE) == b"found"
            receiver.acknowledge()


def test_journal_takes_what_comes_at_every_address(address: str, tmp_path: Path) -> None:
    endpoints: list[str | mpsr.Endpoint] = [address, mpsr.Endpoint(f"{address}.1", type="dgram")]
    with mpsr.Receiver(endpoints, journal=tmp_path / "events.journal") as receiver:
        with mpsr.Producer(address) as producer:
            producer.send(b"one")
            producer.flush(PATIENCE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"two", f"{address}.1")
        assert [receiver.receive(PATIENCE) for _ in range(2)] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("endpoints", "error"),
    [
        ([], "pass at least one address"),
        ([mpsr.Endpoint("a", type="dgram", framing="length")], "no use with type='dgram'"),
        ([mpsr.Endpoint("a", mode=0o100)], "mode=0o100"),
        ([mpsr.Endpoint("@a", mode=0o660)], "is no file and has no permissions"),
        ([mpsr.Endpoint("systemd:", mode=0o660)], "SocketMode="),
        (["a", 5], "pass a path"),
    ],
)
def test_wrong_endpoints_are_refused(
    endpoints: list[mpsr.Endpoint], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mpsr.ConfigurationError, match=error):
        mpsr.Receiver(endpoints)
    assert list(tmp_path.iterdir()) == []
