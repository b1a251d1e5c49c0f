"""Receivers that systemd starts: its sockets, its notifications, its units."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr.system import passing
from tests.cli.conftest import PATIENCE, Cli
from tests.eventually import eventually
from tests.processes import eventually_by

if TYPE_CHECKING:
    from collections.abc import Iterator

activates = pytest.mark.needs("systemd-socket-activate")


@activates
@pytest.mark.parametrize(
    ("option", "kind"), [(None, "stream"), ("-d", "dgram"), ("--seqpacket", "seqpacket")]
)
def test_message_starts_the_receiver_that_prints_it(
    cli: Cli, option: str | None, kind: str
) -> None:
    """The first message activates it and is printed; the path stays when it has ended."""
    before = ["systemd-socket-activate", "-l", str(cli.address), *([option] if option else [])]
    receiver = cli.start("recv", "systemd:", "--count", "1", before=before)
    eventually_by(receiver.popen, cli.address.exists)
    status, _, _ = cli.call("send", "app.sock", "--type", kind, "activated")
    assert status == 0
    assert receiver.finish()[:2] == (0, b"activated\n")
    assert cli.address.exists()


@activates
def test_several_sockets_have_names(cli: Cli) -> None:
    """Two sockets, one of datagrams, in one receiver; each batch tells where it came."""
    names = {name: cli.directory / f"{name}.sock" for name in ("events", "log")}
    program = (
        "import mpsr, socket, sys\n"
        "with mpsr.Receiver('systemd:') as receiver:\n"
        "    assert len(receiver.addresses) == 1\n"
        "    for _ in range(2):\n"
        "        batch = receiver.receive_batch(10)\n"
        "        print(batch.address, *batch, flush=True)\n"
        "with mpsr.Receiver(['systemd:log', 'systemd:events']) as receiver:\n"
        "    print('again', *map(str, receiver.addresses), flush=True)\n"
    )
    command = ["systemd-socket-activate", "--fdname=events:log"]
    for path in names.values():
        command += ["-l", str(path)]
    command += [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as started:
        for path in names.values():
            eventually(path.exists)
        for name, path in names.items():
            with mpsr.Producer(path) as producer:
                producer.send(name.encode())
        out, _ = started.communicate(timeout=PATIENCE)
    lines = out.splitlines()
    assert sorted(lines[:2]) == ["systemd:events b'events'", "systemd:log b'log'"]
    assert lines[2] == "again systemd:log systemd:events"
    assert all(path.exists() for path in names.values())


PASSING = """
import os, socket, sys
kinds = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "inet": socket.SOCK_STREAM}
sockets = []
for kind in sys.argv[1].split(","):
    family = socket.AF_INET if kind == "inet" else socket.AF_UNIX
    sock = socket.socket(family, kinds[kind])
    sock.bind(("127.0.0.1", 0) if kind == "inet" else os.path.abspath(f"{len(sockets)}.sock"))
    if kind == "stream":
        sock.listen()
    sockets.append(os.dup(sock.fileno()) + 100)
    os.dup2(sock.fileno(), sockets[-1])
for number, descriptor in enumerate(sockets, 3):
    os.dup2(descriptor, number)
os.environ.update(LISTEN_FDS=str(len(sockets)), LISTEN_PID=str(os.getpid()))
os.environ.update(entry.split("=") for entry in sys.argv[2].split(",") if entry)
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""
RECEIVER = """
import mpsr, os, sys
options = dict(entry.split("=") for entry in sys.argv[2:])
with mpsr.Receiver(sys.argv[1], **options) as receiver:
    print([os.get_inheritable(number) for number in range(3, 3 + int(os.environ["LISTEN_FDS"]))])
"""


def passed(kinds: str, environment: str, address: str, *options: str, home: Path) -> str:
    """Make a receiver of sockets that were passed; return what it prints, or its last words."""
    command = [sys.executable, "-c", PASSING, kinds, environment, "-c", RECEIVER, address, *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home)
    return (ended.stdout or ended.stderr).strip().splitlines()[-1]


def test_passed_sockets_are_not_inherited(tmp_path: Path) -> None:
    """Not those that are received at, and not the others that were passed."""
    assert (
        passed("stream,dgram", "LISTEN_FDNAMES=a:b", "systemd:a", home=tmp_path) == "[False, False]"
    )


@pytest.mark.parametrize(
    ("passing_what", "error"),
    [
        (("stream", "LISTEN_FDS=0", "systemd:"), "LISTEN_FDS=0 is no number of sockets"),
        (("stream", "LISTEN_FDS=x", "systemd:"), "LISTEN_FDS=x is no number of sockets"),
        (("stream", "LISTEN_FDS=", "systemd:"), "no sockets were passed to this process"),
        (("stream", "LISTEN_FDS=3", "systemd:"), "a descriptor that LISTEN_FDS counts is not op"),
        (("stream", "LISTEN_PID=1", "systemd:"), "the sockets were passed to process 1"),
        (("stream", "LISTEN_FDNAMES=a", "systemd:b"), "passed were: a; see FileDescriptorName="),
        (("stream", "", "systemd:b"), "passed were: none with a name"),
        (("dgram", "", "systemd:", "type=stream"), "it is an AF_UNIX socket of type SOCK_DGRAM"),
        (("dgram", "", "systemd:", "framing=native"), "framing='native' has no use with type='dgr"),
        (("inet", "", "systemd:"), "it is an AF_INET socket of type SOCK_STREAM"),
    ],
)
def test_what_was_not_passed_is_told(
    tmp_path: Path, passing_what: tuple[str, ...], error: str
) -> None:
    assert error in passed(*passing_what, home=tmp_path)


def test_producer_has_no_systemd_address() -> None:
    with pytest.raises(mpsr.InvalidAddress, match="stands for a receiver's sockets"):
        mpsr.Producer("systemd:")


# -- notifications ----------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Give the socket at which a service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE)
        yield sock


def test_command_tells_how_it_gets_on(cli: Cli, manager: socket.socket) -> None:
    """It is ready, alive, and stopping; it stays until that is noted."""
    environment = {"NOTIFY_SOCKET": str(cli.directory / "notify"), "WATCHDOG_USEC": "200000"}
    receiver = cli.start("recv", "app.sock", env=environment)
    assert manager.recv(1000) == b"READY=1\nSTATUS=receiving at app.sock"
    with mpsr.Receiver(cli.directory / "other.sock"):  # no matter
        assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    receiver.kill(signal.SIGTERM)
    told = b"WATCHDOG=1"
    while told == b"WATCHDOG=1":
        told = manager.recv(1000)
    assert told == b"STOPPING=1"
    told, descriptors = passing.receive(manager, 1000)
    assert told == b"BARRIER=1"
    assert receiver.popen.poll() is None
    for descriptor in descriptors:
        os.close(descriptor)
    assert receiver.finish()[0] == 0


def test_watchdog_leaves_the_time_out_alone(cli: Cli, manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": str(cli.directory / "notify"), "WATCHDOG_USEC": "100000"}
    status, _, told = cli.call("recv", "app.sock", "--timeout", "300ms", env=environment)
    assert status == 124
    assert "no message came to app.sock within 0.3 s" in told


# -- units ------------------------------------------------------------------------------------


def units(cli: Cli, *arguments: str) -> dict[str, str]:
    """Return the units by name, without the comments that name them."""
    status, out, told = cli.call("systemd", *arguments)
    assert (status, told) == (0, "")
    parts = re.split(r"^# (\S+)\n", out.decode(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("kind", ["stream", "dgram", "seqpacket"])
@pytest.mark.parametrize("address", ["/run/app/events.sock", "@events", "/run/50%/a b.sock"])
def test_units_are_accepted_and_rated_safe(cli: Cli, address: str, kind: str) -> None:
    """`systemd-analyze verify` has nothing to say, and `security` rates them below 2.0."""
    arguments = [address, "--type", kind, "--name", "events", "--mode", "660", "--group", "adm"]
    status, _, told = cli.call("systemd", *arguments, "--directory", ".")
    assert status == 0
    assert "now: systemctl enable --now events.socket" in told
    files = ["./events.socket", "./events.service"]
    run: Any = {"capture_output": True, "text": True, "cwd": cli.directory}
    verified = subprocess.run(["systemd-analyze", "verify", *files], check=False, **run)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", files[1]], check=False, **run
    ).stdout
    found = re.search(r"exposure level for events.service: ([\d.]+)", rated)
    assert found is not None
    assert float(found[1]) < 2.0


def test_units_say_what_was_asked_for(cli: Cli) -> None:
    found = units(cli, "log.sock", "--type", "dgram", "--", "/bin/echo", "50%", "$HOME", 'a "b"')
    assert list(found) == ["log.socket", "log.service"]
    assert f"\nListenDatagram={cli.directory}/log.sock\n" in found["log.socket"]
    assert "\nFileDescriptorName=log\n" in found["log.socket"]
    assert "\nSocketMode=0600\n" in found["log.socket"]
    assert "SocketGroup" not in found["log.socket"]
    assert '\nExecStart=/bin/echo 50%% "$$HOME" "a \\"b\\""\n' in found["log.service"]
    program = f"{os.path.dirname(sys.executable)}/mpsr"
    assert f"\nExecStart={program} recv systemd:app\n" in units(cli, "@app")["app.service"]


def test_units_overwrite_none(cli: Cli) -> None:
    assert cli.call("systemd", "/run/log.sock", "--directory", ".")[0] == 0
    (cli.directory / "log.socket").unlink()
    status, _, told = cli.call("systemd", "@log", "--directory", ".")
    assert (status, told) == (
        78,
        "mpsr: cannot write ./log.service\n  why: it exists\n  try: remove it, or pass --name\n",
    )
    assert not (cli.directory / "log.socket").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["fd:3"], 2, "\n  try: pass a path or @name\n"),
        (["systemd:"], 2, "\n  try: pass a path or @name\n"),
        (["/run/a b.sock"], 2, "'a b' cannot name units\n"),
        (["/run/a.sock", "--directory", "/nobody/there"], 74, "cannot write a.socket in /nobody"),
    ],
)
def test_wrong_arguments_are_told(cli: Cli, arguments: list[str], status: int, error: str) -> None:
    found, out, told = cli.call("systemd", *arguments)
    assert (found, out) == (status, b"")
    assert error in told
    assert told.count("\n") == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("/run/a.sock\nExecStartPre=/bin/evil", "--name", "a"),
        ("/run/a.sock\rExecStartPre=/bin/evil", "--name", "a"),
        ("/run/a.sock\\", "--name", "a"),
        ("/run/a.sock ", "--name", "a"),
        (b"/run/\xff.sock", "--name", "a"),
        ("@a\nExecStartPre=/bin/evil", "--name", "a"),
        ("/run/a.sock", "--group", "g\nExecStartPre=/bin/evil"),
        ("/run/a.sock", "--group", "g h"),
        ("/run/a.sock", "--name", "a\nExecStartPre=/bin/evil"),
        ("/run/a.sock", "--name", "a:b"),
    ],
)
def test_no_argument_adds_a_line_to_a_unit(cli: Cli, arguments: tuple[str | bytes, ...]) -> None:
    """What a unit cannot hold is refused, in one error."""
    status, out, told = cli.call("systemd", *arguments)
    assert (status, out) == (2, b"")
    assert told.count("\n") == 3


@pytest.mark.needs("systemd-analyze")
def test_command_of_any_bytes_is_one_line_of_the_unit(cli: Cli) -> None:
    """As systemd reads it: control characters, quotes, specifiers and other bytes are escaped."""
    word = b"a b\n\r\t\"'\\$HOME %h \xff\x1b"
    status, _, told = cli.call(
        "systemd", "/run/app.sock", "--directory", ".", "--", "/bin/echo", word
    )
    assert status == 0, told
    text = (cli.directory / "app.service").read_bytes()
    (line,) = [each for each in text.split(b"\n") if each.startswith(b"ExecStart=")]
    assert line == rb"""ExecStart=/bin/echo "a b\x0a\x0d\x09\"'\\$$HOME %%h \xff\x1b""" + b'"'
    done = subprocess.run(
        ["systemd-analyze", "verify", "./app.socket", "./app.service"],
        cwd=cli.directory,
        capture_output=True,
        check=False,
    )
    assert done.stderr == b"", done.stderr


# -- several addresses, and syslog ------------------------------------------------------------


def test_command_receives_at_several_addresses(cli: Cli) -> None:
    """Each with what is its own behind commas; JSON tells where a message came."""
    receiver = cli.start(
        "recv", "app.sock", "log.sock,type=dgram,mode=666", "a,b.sock,framing=null", "-o", "json",
        "--count", "3",
    )  # fmt: skip
    receiver.await_word("listening on app.sock, log.sock, a,b.sock")
    assert (cli.directory / "log.sock").stat().st_mode & 0o777 == 0o666
    assert cli.call("send", "app.sock", "one")[0] == 0
    assert cli.call("send", "log.sock", "--type", "dgram", "two")[0] == 0
    assert cli.call("send", "a,b.sock", "--framing", "null", "three\nlines")[0] == 0
    status, out, _ = receiver.finish()
    found = {item["address"]: item["body"] for item in map(json.loads, out.splitlines())}
    assert status == 0
    assert found == {"app.sock": "one", "log.sock": "two", "a,b.sock": "three\nlines"}


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("a.sock,type=raw", "'raw' is none of stream, dgram, seqpacket"),
        ("a.sock,mode=9", "is no octal mode"),
        ("a.sock,type=dgram,type=dgram", "has type= twice"),
    ],
)
def test_wrong_option_of_an_address_is_refused(cli: Cli, address: str, error: str) -> None:
    status, _, told = cli.call("recv", address)
    assert status == 2
    assert error in told


def test_syslog_is_decoded(cli: Cli) -> None:
    """Its fields stand beside the message; what is no syslog is marked so."""
    receiver = cli.recv("--type", "dgram", "--decode", "syslog", "-o", "json", "--count", "2")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(cli.address))
        sock.send(b'<165>1 2026-11-27T10:00:00Z host app 7 ID [x@1 k="v"] text\n')
        sock.send(b"no syslog\xff")
    _, out, _ = receiver.finish()
    found = [json.loads(line)["syslog"] for line in out.splitlines()]
    assert found == [
        {
            "format": "rfc5424",
            "facility": "local4",
            "severity": "notice",
            "time": "2026-11-27T10:00:00+00:00",
            "host": "host",
            "app": "app",
            "procid": "7",
            "msgid": "ID",
            "structured": {"x@1": {"k": ["v"]}},
            "message": "text",
        },
        {"format": None, "message": "no syslog\ufffd"},
    ]
