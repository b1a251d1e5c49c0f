"""`mpsr recv` prints what arrives, and acknowledges what it has printed."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic

import pytest

import mpsr
from mpsr.cli.entry import run
from mpsr.system.address import SocketType
from mpsr.system.trust import ReceiverUid
from tests.cli.conftest import Cli
from tests.eventually import eventually
from tests.process.workers import is_stuck


def speak(cli: Cli, data: bytes) -> None:
    """Send bytes as a foreign client does, and hang up."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(cli.address))
        client.sendall(data)


@contextmanager
def speaking(cli: Cli, data: bytes) -> Iterator[None]:
    """Speak from a thread, as soon as a receiver listens."""

    def spoken() -> bool:
        try:
            speak(cli, data)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    with ThreadPoolExecutor(1) as thread:
        speaking = thread.submit(eventually, spoken)
        yield
        speaking.result()


def objects(out: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_each_message_is_printed_when_it_arrives(cli: Cli) -> None:
    """A message is a line on stdout before the next is sent."""
    receiver = cli.recv()
    with mpsr.Producer(cli.address) as producer:
        producer.send(b"one")
        assert receiver.read_line() == b"one\n"
        producer.send(b"two")
        assert receiver.read_line() == b"two\n"


def test_start_and_end_are_told_on_stderr(cli: Cli) -> None:
    """The address and the process at the start, the counters at the end, nothing else."""
    receiver = cli.recv()
    with mpsr.Producer(cli.address) as producer:
        producer.send_many([b"one", b"three"])
    speak(cli, b"four\n")
    while receiver.read_line() != b"four\n":
        pass
    assert receiver.finish(signal.SIGTERM) == (
        0,
        b"",
        (
            f"mpsr: listening on app.sock (pid {receiver.pid})\n"
            "mpsr: received 3 messages, 12 B from 2 connections\n"
        ),
    )


def test_quiet_says_nothing(cli: Cli) -> None:
    """--quiet leaves stderr empty where nothing is wrong."""
    with mpsr.Producer(cli.address) as producer:  # it keeps trying until somebody listens
        producer.send(b"one")
        assert cli.call("recv", "app.sock", "--quiet", "--count", "1") == (0, b"one\n", "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), b"a\xff\r\n\nb\0c\n"),
        (("-0",), b"a\xff\r\0\0b\0c\0"),
        (("-o", "hex"), b"61ff0d\n\n620063\n"),
        (("--output", "hex", "--null"), b"61ff0d\0\x00620063\0"),
        (("--output", "raw"), b"a\xff\rb\0c"),
    ],
)
def test_formats_keep_every_byte(cli: Cli, options: tuple[str, ...], expected: bytes) -> None:
    """Neither control characters nor what is not UTF-8 are changed."""
    with mpsr.Producer(cli.address) as producer:
        producer.send_many([b"a\xff\r", b"", b"b\0c"])
        assert cli.call("recv", "app.sock", *options, "--count", "3")[:2] == (0, expected)


def test_json_tells_who_sent_what_and_when(cli: Cli) -> None:
    """A native message: peer, producer, sequence number, time, and body, as text if it is text."""
    with mpsr.Producer(cli.address, label="tést") as producer:
        producer.send_many([b"plain", 'é"\n'.encode(), b"\xff\0"])
        out = cli.call("recv", "app.sock", "--output", "json", "--count", "3")[1]
    found = objects(out)
    for seq, item in enumerate(found):
        time = datetime.fromisoformat(str(item.pop("time")))
        assert time.tzinfo is not None
        assert abs(datetime.now().astimezone() - time) < timedelta(minutes=1)
        assert item.pop("peer") == {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}
        assert item.pop("producer") == {"id": producer.id.hex(), "label": "tést"}
        assert item.pop("seq") == seq
        assert item.pop("address") == "app.sock"
    assert found[:2] == [{"body": "plain"}, {"body": 'é"\n'}]
    assert b64decode(str(found[2].pop("body_b64"))) == b"\xff\0"
    assert found[2] == {}


def test_json_of_a_foreign_message_names_no_producer(cli: Cli) -> None:
    """A foreign client has a peer, and sequence numbers of its connection."""
    with speaking(cli, b"hello\nagain"):
        out = cli.call("recv", "app.sock", "--output", "json", "--count", "2")[1]
    found = objects(out)
    assert [(item["producer"], item["seq"], item["body"]) for item in found] == [
        (None, 0, "hello"),
        (None, 1, "again"),
    ]


def test_losses_are_told_where_they_happened(cli: Cli) -> None:
    """What a producer dropped is a line on stderr, `lost` in JSON, and in the summary."""
    with mpsr.Producer(cli.address, label="li\nne", on_full="drop_newest", buffer=100) as producer:
        for i in range(10):  # nobody listens yet
            producer.send(b"%d" % i * 30)
        lost = producer.stats().lost
        assert lost > 0
        receiver = cli.recv("--output", "json")
        producer.flush(timeout=10)
        producer.send(b"last")
    found: list[dict[str, object]] = []
    while not found or found[-1]["body"] != "last":
        found += objects(receiver.read_line())
    assert sum(int(str(item.get("lost", 0))) for item in found) == lost
    _, _, told = receiver.finish(signal.SIGTERM)
    assert (
        f'mpsr: producer "li\\nne" (pid {os.getpid()}) lost {lost} messages before this\n' in told
    )
    assert told.endswith(f"from 1 connection; producers lost {lost}\n")


def test_count_acknowledges_exactly_so_many(cli: Cli) -> None:
    """The rest of the same batch goes to the next receiver."""
    messages = [b"%d" % i for i in range(10)]
    with mpsr.Producer(cli.address, linger=0.05) as producer:
        producer.send_many(messages)
        first = cli.call("recv", "app.sock", "--count", "3")
        assert producer.stats().buffered == 7
        second = cli.call("recv", "app.sock", "--count", "7")
        producer.flush(timeout=10)
    assert first[:2] == (0, b"0\n1\n2\n")
    assert second[:2] == (0, b"3\n4\n5\n6\n7\n8\n9\n")


def test_count_tells_what_it_discards(cli: Cli) -> None:
    """Foreign messages behind the last cannot go back, so they are counted."""
    with speaking(cli, b"one\ntwo\nthree\n"):
        status, out, told = cli.call("recv", "app.sock", "--count", "1")
    assert (status, out) == (0, b"one\n")
    assert (
        "mpsr: 2 messages not printed: lost, for their sender awaits no acknowledgement\n" in told
    )


def test_timeout_ends_a_silence(cli: Cli) -> None:
    """No message in that time is status 124 and a line; an earlier message is printed."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(cli.address))
        server.listen()
        client.connect(str(cli.address))
        client.sendall(b"one\n")  # before the time begins
        address, began = f"fd:{os.dup(server.fileno())}", monotonic()
        status, out, told = cli.call("recv", address, "--timeout", "300ms", "--count", "2")
    assert (status, out) == (124, b"one\n")
    assert f"mpsr: no message came to {address} within 0.3 s\n  try: start a producer" in told
    assert monotonic() - began >= 0.3


def test_sigterm_prints_what_has_arrived(cli: Cli) -> None:
    """An orderly end drains what the kernel holds, acknowledges it, and is status 0."""
    receiver = cli.recv()
    with mpsr.Producer(cli.address) as producer, socket.socket(socket.AF_UNIX) as client:
        producer.send(b"native 1")
        assert receiver.read_line() == b"native 1\n"
        client.connect(str(cli.address))
        client.sendall(b"foreign 1\n")
        assert receiver.read_line() == b"foreign 1\n"
        receiver.kill(signal.SIGSTOP)
        producer.send(b"native 2")
        assert not is_stuck(producer)  # a busy producer writes it a moment later
        client.sendall(b"foreign 2\n")
        speak(cli, b"foreign 3")
        receiver.kill(signal.SIGTERM)
        status, out, _ = receiver.finish(signal.SIGCONT)
        producer.flush(timeout=10)
    assert (status, sorted(out.splitlines())) == (0, [b"foreign 2", b"foreign 3", b"native 2"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_at_once(cli: Cli, signum: signal.Signals) -> None:
    """A receiver that waits for a stuck reader ends at the second signal: 130, or 143."""
    producer = mpsr.Producer(cli.address)
    receiver = cli.recv(limits={"SIGNAL_REPEAT": 0})
    producer.send_many([b"x" * 999] * 1000)
    assert receiver.read_line()
    receiver.kill(signum)
    receiver.await_signal_seen()
    receiver.kill(signum)
    assert receiver.popen.wait(timeout=10) == 128 + signum
    with pytest.raises(mpsr.Undelivered):
        producer.close(timeout=0)


def test_closed_stdout_ends_it_quietly(cli: Cli) -> None:
    """As in `mpsr recv … | head -1`: it ends with the reader, not with the next message."""
    receiver = cli.recv()
    assert receiver.popen.stdout is not None
    with mpsr.Producer(cli.address) as producer:
        producer.send(b"one")
        assert receiver.read_line() == b"one\n"
    receiver.popen.stdout.close()
    receiver.popen.stdout = None
    assert receiver.finish() == (141, b"", f"mpsr: listening on app.sock (pid {receiver.pid})\n")


def test_what_was_not_printed_is_not_acknowledged(cli: Cli) -> None:
    """A reader that leaves in the middle leaves the rest to the next receiver."""
    messages = [b"%06d" % i * 100 for i in range(2000)]
    with mpsr.Producer(cli.address) as producer:
        first = cli.recv()
        producer.send_many(messages)
        seen = [first.read_line() for _ in range(10)]
        assert first.popen.stdout is not None
        first.popen.stdout.close()
        first.popen.stdout = None
        assert first.finish()[0] == 141
        left = producer.stats().buffered
        assert left > 0
        _, out, _ = cli.call("recv", "app.sock", "--count", str(left))
        producer.flush(timeout=10)
    assert seen == [message + b"\n" for message in messages[:10]]
    assert out.splitlines() == messages[-left:]


def test_full_disk_is_an_error_and_acknowledges_nothing(cli: Cli) -> None:
    """ENOSPC is an error of status 74; the next receiver gets the message."""
    with mpsr.Producer(cli.address) as producer, Path("/dev/full").open("wb") as full:
        producer.send(b"one")
        status, _, told = cli.recv(stdout=full).finish()
        assert status == 74
        assert told.endswith(
            "mpsr: stdout cannot be written\n  why: No space left on device\n"
            "  try: make room, or write elsewhere\n"
        )
        assert cli.call("recv", "app.sock", "--count", "1")[:2] == (0, b"one\n")


def test_missing_stdout_is_an_error(cli: Cli) -> None:
    """Without stdout nothing is claimed: its number could be that of the socket."""
    shell = ("sh", "-c", 'exec "$0" "$@" >&-')
    status, _, told = cli.run("recv", "app.sock", before=shell)
    assert (status, told) == (
        74,
        "mpsr: stdout is closed\n  why: there is nowhere to write to\n  try: leave it open\n",
    )


def test_missing_stderr_is_no_error(cli: Cli) -> None:
    """Without stderr it only says nothing."""
    shell = ("sh", "-c", 'exec "$0" "$@" 2>&-')
    receiver = cli.start("recv", "app.sock", "--count", "1", before=shell)
    with mpsr.Producer(cli.address) as producer:
        producer.send(b"one")
        assert receiver.finish() == (0, b"one\n", "")


def test_broken_rule_is_told(cli: Cli) -> None:
    """A connection closed for its fault is a line that begins like all lines."""
    receiver = cli.recv("--max-message", "10", "--framing", "lines")
    speak(cli, b"x" * 100)
    receiver.await_word("too large: a message of more than 10 bytes\n")
    *_, line = receiver.told.splitlines()
    assert line.startswith(f"mpsr: closed the connection of pid {os.getpid()}, uid {os.getuid()}")


def test_busy_address_is_refused(cli: Cli) -> None:
    """A live receiver is not robbed, and named: status 75."""
    receiver = cli.recv()
    status, out, told = cli.call("recv", "app.sock")
    assert (status, out) == (75, b"")
    assert told == (
        f"mpsr: cannot claim app.sock\n  why: process {receiver.pid} is receiving there\n"
        "  try: stop it, choose another address, or take over from it with --handover\n"
    )


def test_path_has_the_mode_that_was_asked_for(cli: Cli) -> None:
    """--mode is octal, whatever the umask."""
    cli.recv("--mode", "660")
    assert cli.address.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_abstract_names_and_datagrams(cli: Cli, kind: SocketType) -> None:
    """@name needs no file, and a datagram is a message."""
    name = f"@mpsr-test-{os.getpid()}-{kind}"
    trusted: ReceiverUid = "any" if kind == "dgram" else None  # nobody tells whose a name is
    with mpsr.Producer[bytes](name, type=kind, receiver_uid=trusted) as producer:
        producer.send_many([b"one\ntwo", b"three"])
        status, out, told = cli.call("recv", name, "--type", kind, "--count", "2")
    assert (status, out) == (0, b"one\ntwo\nthree\n")
    origin = " from 1 connection" if kind == "stream" else ""
    assert told.endswith(f"mpsr: received 2 messages, 12 B{origin}\n")


def test_framing_can_be_forced(cli: Cli) -> None:
    """--framing null splits where auto would see lines."""
    with speaking(cli, b"one\ntwo\0three"):
        ended = cli.call("recv", "app.sock", "--framing", "null", "--count", "2")
    assert ended[:2] == (0, b"one\ntwo\nthree\n")


@pytest.mark.parametrize(
    ("client", "argument"),
    [
        pytest.param("nc", "-NU", id="nc", marks=pytest.mark.needs("nc")),
        pytest.param("socat", "-", id="socat", marks=pytest.mark.needs("socat")),
    ],
)
def test_everyday_clients_can_send(cli: Cli, client: str, argument: str) -> None:
    """What a shell has at hand speaks to the very same socket."""
    target = "app.sock" if client == "nc" else "UNIX-CONNECT:app.sock"
    receiver = cli.recv("--count", "2")
    subprocess.run(
        [client, argument, target], input=b"one\ntwo", cwd=cli.directory, check=True, timeout=10
    )
    assert receiver.finish()[:2] == (0, b"one\ntwo\n")


def test_many_connections_raise_the_limit_of_open_files(cli: Cli) -> None:
    """--max-connections gets the descriptors that the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("the hard limit is low")
    shell = ("sh", "-c", 'ulimit -Sn 256; exec "$0" "$@"')
    receiver = cli.recv("--max-connections", "3000", before=shell)
    limits = Path(f"/proc/{receiver.pid}/limits").read_text()
    soft = next(line.split()[3] for line in limits.splitlines() if "open files" in line)
    assert int(soft) > 3000
    assert "at once" not in receiver.told


def test_too_few_descriptors_are_told(cli: Cli) -> None:
    """Where the hard limit is lower than what was asked for, it says how many it can take."""
    shell = ("sh", "-c", 'ulimit -n 100; exec "$0" "$@"')
    receiver = cli.recv("--max-connections", "3000", before=shell)
    assert "mpsr: no more than 68 connections at once: see ulimit -n\n" in receiver.told


@pytest.mark.parametrize(
    "options",
    [
        ("--null", "--output", "raw"),
        ("--type", "dgram", "--framing", "native"),
        ("--decode", "syslog"),
        ("--count", "0"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    """What has no meaning is a usage error, not ignored."""
    address = tmp_path / "app.sock"
    assert run(["recv", str(address), *options]) == 2
    assert re.fullmatch(r"mpsr: .+\n  why: .+\n(  try: .+\n)?", capfd.readouterr().err)
    assert not address.exists()


def test_new_command_takes_over_and_the_old_one_ends_well(cli: Cli) -> None:
    """Each message is printed by one of them; the old one's status is 0."""
    old = cli.recv()
    with mpsr.Producer(cli.address) as producer:
        producer.send(b"before")
        assert old.read_line() == b"before\n"
        new = cli.recv("--handover")
        assert old.finish()[0] == 0
        producer.send(b"behind")
        assert new.read_line() == b"behind\n"
    assert new.finish(signal.SIGTERM)[0] == 0
    assert not cli.address.exists()
