"""Signals end a command in order, at whatever moment they come."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

import mpsr
from mpsr.amounts import size
from tests.chance import Chance
from tests.cli.conftest import COMMAND, PATIENCE, Cli
from tests.cli.test_recv import speak
from tests.eventually import eventually

SHORT = 0.0005  # seconds: Python starts in some milliseconds
IGNORING_INTERRUPTS = ("sh", "-c", 'trap "" INT; exec "$0" "$@"')


def caught(pid: int, signum: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal."""
    fields = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return bool(int(fields["SigCgt"], 16) >> (signum - 1) & 1)


def await_start(pid: int) -> None:
    """Return once Python has started, and the first line of the command has run.

    It takes SIGINT from Python, which has a handler of its own for it.
    """
    eventually(lambda: caught(pid, signal.SIGINT), interval=SHORT)
    eventually(
        lambda: not caught(pid, signal.SIGINT) or caught(pid, signal.SIGTERM), interval=SHORT
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_receiver_ends_in_order(cli: Cli, signum: signal.Signals) -> None:
    """What has arrived is printed, the socket is removed, the status is 0."""
    receiver = cli.recv()
    speak(cli, b"one")
    assert receiver.read_line() == b"one\n"
    receiver.kill(signal.SIGSTOP)
    speak(cli, b"two")
    receiver.kill(signum)
    status, out, told = receiver.finish(signal.SIGCONT)
    assert (status, out) == (0, b"two\n")
    assert told.endswith("mpsr: received 2 messages, 6 B from 2 connections\n")
    assert not cli.address.exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_that_is_sent_twice_ends_in_order(cli: Cli, signum: signal.Signals) -> None:
    """A wrapper forwards a signal that the process has received, too."""
    receiver = cli.recv(limits={"SIGNAL_REPEAT": 60})
    producer = mpsr.Producer(cli.address)
    producer.send_many([b"x" * 999] * 1000)
    line = receiver.read_line()
    for _ in range(3):  # while it waits for the reader of its stdout
        receiver.kill(signum)
        receiver.await_signal_seen()
    status, out, told = receiver.finish()
    count = (line + out).count(b"\n")
    assert status == 0
    eventually(lambda: producer.stats().accepted == count)
    with suppress(mpsr.Undelivered):  # what it had not read when it was stopped
        producer.close(timeout=0)
    assert f"mpsr: received {count} messages, {size(count * 999)} from 1 connection\n" in told


def test_signal_that_is_repeated_until_the_end_changes_nothing(cli: Cli) -> None:
    """Not even after the command has done its work."""
    receiver = cli.recv(limits={"SIGNAL_REPEAT": 60})
    while receiver.popen.poll() is None:
        receiver.kill(signal.SIGTERM)
        time.sleep(SHORT)
    status, _, told = receiver.finish()
    assert status == 0
    assert told.endswith("mpsr: received 0 messages, 0 B from 0 connections\n")
    assert not cli.address.exists()


def test_another_signal_ends_at_once(cli: Cli) -> None:
    """It does not count as the same one, however soon it arrives."""
    receiver = cli.recv(limits={"SIGNAL_REPEAT": 60})
    producer = mpsr.Producer(cli.address)
    producer.send_many([b"x" * 999] * 1000)
    assert receiver.read_line()
    receiver.kill(signal.SIGTERM)
    receiver.await_signal_seen()
    receiver.kill(signal.SIGINT)
    assert receiver.popen.wait(PATIENCE) == 130
    with pytest.raises(mpsr.Undelivered):
        producer.close(timeout=0)


def test_hangup_of_the_terminal_ends_a_receiver(cli: Cli) -> None:
    """It removes the socket, although there is nobody left to tell."""
    master, slave = os.openpty()
    leader = ("setsid", "--ctty", "--wait")
    receiver = cli.start("recv", "app.sock", stdin=slave, stderr=slave, stdout=slave, before=leader)
    os.close(slave)
    while b"listening on" not in (line := os.read(master, 4096)):
        assert line
    os.close(master)
    receiver.popen.wait(PATIENCE)
    assert not cli.address.exists()


def test_receiver_under_nohup_outlives_its_terminal(cli: Cli) -> None:
    """A signal that it was started to ignore is ignored."""
    receiver = cli.recv(before=("nohup",))
    receiver.kill(signal.SIGHUP)
    speak(cli, b"one")
    assert receiver.read_line() == b"one\n"
    assert receiver.finish(signal.SIGTERM)[0] == 0


def test_background_receiver_of_a_script_ignores_interrupts_and_can_be_terminated(
    cli: Cli,
) -> None:
    """As shells have it: Ctrl-C is not for what a script runs with &."""
    receiver = cli.recv(before=IGNORING_INTERRUPTS)
    receiver.kill(signal.SIGINT)
    speak(cli, b"one")
    assert receiver.read_line() == b"one\n"
    assert receiver.finish(signal.SIGTERM)[0] == 0
    assert not cli.address.exists()


@pytest.mark.parametrize("count", [4, pytest.param(400, marks=pytest.mark.soak)])
def test_interrupt_at_any_moment_shows_no_traceback(cli: Cli, chance: Chance, count: int) -> None:
    """From its first line on, the signal ends it, or it ends in order, and leaves nothing."""
    for _ in range(count):
        with subprocess.Popen(
            [*COMMAND, "recv", "app.sock"],
            cwd=cli.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            await_start(process.pid)
            time.sleep(chance.uniform(0, 0.15))
            process.send_signal(signal.SIGINT)
            out, told = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert out == b""
        assert all(line.startswith(b"mpsr: ") for line in told.splitlines()), told.decode()
        assert not cli.address.exists()


@pytest.mark.parametrize("arguments", [("recv", "app.sock"), ("send", "app.sock", "a"), ("demo",)])
def test_codec_that_cannot_be_chosen_is_told(cli: Cli, arguments: tuple[str, ...]) -> None:
    """A wrong MPSR_SPEEDUPS is status 78, before anything is done."""
    status, out, told = cli.run(*arguments, env={"MPSR_SPEEDUPS": "bogus"})
    assert (status, out) == (78, b"")
    assert told.startswith("mpsr: MPSR_SPEEDUPS=bogus: choose one of auto, require, off\n")
