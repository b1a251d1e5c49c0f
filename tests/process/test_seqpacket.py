"""What packets keep: a message is whole, apart, and whose it is; native ones are acknowledged."""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

import mpsr
from mpsr.limits import MIB
from mpsr.wire.frames import HEADER, PREFACE, FrameType, Hello, decode, encode
from tests.process import roles
from tests.process.stamps import Source, Tally
from tests.process.workers import PATIENCE, receive_all, receive_beside

if TYPE_CHECKING:
    from pathlib import Path

    from mpsr.system.address import SocketType
    from mpsr.wire.framing import Framing
    from tests.process.workers import Start


def connected(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(address)  # without a time-out, which would wait for three fourths of the room
    return sock


def test_native_messages_of_many_processes_arrive_once_and_in_order(
    start: Start, address: str
) -> None:
    tally = Tally()
    with mpsr.Receiver(address, type="seqpacket") as receiver:
        senders = [
            start(roles.send, address, 2000, size=size, type="seqpacket")
            for size in (0, 100, 5000, 60_000)
        ]
        receive_all(receiver, tally.take, senders)
        assert receiver.stats().rejected == 0
    assert tally.counts == {Source(sender.pid, 0): 2000 for sender in senders}


def test_killed_receiver_loses_nothing(start: Start, address: str, tmp_path: Path) -> None:
    """What it had not acknowledged goes to the next one."""
    with mpsr.Producer(address, type="seqpacket") as producer:
        first = start(roles.receive, address, str(tmp_path / "record"), type="seqpacket")
        assert first.hear() == "ready"
        first.freeze()
        producer.send_many(b"%d" % number for number in range(5000))
        first.kill()
        received: list[bytes] = []
        with mpsr.Receiver(address, type="seqpacket") as receiver:
            receive_beside(receiver, received.extend, lambda: producer.flush(PATIENCE))
    assert received == [b"%d" % number for number in range(5000)]


def test_each_frame_is_a_packet(address: str) -> None:
    """A producer that is written by hand reads one frame a packet, and sends as it likes."""
    with mpsr.Receiver(address, type="seqpacket") as receiver, connected(address) as sock:
        received: list[bytes] = []
        thread = threading.Thread(target=lambda: received.extend(receiver))
        thread.start()
        sock.send(PREFACE + encode(Hello(bytes(16), 0, "by hand", takes_ring=False)))
        frames = [sock.recv(MIB) for _ in range(2)]
        for frame, kind in zip(frames, (FrameType.WELCOME, FrameType.ACK), strict=True):
            length, found, _, _ = HEADER.unpack_from(frame)
            assert (len(frame), found) == (HEADER.size + length, kind)
            decode(found, frame[HEADER.size :])
        receiver.stop()
        thread.join(PATIENCE)
        assert received == []


def test_producer_sends_one_frame_a_packet(address: str) -> None:
    """Whatever is sent at once, a packet holds one frame: the preface goes with the first."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen()
        producer = mpsr.Producer[bytes](address, type="seqpacket", exit_timeout=0)
        sock, _ = listening.accept()
        with sock:
            first = sock.recv(MIB)
            assert first.startswith(PREFACE)
            (length,) = struct.unpack_from("<I", first, len(PREFACE))
            assert len(first) == len(PREFACE) + HEADER.size + length
            producer.close(timeout=0)


def test_foreign_packets_are_messages(address: str) -> None:
    """Each, whatever its bytes: empty ones, and those that begin like a native one, too."""
    packets = [b"text", b"", b"a\nb\n", b"\x89MPS", bytes(50_000), b"<13>x\n", b"<13>y\0", b"z\0"]
    came = [*packets[:5], b"<13>x", b"<13>y", b"z\0"]
    with mpsr.Receiver(address, type="seqpacket") as receiver:
        with connected(address) as sock:
            for packet in packets:
                sock.send(packet)
        batches: list[mpsr.Batch] = []
        while sum(map(len, batches)) < len(packets):
            batches.append(receiver.receive_batch(PATIENCE))
    assert [message for batch in batches for message in batch] == came
    assert {batch.peer for batch in batches} == {(os.getpid(), os.getuid(), os.getgid())}
    assert batches[0].first_seq == 0
    assert batches[-1].end_seq == len(packets)


@pytest.mark.parametrize(
    ("framing", "came"),
    [
        ("packet", [b"a\nb", b"<13>x\n", b""]),
        ("lines", [b"a", b"b", b"<13>x", b""]),
        ("null", [b"a\nb", b"<13>x\n", b""]),
    ],
)
@pytest.mark.parametrize("kind", ["dgram", "seqpacket"])
def test_framings_of_packets(
    address: str, kind: SocketType, framing: Framing, came: list[bytes]
) -> None:
    """With lines and null, a packet is one message or several; with packet, it is one."""
    with mpsr.Receiver(address, type=kind, framing=framing) as receiver:
        number = socket.SOCK_DGRAM if kind == "dgram" else socket.SOCK_SEQPACKET
        with socket.socket(socket.AF_UNIX, number) as sock:
            sock.connect(address)
            for packet in (b"a\nb", b"<13>x\n", b""):
                sock.send(packet)
        assert [receiver.receive(PATIENCE) for _ in came] == came


def test_producer_sends_foreign_packets(address: str) -> None:
    with mpsr.Receiver(address, type="seqpacket") as receiver:
        with mpsr.Producer(address, type="seqpacket", framing="packet") as producer:
            producer.send_many([b"one", b"", b"three"])
            producer.flush(PATIENCE)
        batch = receiver.receive_batch(PATIENCE)
        assert (list(batch), batch.producer) == ([b"one", b"", b"three"], None)


@pytest.mark.parametrize("framing", ["native", "packet"])
def test_too_large_a_packet_is_refused_at_its_sender(address: str, framing: Framing) -> None:
    """What no packet can carry raises MessageTooLarge; the largest possible one arrives."""
    with (
        mpsr.Receiver(address, type="seqpacket") as receiver,
        mpsr.Producer(address, type="seqpacket", framing=framing) as producer,
    ):
        most = producer._outbox.window.max_message
        assert most > 100_000
        with pytest.raises(mpsr.MessageTooLarge, match=f"{most + 1} bytes: the most here is"):
            producer.send(bytes(most + 1))
        producer.send(bytes(most))
        assert len(receiver.receive(timeout=PATIENCE)) == most
        receiver.acknowledge()


def test_too_large_a_packet_is_never_cut_at_the_receiver(address: str) -> None:
    """It closes the connection, is counted and told, and what came before it arrives."""
    with mpsr.Receiver(address, type="seqpacket", max_message=5000) as receiver:
        with connected(address) as sock:
            sock.send(b"good")
            sock.send(bytes(6000))
            assert receiver.receive(PATIENCE) == b"good"
            with pytest.raises(mpsr.TimedOut):
                receiver.receive(timeout=0)
            assert sock.recv(100) == b""
        assert receiver.stats().rejected == 1


def test_receiver_that_takes_less_makes_its_producer_drop_and_report(address: str) -> None:
    with (
        mpsr.Receiver(address, type="seqpacket", max_message=5000) as receiver,
        mpsr.Producer(address, type="seqpacket") as producer,
    ):
        producer.send_many([b"first", bytes(6000), b"last"])
        received: list[bytes] = []
        lost = 0
        while len(received) < 2:
            batch = receiver.receive_batch(PATIENCE)
            received += batch
            lost += batch.lost
        receiver.acknowledge()
        with pytest.raises(mpsr.Undelivered, match="takes no message so large"):
            producer.flush(PATIENCE)
    assert (received, lost) == ([b"first", b"last"], 1)


def test_descriptor_in_a_packet_is_refused(address: str) -> None:
    with mpsr.Receiver(address, type="seqpacket") as receiver, connected(address) as sock:
        sock.send(b"good")
        assert receiver.receive(PATIENCE) == b"good"
        along = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))]
        try:
            sock.sendmsg([b"bad"], along)
        except PermissionError:  # by the kernel itself, since Linux 6.16
            return
        with pytest.raises(mpsr.TimedOut):
            receiver.receive(timeout=0)
        assert receiver.stats().rejected == 1


def test_stop_hands_out_all_packets_that_have_come(address: str) -> None:
    with mpsr.Receiver(address, type="seqpacket") as receiver, connected(address) as sock:
        for number in range(100):
            sock.send(b"%d" % number)
        receiver.stop()
        assert list(receiver) == [b"%d" % number for number in range(100)]


def test_packets_go_through_a_journal(address: str, tmp_path: Path) -> None:
    journal = tmp_path / "events.journal"
    with mpsr.Receiver(address, type="seqpacket", journal=journal) as receiver:
        with mpsr.Producer(address, type="seqpacket") as producer:
            producer.send(b"native")
            producer.flush(PATIENCE)
        with connected(address) as sock:
            sock.send(b"foreign")
        assert [receiver.receive(PATIENCE) for _ in range(2)] == [b"native", b"foreign"]
