"""`mpsr top` shows a receiver and its producers as they are, live or once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, cast

import pytest
from textual.widgets import DataTable, Static

import mpsr
from mpsr.cli.top.model import COLUMNS, Model, shown
from mpsr.cli.top.screen import Help, Seen, Top
from mpsr.cli.top.text import amount, cells, columns, head, sparkline
from mpsr.observe import Status, status
from tests.cli.conftest import COMMAND, PATIENCE, Cli
from tests.eventually import eventually
from tests.traffic import producing, receiving

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.pilot import Pilot

EVIL = "w\x1b[31m\r\n\x07"


def producer(pid: int, /, **changes: Any) -> dict[str, Any]:
    told = {
        "id": f"{pid:032x}",
        "label": f"label {pid}",
        "pid": pid,
        "uid": 1000,
        "gid": 1000,
        "name": "worker",
        "framing": "native",
        "address": "app.sock",
        "connected": 1000.0,
        "messages": 0,
        "bytes": 0,
        "unacknowledged": 0,
        "lost": 0,
        "ring": False,
    }
    return told | changes


def document(now: float, *producers: dict[str, Any], **changes: Any) -> Status:
    stats = dict.fromkeys(mpsr.ReceiverStats._fields, 0)
    stats["connections"] = len(producers)
    told = {
        "mpsr": "0.1.0",
        "pid": 1,
        "uid": 0,
        "addresses": ["app.sock"],
        "started": 900.0,
        "now": now,
        "consumer": {"state": "waiting", "since": now - 1, "seconds": 1.0, "batch": None},
        "stats": stats,
        "producers": list(producers),
        "producers_left_out": 0,
        "journal": None,
        "sinks": [],
    }
    return cast("Status", told | changes)


def seen(*looks: Status) -> Model:
    model = Model()
    for look in looks:
        model.take(look)
    return model


# -- the model and the words ----------------------------------------------------------------------


def test_rates_are_differences_by_the_receivers_clock() -> None:
    model = seen(
        document(1001.0, producer(1, messages=10, bytes=100)),
        document(1003.0, producer(1, messages=30, bytes=200)),
        document(1004.0, producer(1, messages=30, bytes=200)),
    )
    assert model.rows[0].rates == ((10.0, 0.0), (50.0, 0.0))


def test_producer_that_has_just_come_has_a_rate_at_once_and_one_found_has_none() -> None:
    """What it sent before the first look belongs to a time that nobody knows."""
    model = seen(document(1001.0, producer(1, messages=10)))
    assert model.rows[0].rates.messages_now == 0
    model.take(
        document(1002.0, producer(1, messages=10), producer(2, messages=5, connected=1001.5))
    )
    assert [row.rates.messages_now for row in model.rows] == [0, 5]


def test_new_receiver_begins_anew() -> None:
    """Counters of another process give no rate, nor a negative one."""
    model = seen(
        document(1001.0, producer(1, messages=10)),
        document(1002.0, producer(1, messages=20)),
        document(1003.0, producer(1, messages=3), pid=2, started=1002.5),
    )
    assert model.rows[0].rates.messages == ()


@pytest.mark.parametrize(
    ("sort", "first"),
    [("pid", 1), ("messages", 2), ("lost", 3), ("unacknowledged", 2), ("bytes", 3), ("label", 2)],
)
def test_rows_are_sorted_by_any_column_and_the_other_way_round(sort: str, first: int) -> None:
    before = [producer(1), producer(2), producer(3)]
    after = [
        producer(1, messages=1, bytes=1, label="b"),
        producer(2, messages=9, bytes=2, unacknowledged=7, label="A"),
        producer(3, messages=2, bytes=8, lost=4, label="c"),
    ]
    rows = seen(document(1001.0, *before), document(1002.0, *after)).rows
    found = shown(rows, sort=sort)
    assert found[0].seen["pid"] == first
    assert {row.key for row in found} == {row.key for row in rows}
    assert shown(rows, sort=sort, backwards=True)[0].seen["pid"] != first


@pytest.mark.parametrize(
    ("text", "pids"), [("ALPHA", {1}), ("22", {22}), ("", {1, 22}), ("zz", set())]
)
def test_filter_looks_at_labels_names_and_numbers(text: str, pids: set[int]) -> None:
    rows = seen(document(1001.0, producer(1, label="Alpha"), producer(22, label="beta"))).rows
    for sort in COLUMNS:
        assert {row.seen["pid"] for row in shown(rows, sort=sort, text=text)} == pids


def test_unknown_fields_of_a_foreign_producer_are_shown_as_such() -> None:
    foreign = producer(0, id=None, label=None, pid=None, uid=None, name=None, framing="lines")
    model = seen(document(1001.0, foreign, foreign))
    texts = cells(shown(model.rows, sort="name")[0], columns(80))
    assert texts[:4] == ["?", "?", "?", "(lines)"]
    assert len(model.rows) == len({row.key for row in model.rows}) == 2


@pytest.mark.parametrize("width", [80, 81, 100, 132, 200, 300])
def test_table_fits_its_width(width: int) -> None:
    layout = columns(width)
    long = producer(4_194_304, uid=65_534_000, name="x" * 30, label="y" * 255, lost=10**12)
    row = seen(document(1001.0, producer(4_194_304)), document(1002.0, long)).rows[0]
    assert sum(column.width + 1 for column in layout) + 2 <= width  # with a scroll bar
    for text, column in zip(cells(row, layout), layout, strict=True):
        assert len(text) <= column.width


def test_stuck_consumer_is_said_to_be_since_when_and_on_what() -> None:
    batch = {"producer": "00", "label": EVIL, "pid": 7, "first_seq": 1000, "messages": 3}
    batch |= {"bytes": 2048, "position": None}
    stuck = {"state": "stuck", "since": 900.0, "seconds": 101.0, "batch": batch}
    line = head(seen(document(1001.0, consumer=stuck)))[1]
    assert line.level == "alarm"
    assert line.text == (
        'consumer STUCK for 1 min 41 s on 3 messages, 2.0 kB, of "w\\x1b[31m\\r\\n\\x07" (pid 7), '
        "from 1,000"
    )


def test_journal_cursors_and_sinks_are_told() -> None:
    journal = {"directory": "/j", "first": 1, "next": 101, "bytes": 2**20, "limit": 2**30}
    journal |= {"full": True, "cursors": [{"name": "main", "position": 60, "lag": 40}]}
    sink = {"name": "nats", "state": "failing", "lag": 7, "error": "refused\n", "since": 991.0}
    sink["delivered"] = 3
    lines = head(seen(document(1001.0, journal=journal, sinks=[sink])))[3:]
    assert [line.level for line in lines] == ["alarm", "", "warning"]
    assert [line.text for line in lines] == [
        "journal FULL, producers wait: 1.0 MB of 1.1 GB, positions 1 to 100, in /j",
        "messages behind: main 40",
        "sink nats failing for 10.0 s, 7 messages behind, 3 delivered: refused\\n",
    ]


def test_numbers_are_short() -> None:
    assert [amount(n) for n in (0, 0.04, 1.5, 12.6, 99_999, 99_999.6, 1_234_567, 9e9)] == (
        ["0", "0.0", "1.5", "13", "99,999", "100k", "1.2M", "9.0G"]
    )
    assert sparkline([0, 1, 8], 5) == "   ▂█"
    assert sparkline([0, 0], 5) == ""


# -- the command ----------------------------------------------------------------------------------


def test_piped_it_prints_once_how_things_stand(cli: Cli) -> None:
    """With the control characters of a label as text; nothing else of a terminal is used."""
    with receiving(cli.address), mpsr.Producer(cli.address, label=EVIL) as producer:
        producer.send(b"one")
        producer.flush()
        code, out, err = cli.call("top", "app.sock")
    assert (code, err) == (0, "")
    text = out.decode()
    assert "consumer waiting" in text
    assert "w\\x1b[31m\\r\\n\\x07" in text
    assert str(os.getpid()) in text
    assert "\x1b" not in text
    assert "\r" not in text


def test_stuck_consumer_is_shown(cli: Cli) -> None:
    """A receiver answers even while the reader of its output is stuck."""
    cli.recv()
    with mpsr.Producer(cli.address, label="flood", exit_timeout=0) as producer:
        producer.send_many([bytes(100_000)] * 20)
        eventually(lambda: status(cli.address)["consumer"]["state"] == "stuck", interval=0.05)
        found = status(cli.address)["consumer"]
        assert found["batch"] is not None
        assert found["batch"]["label"] == "flood"
        out = cli.call("top", "app.sock", "--once", "--filter", "nobody")[1].decode()
        assert "consumer STUCK for " in out
        assert f'of "flood" (pid {os.getpid()})' in out
        assert "no producers with 'nobody'" in out
        cli.started[0].kill(signal.SIGKILL)
        with pytest.raises(mpsr.Undelivered):
            producer.close(0)


@pytest.mark.parametrize("options", [(), ("--once",)])
def test_nobody_there_is_an_error_and_no_screen(cli: Cli, options: tuple[str, ...]) -> None:
    code, out, err = cli.call("top", "app.sock", *options)
    assert (code, out) == (69, b"")
    assert err == (
        "mpsr: cannot reach app.sock\n"
        "  why: nothing is there\n"
        "  try: start the receiver, or check the path\n"
    )


def test_missing_library_is_an_error_that_says_what_to_install(cli: Cli) -> None:
    """The plain snapshot needs none."""
    hide = "import sys; sys.modules['textual'] = None; from mpsr.cli import main; main()"
    for before, code, told in (
        (["script", "-qec"], 78, "pip install 'mpsr[tui]'"),
        ([], 0, "consumer waiting"),
    ):
        command = [sys.executable, "-c", hide, "top", "app.sock"]
        if before:
            quoted = " ".join(f'"{word}"' for word in command)
            command = [*before, quoted, "/dev/null"]
        with receiving(cli.address):
            ended = subprocess.run(
                command,
                cwd=cli.directory,
                env=os.environ | {"TERM": "xterm"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        if not before:
            assert ended.returncode == code
        assert told in ended.stdout + ended.stderr


def test_screen_is_not_loaded_for_a_snapshot() -> None:
    code = "import sys, mpsr.cli.top; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"textual", "rich", "asyncio"} & set(loaded)


# -- the screen, driven by textual's pilot --------------------------------------------------------


def screen_text(app: Top) -> str:
    """Return all that is shown, line by line."""
    size = app.size
    lines = app.screen._compositor.render_strips(size)
    return "\n".join(strip.text for strip in lines)


async def until(pilot: Pilot[None], what: Callable[[str], bool]) -> str:
    """Wait until the screen shows it."""
    deadline = monotonic() + PATIENCE
    while not what(text := screen_text(cast("Top", pilot.app))):
        assert monotonic() < deadline, text
        await pilot.pause(0.05)
    return text


def drive(
    cli: Cli,
    script: Callable[[Pilot[None]], Any],
    interval: float = 0.1,
) -> None:
    """Run the live view with a script of keys."""

    async def main() -> None:
        app = Top(str(cli.address), status(cli.address), interval=interval)
        async with app.run_test(size=(80, 24)) as pilot:
            await script(pilot)
            await pilot.press("q")
        assert app.return_code == 0

    asyncio.run(main())


def test_producers_are_shown_by_rate_with_sparklines(cli: Cli) -> None:
    """Also after the terminal has got another size."""

    async def script(pilot: Pilot[None]) -> None:
        for width, height in ((80, 24), (120, 40)):
            await pilot.resize_terminal(width, height)
            text = await until(
                pilot, lambda text: "busy" in text and "calm" in text and "█" in text
            )
            assert len(text.splitlines()) == height
            assert max(map(len, text.splitlines())) <= width
        text = await until(pilot, lambda text: 0 < text.find("busy") < text.find("calm"))
        assert "consumer" in text
        assert "MSGS/S▼" in text
        await pilot.press("r")
        await until(pilot, lambda text: 0 < text.find("calm") < text.find("busy"))
        for name in ("BYTES/S", "UNACK", "LOST"):
            await pilot.press("s")
            await until(pilot, lambda text, name=name: f"{name}▼" in text)  # type: ignore[misc]

    with receiving(cli.address), producing(cli.address, calm=1, busy=50):
        drive(cli, script)


def test_filter_pause_and_help(cli: Cli) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await until(pilot, lambda text: "calm" in text and "busy" in text)
        await pilot.press("slash", *"bus", "enter")
        await until(pilot, lambda text: "calm" not in text and "only with 'bus'" in text)
        await pilot.press("escape")
        await until(pilot, lambda text: "calm" in text and "only with" not in text)
        await pilot.press("question_mark")
        await until(pilot, lambda text: "Press any key to go back" in text)
        await pilot.press("q")  # goes back, and does not quit
        await pilot.pause()
        assert not isinstance(pilot.app.screen, Help)
        await pilot.press("p")
        before = await until(pilot, lambda text: "PAUSED" in text)
        await pilot.pause(0.3)  # three intervals
        assert screen_text(cast("Top", pilot.app)) == before
        await pilot.press("p")
        await until(pilot, lambda text: "PAUSED" not in text and text != before)

    with receiving(cli.address), producing(cli.address, calm=1, busy=50):
        drive(cli, script)


def test_stuck_consumer_and_the_journals_lag_are_shown(cli: Cli) -> None:
    cli.recv("--journal", "events.journal")

    async def script(pilot: Pilot[None]) -> None:
        text = await until(pilot, lambda text: "consumer STUCK for" in text)
        assert 'of "busy" (pid' in text
        await until(pilot, lambda text: "messages behind: main " in text and "main 0" not in text)

    with producing(cli.address, busy=500):
        drive(cli, script)


def test_receiver_that_is_away_is_said_to_be_and_found_again(cli: Cli) -> None:
    with ExitStack() as before:
        before.enter_context(receiving(cli.address))

        async def script(pilot: Pilot[None]) -> None:
            before.close()
            await until(pilot, lambda text: "AWAY" in text)
            again = cli.recv(stdout=subprocess.DEVNULL)
            await until(pilot, lambda text: "AWAY" not in text and f"pid {again.pid}" in text)

        drive(cli, script)


def test_click_on_a_title_sorts_by_it(cli: Cli) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.pause()
        await pilot.click(DataTable, offset=(4, 0))
        await until(pilot, lambda text: "PID▲" in text)
        await pilot.click(DataTable, offset=(4, 0))
        await until(pilot, lambda text: "PID▼" in text)
        assert pilot.app.query_one("#head", Static).size.height >= 3

    with receiving(cli.address):
        drive(cli, script)


def test_many_producers_do_not_keep_a_processor_busy(cli: Cli) -> None:
    """Of a thousand the first two hundred are drawn, and the rest is counted."""

    async def script(pilot: Pilot[None]) -> None:
        await until(pilot, lambda text: "consumer" in text)
        cast("Top", pilot.app)._source.stop()  # what it sees is no more to be drawn
        for at in range(2):
            told = (producer(pid, messages=at * pid) for pid in range(1, 1001))
            pilot.app.post_message(Seen(document(1000.0 + at, *told)))
        await until(pilot, lambda text: "800 more producers below" in text)
        assert pilot.app.query_one(DataTable).row_count == 200

    with receiving(cli.address):
        drive(cli, script, interval=600)


# -- a real terminal ------------------------------------------------------------------------------


class Tmux:
    """A terminal of tmux's, with a server of its own."""

    def __init__(self, cli: Cli, width: int, height: int, **variables: str) -> None:
        self._socket = str(cli.directory / "tmux.sock")
        self._call("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height),
                   "-c", str(cli.directory), "sh")  # fmt: skip
        words = [f"{name}={value}" for name, value in variables.items()]
        words = ["env", *words, f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", *COMMAND]
        self.type(" ".join([*words, "top", "app.sock", "; echo ended $?"]))
        self.press("Enter")

    def _call(self, *arguments: str) -> str:
        command = ["tmux", "-S", self._socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def type(self, text: str) -> None:
        self._call("send-keys", "-l", text)

    def press(self, key: str) -> None:
        self._call("send-keys", key)

    def child(self) -> int:
        """Return the process id of the command that runs in it."""
        shell = self._call("display-message", "-p", "#{pane_pid}").strip()
        (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        return int(child)

    def text(self, *, escapes: bool = False) -> str:
        return self._call("capture-pane", "-p", *(["-e"] if escapes else []))

    def until(self, what: str) -> str:
        """Return the text of the terminal as soon as it has this."""

        def shown() -> str:
            text = self.text()
            assert what in text, text
            return text

        return eventually(shown, interval=0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call("kill-server")


@pytest.mark.needs("tmux")
@pytest.mark.parametrize(
    ("width", "height", "variables"),
    [(80, 24, {}), (120, 40, {"NO_COLOR": "1"})],
)
def test_it_runs_in_a_real_terminal(
    cli: Cli, width: int, height: int, variables: dict[str, str]
) -> None:
    """In colour, or without where NO_COLOR says so; q gives the terminal back."""
    with (
        receiving(cli.address),
        producing(cli.address, busy=10),
        Tmux(cli, width, height, **variables) as terminal,
    ):
        terminal.until("q Quit")
        assert "consumer" in terminal.until("busy")
        escapes = terminal.text(escapes=True)
        colours = {part.partition("m")[0] for part in escapes.split("\x1b[")[1:]}
        coloured = any(is_colour(code) for code in colours)
        assert coloured == (not variables)
        terminal.type("q")
        terminal.until("ended 0")


def is_colour(code: str) -> bool:
    """Tell whether an escape sets a colour that is no grey."""
    numbers = [int(each) for each in code.split(";") if each.isdecimal()]
    for kind in (38, 48):
        if kind in numbers and numbers[numbers.index(kind) + 1] == 2:
            at = numbers.index(kind) + 2
            if len(set(numbers[at : at + 3])) > 1:
                return True
        elif kind in numbers and 16 <= numbers[numbers.index(kind) + 2] < 232:
            level = numbers[numbers.index(kind) + 2] - 16
            if len({level // 36, level // 6 % 6, level % 6}) > 1:
                return True
    return any(31 <= each <= 36 or 41 <= each <= 46 for each in numbers if len(numbers) < 3)


@pytest.mark.needs("tmux")
@pytest.mark.parametrize(("end", "code"), [("C-c", 0), ("TERM", 143)])
def test_interrupts_give_the_terminal_back(cli: Cli, end: str, code: int) -> None:
    with receiving(cli.address), Tmux(cli, 80, 24) as terminal:
        terminal.until("q Quit")
        if end == "C-c":
            terminal.press(end)
        else:
            os.kill(terminal.child(), signal.SIGTERM)
        terminal.until(f"ended {code}")


@pytest.mark.needs("tmux")
def test_dumb_terminal_gets_the_snapshot(cli: Cli) -> None:
    with (
        receiving(cli.address),
        producing(cli.address, busy=10),
        Tmux(cli, 80, 24, TERM="dumb") as terminal,
    ):
        text = terminal.until("ended 0")
        assert "consumer" in text
