"""`mpsr bench` measures, counts every message at both ends, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import mpsr
from mpsr.cli.bench.latency import Histogram
from mpsr.cli.bench.meter import Meter, Tally
from mpsr.cli.bench.phase import await_all, disagreement
from mpsr.cli.bench.shared import Board, Report
from mpsr.cli.bench.work import plan
from mpsr.cli.entry import run
from mpsr.cli.status import CommandFailed
from tests.cli.conftest import PATIENCE, Cli, Running, Screen

SHORT = ("--duration", "100ms")  # the shortest that there is


@pytest.fixture(autouse=True)
def nothing_left(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever happens, the temporary folder is empty at the end, and no process lives on."""
    folder = cli.directory / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield
    for bench in cli.started:
        if bench.popen.returncode == -signal.SIGKILL:  # whoever inherits the children reaps them
            continue
        with pytest.raises(ProcessLookupError):
            os.killpg(bench.pid, 0)
    assert not os.listdir(folder)


def measured(cli: Cli, *options: str, **others: Any) -> dict[str, Any]:
    """Measure; return the JSON document of a run that went well."""
    status, out, told = cli.run("bench", "--json", *(options or SHORT), **others)
    assert (status, told) == (0, "")
    document: dict[str, Any] = json.loads(out)
    return document


def children_of(bench: Running) -> list[int]:
    """Return the process ids of its children, the oldest first, once there are some."""
    path = Path(f"/proc/{bench.pid}/task/{bench.pid}/children")
    while not (pids := path.read_text().split()):
        assert bench.popen.poll() is None
    return [int(pid) for pid in pids]


def at_terminal(cli: Cli, *options: str, **environment: str) -> tuple[Running, Screen]:
    """Start to measure, at a terminal."""
    master, slave = pty.openpty()
    bench = cli.start("bench", *options, stderr=slave, env={"TERM": "xterm", **environment})
    os.close(slave)
    return bench, Screen(master)


def begun(cli: Cli, *options: str) -> tuple[Running, Screen]:
    """Start to measure, at a terminal; return once the producers are at it."""
    bench, screen = at_terminal(cli, "--json", "--duration", "60s", "--rate", "200", *options)
    screen.wait_for(b"messages/s")
    return bench, screen


# -- what is told ---------------------------------------------------------------------------


def test_text_tells_what_was_measured(cli: Cli) -> None:
    """A few lines on stdout, nothing on stderr, where there is no terminal."""
    status, out, told = cli.run("bench", "app.sock", "--duration", "200ms")
    assert (status, told) == (0, "")
    n = r"[\d,.]+"
    latencies = ", ".join(rf"{name} {n} µs" for name in ("p50", "p90", "p99", "p99.9", "max"))
    way = rf"one way, at 2,000 messages/s, apart from the throughput: {n} messages of 128 B"
    lines = [
        r"mpsr \S+ \(codec: .+; Python \S+\)",
        "4 producers, messages of 128 B, sent one by one",
        "",
        rf"throughput  {n} messages/s, {n} [kMG]B/s",
        rf"            {n} messages in 0\.\d\d s, from every producer exactly those that it sent",
        rf"            {n} to {n} from each",
        rf"CPU time    a message: receiver {n} µs, producers {n} µs",
        r"            the receiver was busy for \d+% of the time",
        f"latency     {latencies}",
        f"            {way}",
    ]
    assert re.fullmatch("\n".join(lines) + "\n", out.decode())
    assert not cli.address.exists()


def test_json_tells_everything(cli: Cli) -> None:
    """One document, with the units in its keys, whose figures agree with each other."""
    document = measured(cli, "--duration", "200ms", "--producers", "3", "--size", "1K")
    throughput, latency = document.pop("throughput"), document.pop("latency")
    assert document == {
        "version": mpsr.__version__,
        "codec": document["codec"],
        "python": document["python"],
        "producers": 3,
        "size_bytes": 1024,
        "duration_seconds": 0.2,
        "batch_messages": None,
        "rate_messages_per_second": None,
        "interrupted": False,
        "failures": [],
    }
    seconds, messages = throughput.pop("seconds"), throughput.pop("messages")
    by_producer = throughput.pop("messages_by_producer")
    cpu = {end: throughput.pop(f"{end}_cpu_seconds") for end in ("receiver", "producers")}
    assert seconds >= 0.16
    assert len(by_producer) == 3
    assert sum(by_producer) == messages > 0
    assert all(seconds > 0 for seconds in cpu.values())
    assert throughput == {
        "bytes": messages * 1024,
        "messages_per_second": pytest.approx(messages / seconds, rel=1e-3),
        "bytes_per_second": pytest.approx(messages * 1024 / seconds, rel=1e-3),
        "receiver_cpu_us_per_message": pytest.approx(cpu["receiver"] / messages * 1e6, rel=1e-3),
        "producers_cpu_us_per_message": pytest.approx(cpu["producers"] / messages * 1e6, rel=1e-3),
    }
    quantiles = latency.pop("latency_us")
    assert list(quantiles) == ["p50", "p90", "p99", "p99_9", "max"]
    assert quantiles["p50"] > 0
    assert list(quantiles.values()) == sorted(quantiles.values())
    assert set(latency) == {"seconds", "messages", "messages_per_second", "size_bytes"}
    assert latency["size_bytes"] == 1024
    assert 0 < latency["messages"] <= 2000 * 0.04 + 3
    assert latency["seconds"] >= 0.04


def test_codec_in_use_is_told(cli: Cli) -> None:
    """Figures of the Python twin do not pass for those of C."""
    assert measured(cli, env={"MPSR_SPEEDUPS": "off"})["codec"] == "Python"


@pytest.mark.parametrize("size", ["1", "1M"])
def test_any_size_is_measured(cli: Cli, size: str) -> None:
    """Down to a byte, where only the messages that tell latencies are larger; and up."""
    document = measured(cli, *SHORT, "--size", size, "--producers", "2")
    assert document["throughput"]["bytes"] > 0
    assert document["latency"]["size_bytes"] == max(8, document["size_bytes"])


def test_batches_are_measured(cli: Cli) -> None:
    """With --batch every producer sends so many at once."""
    document = measured(cli, *SHORT, "--batch", "50")
    assert document["batch_messages"] == 50
    assert {count % 50 for count in document["throughput"]["messages_by_producer"]} == {0}


@pytest.mark.timing
def test_rate_is_kept(cli: Cli) -> None:
    """With --rate one phase tells both, and what is due is sent, but for the last at the end."""
    document = measured(cli, "--duration", "300ms", "--rate", "1000", "--producers", "3")
    throughput, latency = document["throughput"], document["latency"]
    assert document["rate_messages_per_second"] == 1000
    assert all(90 <= count <= 100 for count in throughput["messages_by_producer"])
    assert latency["messages"] == throughput["messages"]


def test_rate_that_is_too_high_is_told(cli: Cli) -> None:
    """What was not reached is not passed over."""
    _, out, _ = cli.run("bench", *SHORT, "--rate", "100000000", "--producers", "1")
    assert re.search(r"^throughput  .* [kM]B/s; more could not be had$", out.decode(), re.MULTILINE)


def test_terminal_shows_the_progress(cli: Cli) -> None:
    """A line with the phase, the time and the rates is shown, and cleared in the end."""
    options = ("--producers", "1", "--duration", "15s")
    bench, screen = at_terminal(cli, *options, COLUMNS="100", NO_COLOR="1")
    screen.wait_for(b"/13.0 s")
    status, out, _ = bench.finish(signal.SIGINT)
    assert status == 130
    assert b"\x1b" not in out
    shown = screen.rest().decode()
    rates = r"s +[\d,]+ messages/s +[\d.]+ [kMG]?B/s"
    assert re.search(rf"latency .* \d\.\d/2\.0 {rates}", shown)
    assert re.search(rf"throughput .* \d\.\d/13\.0 {rates}", shown)
    assert shown.endswith("\x1b[2K")


def test_dumb_terminal_shows_no_progress(cli: Cli) -> None:
    bench, screen = at_terminal(cli, *SHORT, TERM="dumb")
    assert screen.rest() == b""
    assert bench.finish()[0] == 0


# -- where it listens -----------------------------------------------------------------------


def test_address_is_claimed_and_given_up(cli: Cli) -> None:
    """With ADDRESS the receiver is there, with safe permissions, as long as it is measured."""
    bench = cli.start("bench", "app.sock", "--duration", "60s")
    children_of(bench)
    assert cli.address.stat().st_mode & 0o777 == 0o600
    assert bench.finish(signal.SIGINT)[0] == 130
    assert not cli.address.exists()


def test_live_receiver_is_not_touched(cli: Cli) -> None:
    """An address in use is status 75, and whoever has it receives on."""
    with mpsr.Receiver(cli.address) as receiver:
        status, out, told = cli.run("bench", "app.sock", *SHORT)
        assert (status, out) == (75, b"")
        assert f"process {os.getpid()} is receiving there" in told
        with mpsr.Producer(cli.address) as producer:
            producer.send(b"x")
            assert receiver.receive(timeout=PATIENCE) == b"x"
            receiver.acknowledge()


def test_message_of_a_stranger_is_left_to_him(cli: Cli) -> None:
    """Whoever sends to the address, too, ends the bench, and keeps what he has sent."""
    producer = mpsr.Producer(cli.address)
    producer.send(b"precious")
    status, out, told = cli.run("bench", "app.sock", "--duration", "20s")
    line = (
        f"mpsr: the bench at app.sock is spoilt\n  why: pid {os.getpid()} sends there, too\n"
        "  try: measure where nobody does\n"
    )
    assert (status, out, told) == (1, b"", line)
    with pytest.raises(mpsr.Undelivered) as undelivered:
        producer.close(timeout=0)
    assert undelivered.value.messages == [b"precious"]


# -- how it ends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signum", "expected", "everybody"),
    [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, True), (signal.SIGTERM, 143, False)],
)
def test_interruption_tells_what_was_measured(
    cli: Cli, signum: int, expected: int, everybody: bool
) -> None:
    """As a terminal's Ctrl-C, which reaches all its processes, or a signal for it alone."""
    bench = cli.start("bench", "--json", "--duration", "60s")
    children_of(bench)
    (os.killpg if everybody else os.kill)(bench.pid, signum)
    status, out, told = bench.finish()
    assert (status, told) == (expected, "")
    document = json.loads(out)
    assert document["interrupted"]
    assert document["throughput"] is None  # it was at the latency


def test_what_an_interruption_leaves_is_exact(cli: Cli) -> None:
    """What was sent until then is received, counted and told; the screen is cleared."""
    bench, screen = begun(cli)
    os.killpg(bench.pid, signal.SIGINT)
    status, out, _ = bench.finish()
    document = json.loads(out)
    assert (status, document["failures"]) == (130, [])
    assert document["throughput"]["messages"] == document["latency"]["messages"] > 0
    assert screen.rest().endswith(b"\x1b[2K")


def test_second_interruption_ends_at_once(cli: Cli) -> None:
    """Also where a stopped producer would keep the first from ending it; no traceback."""
    bench = cli.start("bench", "--duration", "60s", limits={"SIGNAL_REPEAT": 0})
    os.kill(children_of(bench)[0], signal.SIGSTOP)
    bench.kill(signal.SIGINT)
    bench.await_signal_seen()
    status, out, told = bench.finish(signal.SIGINT)
    assert (status, out, told) == (130, b"", "")


def test_killed_producer_is_told(cli: Cli) -> None:
    """The others go on; its end is a failure, whatever was measured."""
    bench, screen = begun(cli, "--duration", "5s")
    os.kill(children_of(bench)[1], signal.SIGKILL)  # the first is the display
    status, out, _ = bench.finish()
    document = json.loads(out)
    assert status == 1
    assert document["failures"] == ["producer 0 was killed by SIGKILL"]
    assert screen.rest().endswith(b"mpsr: producer 0 was killed by SIGKILL\r\n")
    killed, *others = document["throughput"]["messages_by_producer"]
    assert all(killed < count <= 250 for count in others)


def test_producer_that_never_comes_is_told(cli: Cli) -> None:
    """There is nothing to measure without it, and nobody waits for it in vain."""
    child = get_context("fork").Process(target=os._exit, args=(3,))
    child.start()
    with Meter(cli.address, Board()) as meter:
        meter.attend([child])
        with pytest.raises(CommandFailed, match="only 0 of 1 producer came"):
            await_all(meter, [child])
    child.join()


def test_killed_bench_leaves_no_process(cli: Cli) -> None:
    """Its producers end with it, also those that wait for room: its pipes come to their end."""
    bench = cli.start("bench", "app.sock", "--duration", "60s")
    children_of(bench)
    bench.finish(signal.SIGKILL)


def test_end_of_the_reader_is_quiet(cli: Cli) -> None:
    """As in `mpsr bench | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    status, _, told = cli.run("bench", *SHORT, stdout=writer)
    os.close(writer)
    assert (status, told) == (141, "")


# -- how it counts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"sent": 6},
        {"accepted": 4},
        {"messages": 4, "nbytes": 32},
        {"messages": 6, "nbytes": 48},
        {"nbytes": 39},
        {"lost": 1},
    ],
)
def test_no_loss_hides(change: dict[str, int]) -> None:
    """Counts that disagree anywhere are told, and those that agree are not."""
    told = {"sent": 5, "accepted": 5, "messages": 5, "nbytes": 40, "lost": 0}
    assert _disagreement(**told) == ""
    assert _disagreement(**{**told, **change}).startswith("sent ")


def _disagreement(*, sent: int, accepted: int, messages: int, nbytes: int, lost: int) -> str:
    report, tally = Report(sent=sent, accepted=accepted), Tally(messages, nbytes, lost)
    return disagreement(report, tally, size=8)


def test_quantiles_are_right_to_a_thousandth() -> None:
    """The nearest rank, for small values exactly; the largest is always exact."""
    histogram = Histogram()
    for value in range(100_001):
        histogram.add(value)
    assert len(histogram) == 100_001
    assert histogram.largest == 100_000
    for fraction in (0.001, 0.01, 0.5, 0.9, 0.999, 1.0):
        assert histogram.quantile(fraction) == pytest.approx(100_000 * fraction, rel=1e-3)


def test_large_messages_tell_their_latency_at_a_modest_rate() -> None:
    """2,000 a second of a megabyte would measure throughput."""
    works = plan(producers=4, size=1 << 20, seconds=10, batch=None, rate=0)
    assert [(work.seconds, work.rate) for work in works] == [(2, 64), (8, 0)]


# -- usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--size", "17M"), "bad value for --size\n  why: the largest message has 16.8 MB"),
        (
            ("--duration", "0"),
            "bad value for --duration\n  why: it is too short to measure",
        ),
        (
            ("--rate", "5", "--size", "7"),
            "--rate needs a --size of 8 or more\n  why: every message tells the time",
        ),
        (
            ("--rate", "5", "--batch", "2"),
            "--batch has no use with --rate\n  why: that sends each when it is due",
        ),
        (
            ("--batch", "33", "--size", "1M"),
            (
                "--batch 33 of 1.0 MB is too much\n"
                "  why: it is more than a producer buffers, 33.6 MB"
            ),
        ),
        (("fd:3",), "a bench needs a path or @name\n  why: its producers have to find it"),
    ],
)
def test_what_makes_no_sense_is_refused(
    capfd: pytest.CaptureFixture[str], options: tuple[str, ...], line: str
) -> None:
    """Three lines, status 2."""
    assert run(["bench", *options]) == 2
    out, told = capfd.readouterr()
    assert out == ""
    assert told.startswith(f"mpsr: {line}\n  try: ")
