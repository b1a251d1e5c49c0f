"""`mpsr send` delivers arguments or lines, and its status says whether all were accepted."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

import mpsr
from mpsr.cli.entry import run
from mpsr.wire.framing import Framing
from tests.cli.conftest import PATIENCE, Cli, Screen
from tests.processes import eventually_by

PIPE = subprocess.PIPE


@pytest.fixture
def receiver(cli: Cli) -> Iterator[mpsr.Receiver]:
    """Receive in this process, which accepts when a test comes back for more."""
    with mpsr.Receiver(cli.address) as receiver:
        yield receiver


def received(receiver: mpsr.Receiver, count: int) -> list[bytes]:
    """Receive so many messages, and come back once, so that all are acknowledged."""
    messages = [receiver.receive(timeout=PATIENCE) for _ in range(count)]
    with pytest.raises(mpsr.TimedOut):
        receiver.receive(timeout=0)
    return messages


def sent(
    cli: Cli, receiver: mpsr.Receiver, count: int, *arguments: str | bytes, feed: bytes = b""
) -> tuple[list[bytes], tuple[int, bytes, str]]:
    """Run ``mpsr send`` in this process, while a thread receives ``count`` messages."""
    with ThreadPoolExecutor(1) as thread:
        messages = thread.submit(received, receiver, count)
        ended = cli.call("send", "app.sock", *arguments, feed=feed)
        return messages.result(), ended


# -- what is sent ---------------------------------------------------------------------------


def test_each_argument_is_a_message(cli: Cli, receiver: mpsr.Receiver) -> None:
    """Arguments arrive in order, whatever their bytes; the last line counts them."""
    sender = cli.start("send", "app.sock", "one", b"\xff\n", "", "--", "-x")
    assert received(receiver, 4) == [b"one", b"\xff\n", b"", b"-x"]
    assert sender.finish() == (0, b"", "mpsr: sent 4, accepted 4\n")


def test_stdin_is_untouched_beside_arguments(cli: Cli, receiver: mpsr.Receiver) -> None:
    """A pipe that nobody writes to is not waited for, and one with data keeps it."""
    reader, writer = os.pipe()
    os.write(writer, b"mine")
    sender = cli.start("send", "app.sock", "one", stdin=reader)
    assert received(receiver, 1) == [b"one"]
    assert sender.finish()[0] == 0
    assert os.read(reader, 100) == b"mine"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("options", "feed", "expected"),
    [
        ((), b"one\ntwo\r\n\nth\rree\r\r\n\xfffour", ["one", "two", "", "th\rree\r", "\xfffour"]),
        ((), b"", []),
        (("--skip-empty",), b"\none\n\n\r\n", ["one"]),
        (("-0",), b"one\n\0\0two", ["one\n", "", "two"]),
        (("--whole",), b"one\ntwo\n\0", ["one\ntwo\n\0"]),
        (("--whole",), b"", [""]),
        (("--whole", "--skip-empty"), b"", []),
        (
            ("--json",),
            b'{"seq":0,"body":"o\\nn\xc3\xa9"}\n{"lost":3}\n{"body_b64":"/wA=","reason":"bad"}\n',
            ["o\nn\xc3\xa9", "\xff\0"],
        ),
    ],
)
def test_stdin_is_split_as_asked(
    cli: Cli,
    receiver: mpsr.Receiver,
    options: tuple[str, ...],
    feed: bytes,
    expected: list[str],
) -> None:
    """A line a message, without its line end; or what ends with NUL; or all of it."""
    count = len(expected)
    assert sent(cli, receiver, count, *options, feed=feed) == (
        [text.encode("latin-1") for text in expected],
        (0, b"", f"mpsr: sent {count}, accepted {count}\n"),
    )


@pytest.mark.parametrize(
    "line",
    [
        b"text",
        b"[]",
        b"{}",
        b'{"body":7}',
        b'{"body":"\\ud800"}',
        b'{"body_b64":"\xff"}',
        b'{"body_b64":"a"}',
        b"[" * 100_000,
        b"\xff\xfe{\0}\0",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_line_that_is_no_object_with_a_body_is_named(
    cli: Cli, receiver: mpsr.Receiver, line: bytes
) -> None:
    """The messages before it are sent; it is an error of the data, and no traceback."""
    feed = b'{"body":"one"}\n' + line + b'\n{"body":"three"}\n'
    messages, (status, _, told) = sent(cli, receiver, 1, "--json", feed=feed)
    assert (messages, status) == ([b"one"], 65)
    assert told.startswith(
        "mpsr: message 2 is not sent, nor what comes after it\n  why: the line is no"
    )


def test_lines_leave_as_they_come(cli: Cli, receiver: mpsr.Receiver) -> None:
    """A line goes out when it is complete, while stdin stays open."""
    sender = cli.start("send", "app.sock", stdin=PIPE)
    sender.write(b"one\ntw")
    assert received(receiver, 1) == [b"one"]
    sender.write(b"o\nthree")
    assert received(receiver, 1) == [b"two"]
    assert sender.popen.stdin is not None
    sender.popen.stdin.close()
    sender.popen.stdin = None
    assert received(receiver, 1) == [b"three"]
    assert sender.finish()[0] == 0


def test_many_lines_pass_through_both_commands(cli: Cli) -> None:
    """A large pipe in is the same out, and a line of 5 MB is a line."""
    text = b"".join(b"%d\n" % i for i in range(100_000)) + b"x" * 5_000_000 + b"\n"
    reader = cli.recv("--count", "100001")
    source = cli.directory / "source"
    source.write_bytes(text)
    with source.open("rb") as lines:
        sender = cli.start("send", "app.sock", stdin=lines)
        status, out, _ = reader.finish()
    assert (status, out == text) == (0, True)
    assert sender.finish() == (0, b"", "mpsr: sent 100001, accepted 100001\n")


def test_label_is_shown_to_the_receiver(cli: Cli, receiver: mpsr.Receiver) -> None:
    """--label names the producer."""
    sender = cli.start("send", "app.sock", "one", "--label", "nightly")
    batch = receiver.receive_batch(timeout=PATIENCE)
    assert batch.producer is not None
    assert (batch.producer.label, batch.peer.pid) == ("nightly", sender.pid)


# -- whether there is a receiver ------------------------------------------------------------


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("options", [(), ("--type", "dgram"), ("--framing", "lines")])
def test_no_receiver_is_told_at_once(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: tuple[str, ...],
    stale: bool,
) -> None:
    """Status 69, what is there, and what to try; nothing waits."""
    monkeypatch.chdir(tmp_path)
    if stale:
        kind = socket.SOCK_DGRAM if "dgram" in options else socket.SOCK_STREAM
        with socket.socket(socket.AF_UNIX, kind) as former:
            former.bind("app.sock")
    assert run(["send", "app.sock", "one", *options]) == 69
    there = "nobody listens there (any more)" if stale else "nothing is there"
    kind_of = "--type dgram " if "dgram" in options else ""
    *lines, summary = capfd.readouterr().err.splitlines()
    assert lines == [
        "mpsr: 1 message to app.sock not delivered",
        f"  why: cannot reach app.sock: {there}",
        f"  try: start the receiver: mpsr recv {kind_of}app.sock",
    ]
    assert summary.startswith("mpsr: sent 1, ")


def test_no_receiver_is_told_before_anything_is_typed(cli: Cli) -> None:
    """Who types learns at once that nobody listens, not after the first line."""
    status, _, told = cli.start("send", "app.sock", stdin=PIPE).finish()
    assert status == 69
    assert told.startswith("mpsr: cannot reach app.sock\n  why: nothing is there\n")


def test_timeout_waits_for_a_receiver_in_vain(cli: Cli) -> None:
    """With --timeout a missing receiver is waited for; then it is status 69."""
    began = monotonic()
    status, _, told = cli.call("send", "app.sock", "one", "--timeout", "500ms")
    assert monotonic() - began > 0.5
    assert (status, told.count("\n")) == (69, 4)


def test_timeout_waits_for_a_receiver_with_success(cli: Cli) -> None:
    """A receiver that appears in time gets everything; the wait is told once."""
    sender = cli.start("send", "app.sock", "one", "--timeout", "30s")
    sender.await_word("mpsr: waiting for a receiver at app.sock\n")
    with mpsr.Receiver(cli.address) as receiver:
        assert received(receiver, 1) == [b"one"]
        status, _, told = sender.finish()
    assert (status, told.count("waiting")) == (0, 1)
    assert told.endswith("mpsr: sent 1, accepted 1\n")


def test_wrong_kind_of_address_is_told_at_once(cli: Cli) -> None:
    """What waiting cannot heal is not waited for, even with --timeout."""
    cli.address.write_text("mine")
    status, _, told = cli.call("send", "app.sock", "one", "--timeout", "30s")
    assert status == 78
    assert "what is there is a regular file, not a socket\n  try: check the path\n" in told


# -- whether it is accepted -----------------------------------------------------------------


def test_restart_of_the_receiver_loses_nothing(cli: Cli) -> None:
    """What a killed receiver had not accepted goes to the next; the outage is told once."""
    first = cli.recv()
    sender = cli.start("send", "app.sock", stdin=PIPE)
    sender.write(b"one\n")
    assert first.read_line() == b"one\n"
    first.finish(signal.SIGKILL)
    sender.write(b"two\n")
    sender.await_word("mpsr: waiting for a receiver to return to app.sock, to accept ")
    sender.write(b"three")
    second = cli.recv()
    assert sender.popen.stdin is not None
    sender.popen.stdin.close()
    sender.popen.stdin = None
    status, _, told = sender.finish()
    assert (status, told.count("waiting")) == (0, 1)
    assert told.endswith("mpsr: sent 3, accepted 3\n")
    # "one" comes again if the first was killed between printing and acknowledging it.
    assert second.finish(signal.SIGTERM)[1].removeprefix(b"one\n") == b"two\nthree\n"


def test_receiver_that_accepts_nothing_in_time(cli: Cli, receiver: mpsr.Receiver) -> None:
    """It is status 124, and the line says who does not accept how many."""
    sender = cli.start("send", "app.sock", "one", "two", "--timeout", "400ms")
    assert len(receiver.receive_batch(timeout=PATIENCE)) == 2
    assert sender.finish() == (
        124,
        b"",
        (
            "mpsr: app.sock accepted nothing for 0.4 s: 2 messages to app.sock not accepted\n"
            f"  why: the receiver (pid {os.getpid()}) has not come back for more; they were sent "
            "to it, and arrive if it continues\n"
            "  try: look at the receiver, or wait longer with a larger --timeout\n"
            "mpsr: sent 2, accepted 0\n"
        ),
    )


def test_foreign_server_that_answers_nothing_is_told(cli: Cli) -> None:
    """Who connects to what is no mpsr receiver is told to name the framing."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(cli.address))
        server.listen()
        sender = cli.start("send", "app.sock", "one")
        sender.await_word(
            "mpsr: waiting for app.sock to answer; if it is no mpsr receiver, name its --framing\n"
        )


def test_receiver_with_a_full_backlog_is_told_from_one_that_is_not_there(cli: Cli) -> None:
    """Somebody listens, and takes no connection: with and without --timeout it is named so."""
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as waiting:
        server.bind(str(cli.address))
        server.listen(0)
        try:
            while True:
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(cli.address))
        except BlockingIOError:
            pass
        for sender in [
            cli.start("send", "app.sock", "one", *options) for options in ((), ("--timeout", "30s"))
        ]:
            sender.await_word("mpsr: waiting for the receiver at app.sock, whose backlog is full\n")
            assert "waiting for a receiver" not in sender.told


def test_slow_receiver_is_waited_for(cli: Cli, receiver: mpsr.Receiver) -> None:
    """Without --timeout a busy receiver is waited for, and named after a second."""
    sender = cli.start("send", "app.sock", "one")
    assert receiver.receive(timeout=PATIENCE) == b"one"
    sender.await_word("mpsr: waiting for the receiver at app.sock to accept 1 message\n")
    assert received(receiver, 0) == []
    assert sender.finish()[0] == 0


@pytest.mark.parametrize(
    ("options", "count", "why"),
    [
        (
            ("--max-message", "10"),
            1,
            (
                "2 is not sent, nor what comes after it\n"
                "  why: a message of 11 bytes: the most here is 10"
            ),
        ),
        (
            ("--max-message", "10", "--whole"),
            0,
            "1 is not sent, nor what comes after it\n  why: a message of more than 10 bytes",
        ),
    ],
)
def test_message_too_large_stops_it(
    cli: Cli, receiver: mpsr.Receiver, options: tuple[str, ...], count: int, why: str
) -> None:
    """Status 65; what came before it is delivered all the same."""
    arguments = () if "--whole" in options else ("one", "x" * 11, "three")
    messages, (status, _, told) = sent(cli, receiver, count, *options, *arguments, feed=b"x" * 11)
    assert (messages, status) == ([b"one"][:count], 65)
    assert told == (
        f"mpsr: message {why}\n  try: raise --max-message, here and at the receiver\n"
        f"mpsr: sent {count}, accepted {count}\n"
    )


def test_line_too_large_is_noticed_before_its_end(cli: Cli, receiver: mpsr.Receiver) -> None:
    """An endless line takes no endless memory: the lines before it are delivered, then 65."""
    sender = cli.start("send", "app.sock", "--max-message", "1K", stdin=PIPE)
    sender.write(b"one\n" + b"x" * 2000)  # and no line end
    assert received(receiver, 1) == [b"one"]
    status, _, told = sender.finish()
    assert status == 65
    assert told.startswith("mpsr: message 2 is not sent")


def test_receiver_may_take_less(cli: Cli) -> None:
    """What is larger than the receiver takes is dropped, counted and status 65."""
    with mpsr.Receiver(cli.address, max_message=5000) as receiver:
        sender = cli.start("send", "app.sock", "one", "x" * 5001, "three")
        assert received(receiver, 2) == [b"one", b"three"]
        status, _, told = sender.finish()
    assert status == 65
    assert told == (
        "mpsr: 1 message dropped\n  why: larger than the receiver takes\n"
        "  try: raise --max-message at the receiver\nmpsr: sent 3, accepted 2\n"
    )


# -- foreign receivers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framing", "connections"),
    [
        ("lines", [b"one\ntwo\n"]),
        ("null", [b"one\0two\0"]),
        ("length", [b"\0\0\0\3one\0\0\0\3two"]),
        ("eof", [b"one", b"two"]),
    ],
)
def test_foreign_servers_get_their_framing(
    cli: Cli, framing: Framing, connections: list[bytes]
) -> None:
    """Nothing but the messages is sent, on no connection but theirs."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(cli.address))
        server.listen()
        server.settimeout(PATIENCE)
        assert cli.call("send", "app.sock", "--framing", framing, "one", "two") == (
            0,
            b"",
            f"mpsr: sent 2, written 2 (--framing {framing} has no acknowledgements)\n",
        )
        for expected in connections:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                assert stream.read() == expected
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_foreign_datagrams(cli: Cli) -> None:
    """A datagram is a message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(cli.address))
        status, _, told = cli.call("send", "app.sock", "--type", "dgram", "one\ntwo", "")
        assert [server.recv(100), server.recv(100)] == [b"one\ntwo", b""]
    assert (status, told) == (0, "mpsr: sent 2, written 2 (datagrams have no acknowledgements)\n")


def test_framing_that_cannot_carry_it(cli: Cli) -> None:
    """A line break cannot be sent in lines: status 65, and why."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(cli.address))
        server.listen()
        status, _, told = cli.call("send", "app.sock", "--framing", "lines", "one\ntwo")
    assert status == 65
    assert "the message holds the delimiter b'\\n'\n  try: choose another --framing" in told


# -- interruption ---------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_delivers_what_was_read(
    cli: Cli, receiver: mpsr.Receiver, signum: signal.Signals
) -> None:
    """It stops reading, leaves an unfinished line out, and says so: 130, 143 or 129."""
    sender = cli.start("send", "app.sock", stdin=PIPE)
    sender.write(b"one\ntwo\nunfini")
    assert receiver.receive(timeout=PATIENCE) == b"one"
    sender.kill(signum)
    assert receiver.receive(timeout=PATIENCE) == b"two"
    assert received(receiver, 0) == []
    assert sender.popen.wait(PATIENCE) == 128 + signum  # while its stdin is still open
    _, _, told = sender.finish()
    assert told.splitlines()[-2:] == [
        "mpsr: left out 6 B of an unfinished message",
        "mpsr: sent 2, accepted 2",
    ]


def test_second_signal_ends_at_once(cli: Cli, receiver: mpsr.Receiver) -> None:
    """A user who does not want to wait interrupts again; the number of lost messages is printed."""
    sender = cli.start(
        "send", "app.sock", stdin=PIPE, limits={"CLOSE_TIMEOUT": 1000, "SIGNAL_REPEAT": 0}
    )
    sender.write(b"one\n")
    assert receiver.receive(timeout=PATIENCE) == b"one"
    sender.kill(signal.SIGINT)
    sender.await_word("mpsr: 1 message to deliver: waiting for up to 1000 s; or interrupt again\n")
    status, _, told = sender.finish(signal.SIGINT)
    assert status == 130
    assert "mpsr: 1 message to app.sock not accepted\n" in told
    assert told.endswith("mpsr: sent 1, accepted 0\n")


# -- terminals ------------------------------------------------------------------------------


def test_typed_lines_are_sent(cli: Cli, receiver: mpsr.Receiver) -> None:
    """On a terminal a line goes out at Enter, and Ctrl-D ends it; no display disturbs."""
    master, slave = pty.openpty()
    sender = cli.start("send", "app.sock", stdin=slave, stderr=slave)
    os.close(slave)
    screen = Screen(master)
    screen.type(b"one\n")
    assert received(receiver, 1) == [b"one"]
    screen.type(b"two\n\x04")
    assert received(receiver, 1) == [b"two"]
    assert sender.finish()[0] == 0
    shown = screen.rest()
    os.close(master)
    assert b"\x1b" not in shown
    assert shown.endswith(b"mpsr: sent 2, accepted 2\r\n")


@pytest.mark.parametrize(
    ("environment", "display", "colour"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_long_delivery_shows_how_it_gets_on(
    cli: Cli,
    receiver: mpsr.Receiver,
    environment: dict[str, str | None],
    display: bool,
    colour: bool,
) -> None:
    """After a second a terminal shows the counters, without colours where none are wanted."""
    environment = {"COLUMNS": "100", "NO_COLOR": None, **environment}
    master, slave = pty.openpty()
    sender = cli.start("send", "app.sock", "one", stderr=slave, env=environment)
    os.close(slave)
    screen = Screen(master)
    assert receiver.receive(timeout=PATIENCE) == b"one"
    screen.wait_for(b"waiting for the receiver at app.sock to accept 1 message")
    if display:
        screen.wait_for(b"sent 1, accepted 0")
    assert received(receiver, 0) == []
    assert sender.finish()[0] == 0
    shown = screen.rest()
    os.close(master)
    assert shown.endswith(b"mpsr: sent 1, accepted 1\r\n")
    assert (b"\x1b[" in shown) is display
    assert bool(re.search(rb"\x1b\[[0-9;]*3[0-9]m", shown)) is colour


CLOSED = "mpsr: stdin is closed\n  why: nothing can be read\n  try: pass messages as arguments\n"

# -- usage ----------------------------------------------------------------------------------


def test_stdin_that_cannot_be_read_is_told(cli: Cli, receiver: mpsr.Receiver) -> None:
    """It is status 74."""
    shell = ("sh", "-c", 'exec "$0" "$@" 0>unreadable')
    status, out, told = cli.run("send", "app.sock", before=shell)
    assert (status, out) == (74, b"")
    assert told.startswith("mpsr: stdin cannot be read\n  why: Bad file descriptor\n  try: ")
    assert "Traceback" not in told


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_sending_needs_no_standard_streams(
    cli: Cli, receiver: mpsr.Receiver, redirection: str
) -> None:
    """Messages that are arguments are delivered whatever is closed."""
    shell = ("sh", "-c", f'exec "$0" "$@" {redirection}')
    sender = cli.start("send", "app.sock", "one", before=shell)
    assert received(receiver, 1) == [b"one"]
    status, out, told = sender.finish()
    assert (status, out) == (0, b"")
    assert told in ("", "mpsr: sent 1, accepted 1\n")


def test_missing_stdin_is_an_error(cli: Cli) -> None:
    """Without stdin and without a MESSAGE there is nothing to read: status 74."""
    shell = ("sh", "-c", 'exec "$0" "$@" <&-')
    status, _, told = cli.run("send", "app.sock", before=shell)
    assert (status, told) == (
        74,
        "mpsr: stdin is closed\n  why: nothing can be read\n  try: pass messages as arguments\n",
    )


@pytest.mark.parametrize(
    "options",
    [
        ("one", "--whole"),
        ("one", "--null"),
        ("--whole", "--null"),
        ("one", "--type", "dgram", "--framing", "lines"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    capfd: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """What has no meaning is a usage error, not ignored."""
    assert run(["send", "app.sock", *options]) == 2
    assert re.fullmatch(r"mpsr: .+\n  why: .+\n  try: .+\n", capfd.readouterr().err)


# -- a spool --------------------------------------------------------------------------------


def test_spool_keeps_what_nobody_is_there_to_accept(cli: Cli) -> None:
    """Status 0, and a line that says how many wait; the next run sends these first."""
    for feed, said in (
        (("one", "two"), "sent 2, accepted 0; 2 left in unsent.spool"),
        (("three",), "sent 1 and 2 from before, accepted 0; 3 left in unsent.spool"),
    ):
        sender = cli.start("send", "app.sock", "--spool", "unsent.spool", *feed)
        assert sender.finish() == (0, b"", f"mpsr: {said}\n")
    with mpsr.Receiver(cli.address) as receiver:
        assert sent(cli, receiver, 3, "--spool", "unsent.spool") == (
            [b"one", b"two", b"three"],
            (0, b"", "mpsr: sent 0 and 3 from before, accepted 3\n"),
        )
        assert sent(cli, receiver, 1, "--spool", "unsent.spool", "four") == (
            [b"four"],
            (0, b"", "mpsr: sent 1, accepted 1\n"),
        )


def test_spool_in_use_is_one_clear_line(cli: Cli) -> None:
    """It names the process that has it, and nothing is sent."""
    sender = cli.start("send", "app.sock", "--spool", "unsent.spool", stdin=PIPE)
    eventually_by(sender.popen, (cli.directory / "unsent.spool/lock").exists)
    status, _, told = cli.call("send", "app.sock", "--spool", "unsent.spool", "x")
    assert status == 75
    assert f"process {sender.pid} has it open" in told
    assert sender.finish() == (0, b"", "mpsr: sent 0, accepted 0\n")
