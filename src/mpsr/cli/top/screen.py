"""Show a receiver and its producers on a terminal, live."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from mpsr.cli.top.model import COLUMNS, Model, Row, shown
from mpsr.cli.top.source import Source
from mpsr.cli.top.text import Column, Said, cells, columns, head
from mpsr.names import printable

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from mpsr.observe import Status
    from mpsr.system.trust import ReceiverUid

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)  # that give the terminal back first
_MOST_ROWS: Final = 200  # drawn at each look: more would keep a processor busy
_STYLES: Final = {"": "", "warning": "bold yellow", "alarm": "bold white on red"}
_HELP: Final = """\
s  sort by the next column      r  sort the other way round
/  show only what holds a text  Esc  show all again
p  pause, or go on              q  quit
↑ ↓ PgUp PgDn Home End  move in the table

A click on a title sorts by its column.

MSGS/S and BYTES/S are what a producer sends, now and in the last looks.
UNACK are messages that were read and not acknowledged yet.
LOST are messages that the producer had to drop.

The consumer is STUCK when it has had one batch for more than a second,
or does not call the receiver although messages wait. It may be slow,
or wait for the process that reads its output.

Press any key to go back."""


class Seen(Message):
    """The receiver was looked at."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__()


class Away(Message):
    """The receiver could not be looked at."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__()


class Help(ModalScreen[None]):
    """The keys, and what the columns mean."""

    def compose(self) -> ComposeResult:
        """Make its one widget."""
        with VerticalScroll(id="help"):
            yield Static(_HELP, markup=False)

    def on_key(self, event: events.Key) -> None:
        """Go back."""
        event.stop()
        self.dismiss()


class Top(App[None]):
    """The live view of one receiver.

    Args:
        address: of the receiver.
        first: what it told last.
        interval: seconds from one look to the next.
        receiver_uid: users allowed to receive, as ``observe.status`` takes them.
        sort: the column to sort by, one of ``COLUMNS``.
        backwards: sort the other way round.
        text: what the producers shown have to hold.

    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; max-height: 40%; padding: 0 1; }
    #table { height: 1fr; }
    #find { display: none; height: 1; border: none; padding: 0 1; }
    #find.open { display: block; }
    Help { align: center middle; }
    #help { width: 76; max-width: 100%; height: auto; max-height: 100%; padding: 1 2;
            border: round $primary; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "sort", "Sort"),
        ("r", "reverse", "Reverse"),
        ("slash", "find", "Filter"),
        ("escape", "show_all", "All"),
        ("p", "pause", "Pause"),
        ("question_mark", "help", "Help"),
        ("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False),
    ]

    def __init__(
        self,
        address: str,
        first: Status,
        *,
        interval: float = 1.0,
        receiver_uid: ReceiverUid = None,
        sort: str = "messages",
        backwards: bool = False,
        text: str = "",
    ) -> None:
        super().__init__()
        self._model = Model()
        self._model.take(first)
        self._sort, self._backwards, self._text = sort, backwards, text
        self._paused = False
        self._away = ""
        self._source = Source(
            address,
            interval,
            receiver_uid,
            seen=lambda status: self.post_message(Seen(status)),
            away=lambda why: self.post_message(Away(why)),
        )

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static(id="head", markup=False)
        yield DataTable(id="table", cell_padding=0, cursor_type="row", zebra_stripes=True)
        yield Input(value=self._text, placeholder="text to look for", id="find")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one(DataTable).focus()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.exit, None, 128 + number)
        self._source.start()

    def on_unmount(self) -> None:
        """Look no more."""
        self._source.stop()
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def on_resize(self) -> None:
        """Fit the columns to the width."""
        self._draw()

    def on_seen(self, message: Seen) -> None:
        """Show what was seen, unless paused."""
        self._away = ""
        if not self._paused:
            self._model.take(message.status)
            self._draw()

    def on_away(self, message: Away) -> None:
        """Say that what is shown is old."""
        self._away = printable(message.why)
        self._draw_head()

    # -- keys -----------------------------------------------------------------------------------

    def action_sort(self) -> None:
        """Sort by the next column."""
        names = list(COLUMNS)
        self._sort_by(names[(names.index(self._sort) + 1) % len(names)])

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._backwards = not self._backwards
        self._draw()

    def action_find(self) -> None:
        """Ask for a text."""
        find = self.query_one(Input)
        find.add_class("open")
        find.focus()

    def action_show_all(self) -> None:
        """Show every producer again."""
        self.query_one(Input).value = ""
        self._leave_find()

    def action_pause(self) -> None:
        """Keep what is shown, or go on."""
        self._paused = not self._paused
        self._draw_head()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what holds the text, as it is typed."""
        self._text = event.value
        self._draw()

    def on_input_submitted(self) -> None:
        """Go back to the table."""
        self._leave_find()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column; a second time, the other way round."""
        name = columns(self.size.width)[event.column_index].sort
        if name == self._sort:
            self.action_reverse()
        else:
            self._sort_by(name)

    def _sort_by(self, name: str) -> None:
        self._sort, self._backwards = name, False
        self._draw()

    def _leave_find(self) -> None:
        self.query_one(Input).remove_class("open")
        self.query_one(DataTable).focus()

    def _rows(self) -> list[Row]:
        rows = self._model.rows
        return shown(rows, sort=self._sort, backwards=self._backwards, text=self._text)

    # -- drawing --------------------------------------------------------------------------------

    def _draw(self) -> None:
        self._draw_head()
        table = self.query_one(DataTable)
        layout = columns(self.size.width)
        rows = self._rows()
        scrolled, chosen = table.scroll_offset, table.cursor_row
        table.clear(columns=True)
        for place, column in enumerate(layout):
            mark = ("▲" if self._ascending else "▼") if column.sort == self._sort else ""
            title = Text(column.placed(f"{column.title}{mark}" if column.title else ""))
            table.add_column(title, width=column.width + 1, key=str(place))
        for row in rows[:_MOST_ROWS]:
            texts = zip(cells(row, layout), layout, strict=True)
            table.add_row(*(_cell(text, column) for text, column in texts))
        table.move_cursor(row=min(chosen, max(0, table.row_count - 1)), animate=False, scroll=False)
        table.scroll_to(y=scrolled.y, animate=False)

    @property
    def _ascending(self) -> bool:
        return COLUMNS[self._sort][1] == self._backwards

    def _draw_head(self) -> None:
        lines = head(self._model)
        if self._away:
            lines.insert(1, Said(f"AWAY, what follows is old: {self._away}", "alarm"))
        hidden = len(self._rows()) - _MOST_ROWS
        if hidden > 0:
            lines.append(Said(f"{hidden:,} more producers below: filter, or sort otherwise"))
        left_out = 0 if self._model.status is None else self._model.status["producers_left_out"]
        if left_out:
            lines.append(Said(f"{left_out:,} more that have sent less are not known here"))
        notes = ["PAUSED"] * self._paused + [f"only with {self._text!r}"] * bool(self._text)
        if notes:
            lines.append(Said("; ".join(notes), "warning"))
        said = Text("\n").join(Text(line.text, _STYLES[line.level]) for line in lines)
        said.no_wrap, said.overflow = False, "fold"
        self.query_one("#head", Static).update(said)


def _cell(text: str, column: Column) -> Text:
    style = _STYLES["warning"] if column.sort == "lost" and text != "0" else ""
    return Text(column.placed(text), style)
