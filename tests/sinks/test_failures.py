"""A sink that fails is told of in one line; the others go on, and nothing is lost."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpsr.cli.entry import run
from tests.eventually import eventually
from tests.processes import await_signal_taken
from tests.sinks.conftest import Funnel, OwnFunnel, lines_in


def test_sink_that_raises_is_told_once_and_tried_until_it_works(
    own_funnels: Callable[..., OwnFunnel], plugin: None, tmp_path: Path
) -> None:
    broken = tmp_path / "a.txt.broken"
    broken.touch()
    funnel = own_funnels("raising:a.txt", "file:b.txt?format=lines").start()
    funnel.send(b"one", b"two")
    eventually(lambda: lines_in(tmp_path / "b.txt") == [b"one", b"two"])
    funnel.await_word("raising:a.txt: the flux is low: raise it; it is tried again")
    attempts = tmp_path / "a.txt.attempts"
    eventually(lambda: attempts.exists() and attempts.stat().st_size >= 3)
    assert funnel.told.count("flux") == 1
    broken.unlink()
    funnel.await_word("raising:a.txt works again, after")
    funnel.send(b"three")
    eventually(lambda: lines_in(tmp_path / "a.txt") == [b"one", b"two", b"three"])
    funnel.end()


def test_sink_with_a_defect_is_told_by_its_exception(
    funnels: Callable[..., Funnel], plugin: None, tmp_path: Path
) -> None:
    funnel = funnels("broken:x", "file:b.txt?format=lines").start()
    funnel.send(b"one")
    funnel.await_word("broken:x: it raised ZeroDivisionError: division by zero; it is tried again")
    eventually(lambda: lines_in(tmp_path / "b.txt") == [b"one"])
    assert funnel.end() == 74
    assert "broken:x has not had 1 message: what it has not had is kept" in funnel.told


def test_sink_that_blocks_for_ever_holds_up_nobody_and_no_end(
    funnels: Callable[..., Funnel], plugin: None, tmp_path: Path
) -> None:
    funnel = funnels("blocking:x", "file:b.txt?format=lines")
    funnel.limits["SINK_STOP_TIMEOUT"] = 0.5
    funnel.start()
    funnel.send(b"one")
    eventually(lambda: lines_in(tmp_path / "b.txt") == [b"one"])
    funnel.send(b"two")
    eventually(lambda: lines_in(tmp_path / "b.txt") == [b"one", b"two"])
    assert funnel.end() == 74
    assert "blocking:x has not had 2 messages" in funnel.told


def test_second_signal_ends_at_once_whatever_blocks(
    funnels: Callable[..., Funnel], plugin: None
) -> None:
    funnel = funnels("blocking:x")
    funnel.limits |= {"SINK_STOP_TIMEOUT": 1000, "SIGNAL_REPEAT": 0}
    funnel.start()
    funnel.send(b"one")
    funnel.process.send_signal(signal.SIGTERM)
    await_signal_taken(funnel.process.pid)  # so that the next is a second one
    assert funnel.end() == 143


def test_signal_that_is_sent_twice_leaves_a_sink_its_time(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """All 800 received messages are in the sink, and the status is 0."""
    import mpsr
    from mpsr import observe

    funnel = funnels("file:a.txt?format=lines", journal=False)
    funnel.limits["SIGNAL_REPEAT"] = 60
    funnel.start()
    with mpsr.Producer(funnel.address) as producer:
        producer.send_many([b"%d" % number for number in range(800)])
        eventually(lambda: observe.status(str(funnel.address))["stats"]["messages"] == 800)
        for _ in range(20):
            funnel.process.send_signal(signal.SIGTERM)
        assert funnel.end() == 0
    assert lines_in(tmp_path / "a.txt") == [b"%d" % number for number in range(800)]


def test_blocking_sink_without_a_journal_keeps_messages_with_the_producer(
    funnels: Callable[..., Funnel], plugin: None, tmp_path: Path
) -> None:
    import mpsr
    from mpsr import observe

    funnel = funnels("blocking:x", journal=False)
    funnel.limits["SINK_STOP_TIMEOUT"] = 0.5
    funnel.start()
    with mpsr.Producer(funnel.address) as producer:
        producer.send(b"one")
        eventually(lambda: observe.status(str(funnel.address))["stats"]["messages"] == 1)
        assert funnel.end() == 74
        funnel.arguments = [str(funnel.address), "--to=file:b.txt?format=lines"]
        funnel.start()
        producer.flush(30)
    assert funnel.end() == 0
    assert lines_in(tmp_path / "b.txt") == [b"one"]


def test_sink_that_can_never_work_ends_alone(
    funnels: Callable[..., Funnel], plugin: None, tmp_path: Path
) -> None:
    funnel = funnels("final:x", "file:b.txt?format=lines").start()
    funnel.await_word("final:x: no such planet; it gets nothing more, until it is started again")
    funnel.send(b"one")
    eventually(lambda: lines_in(tmp_path / "b.txt") == [b"one"])
    assert funnel.end() == 74


def test_full_disk_is_one_line_and_nothing_is_torn_or_lost(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """A limit of the file's size stands for the disk; the next life has room."""
    funnel = funnels("file:a.jsonl", "-").start("--journal-limit=16M", limit=5_000_000)
    sent = [b"%06d" % i + b"x" * 1000 for i in range(4_500)]
    funnel.send(*sent)
    funnel.await_word("file:a.jsonl: ")
    eventually(lambda: len(lines_in(funnel.out)) == len(sent))
    assert "File too large; it is tried again until it works" in funnel.told
    for _ in range(2):  # each attempt writes to the file
        before = (tmp_path / "a.jsonl").stat().st_mtime_ns
        eventually(lambda: (tmp_path / "a.jsonl").stat().st_mtime_ns != before)  # noqa: B023
    assert funnel.told.count("File too large") == 1
    funnel.kill()
    for line in lines_in(tmp_path / "a.jsonl")[:-1]:
        json.loads(line)
    funnel.start()
    assert funnel.end() == 0
    found = [json.loads(line)["body"].encode() for line in lines_in(tmp_path / "a.jsonl")]
    assert found == sent


@pytest.mark.parametrize(
    ("sinks", "line"),
    [
        (["fil:x"], "--to fil:x names no sink\n  why: the sinks are -, "),
        (["x.jsonl"], "--to x.jsonl names no sink\n  why: the sinks are -, "),
        (["file:"], "--to file: it names no file\n  try: write it like file:events.jsonl"),
        (["file:x?rotat=1M"], "rotat= is no option of this sink\n  try: did you mean rotate=?"),
        (
            ["file:x?format=xml"],
            "why: it is none of json, lines, length, raw",
        ),
        (["file:x?keep=3"], "keep= requires rotate="),
        (["exec:"], "it names no command"),
        (["sqlite:x?table=a;b"], "it must be a name of letters, digits and _"),
        (["file:x", "file:y"], "several --to require --journal"),
        (["missing:x"], "missing:x: not_installed:sink cannot be loaded\n  why: No module named"),
    ],
)
def test_sink_that_makes_no_sense_is_refused_before_anything_is_claimed(
    capfd: pytest.CaptureFixture[str],
    plugin: None,
    tmp_path: Path,
    sinks: list[str],
    line: str,
) -> None:
    address = tmp_path / "a.sock"
    assert run(["recv", str(address), *(f"--to={sink}" for sink in sinks)]) == 2
    told = capfd.readouterr().err
    assert line in told
    assert told.startswith("mpsr: ")
    assert told.count("\n") in (2, 3)  # what, why or what to try
    assert not address.exists()


def test_missing_extra_is_named(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert run(["recv", str(tmp_path / "a.sock"), "--to", "duckdb:x"]) == 2
    assert "pip install 'mpsr[duckdb]'" in capfd.readouterr().err


def test_two_sinks_of_one_name_are_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two = ["--to=file:x?format=raw", "--to=file:x"]
    assert run(["recv", "a.sock", "--journal=j", *two]) == 78
    assert "two sinks have the name file:x: give one of them another" in capfd.readouterr().err


def test_cursor_that_no_sink_has_any_more_is_told(own_funnels: Callable[..., OwnFunnel]) -> None:
    funnel = own_funnels("file:a.txt", "file:b.txt?name=second").start()
    funnel.send(b"one")
    funnel.end()
    funnel.sinks = ("file:a.txt",)
    funnel.start()
    assert "for its cursor 'second', which no sink here has" in funnel.told
    funnel.end()
