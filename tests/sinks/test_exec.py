"""A program is given messages on its standard input, and started again where it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.sinks.conftest import Funnel


def test_program_reads_every_message(funnels: Callable[..., Funnel], tmp_path: Path) -> None:
    funnel = funnels("exec:cat > a.txt", "exec:cat > b.jsonl?format=json").start()
    funnel.send(b"one", b"two")
    assert funnel.end() == 0
    assert (tmp_path / "a.txt").read_bytes() == b"one\ntwo\n"
    lines = (tmp_path / "b.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["body"] for line in lines] == ["one", "two"]


def test_program_that_ends_is_started_again_with_what_it_has_not_read(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    """Head reads one part and leaves; each message comes to one of them at least."""
    funnel = funnels("exec:timeout 0.2 cat >> a.txt").start()
    sent = [b"%d" % number for number in range(200)]
    for begin in range(0, 200, 20):
        funnel.send(*sent[begin : begin + 20])
        time.sleep(0.1)  # beyond the life of the first ones
    eventually(lambda: {*sent} <= {*(tmp_path / "a.txt").read_bytes().split()})
    funnel.await_word("(status 124); what it has not read comes again; it is tried again")


def test_command_that_is_not_found_is_told(funnels: Callable[..., Funnel]) -> None:
    funnel = funnels("exec:no-such-program 2>/dev/null").start()
    funnel.send(b"one")
    funnel.await_word("(status 127)")


def test_program_that_never_reads_holds_up_no_other_sink(
    funnels: Callable[..., Funnel], tmp_path: Path
) -> None:
    command = "sleep 1000 & echo $$ $! > pid; exec sleep 1000"
    funnel = funnels(f"exec:{command}", "file:b.txt?format=raw")
    funnel.limits |= {"SINK_STOP_TIMEOUT": 0.5, "SINK_CLOSE_TIMEOUT": 0.5}
    funnel.start()
    funnel.send(b"x" * 1_000_000)
    eventually(lambda: (tmp_path / "b.txt").stat().st_size == 1_000_000)
    funnel.process.send_signal(signal.SIGTERM)
    assert funnel.process.wait(30) == 74
    assert "exec sleep 1000 has not had 1 message" in funnel.told
    pids = (tmp_path / "pid").read_text().split()
    assert len(pids) == 2
    # Neither the program nor its background job outlives the receiver.
    eventually(lambda: not any(Path("/proc", pid).exists() for pid in pids))


@pytest.mark.parametrize("ignores", ["", "trap '' TERM; "], ids=["heeds", "ignores"])
def test_end_of_the_sink_ends_every_process_of_the_program(
    funnels: Callable[..., Funnel], tmp_path: Path, ignores: str
) -> None:
    """A background job ends with its program, even if the job ignores SIGTERM."""
    funnel = funnels(f"exec:{ignores}sleep 1000 & echo $! > pid; cat > a.txt")
    funnel.limits |= {"SINK_KILL_TIMEOUT": 0.2}
    funnel.start()
    eventually((tmp_path / "pid").exists)
    child = Path("/proc", eventually((tmp_path / "pid").read_text).strip())
    assert child.exists()
    funnel.end()
    eventually(lambda: not child.exists())


def test_ctrl_c_is_not_for_the_program(funnels: Callable[..., Funnel], tmp_path: Path) -> None:
    """It is in a process group of its own, with no signal blocked or ignored."""
    funnel = funnels(
        "exec:grep ^Sig /proc/self/status > s.txt; ps -o pgid= $$ > p.txt; cat > a.txt"
    )
    funnel.start()
    funnel.send(b"one")
    assert funnel.end(signal.SIGINT) == 0
    assert (tmp_path / "a.txt").read_bytes() == b"one\n"
    masks = dict(line.split(":\t") for line in (tmp_path / "s.txt").read_text().splitlines())
    known = 2**31 - 1  # the two above are the C library's own
    own = Path("/proc/self/status").read_text().partition("SigIgn:\t")[2].split()[0]
    assert int(masks["SigBlk"], 16) & known == 0
    assert int(masks["SigIgn"], 16) & known & ~int(own, 16) == 0  # but what we were to ignore
    assert int((tmp_path / "p.txt").read_text()) != os.getpgid(0)
