"""Print messages of one batch that follow each other, in each format of ``mpsr log``."""

from __future__ import annotations

from binascii import hexlify
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from mpsr.cli.formats import syslog_item
from mpsr.cli.stdio import Stdout, plural
from mpsr.errors import JournalError
from mpsr.json_format import content, local_time, origin
from mpsr.limits import KIB
from mpsr.names import printable
from mpsr.store.records import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpsr.cli.records import Records

_WRITE: Final = 64 * KIB  # bytes that are printed at once


class Part(NamedTuple):
    """Messages of one batch that follow each other, or that messages were lost."""

    position: int
    """Of the first."""
    seq: int
    """Of the first."""
    lost: int
    """How many messages were lost before the first."""
    bodies: list[bytes]
    """None where messages were lost and this is all there is to tell."""
    entry: Entry
    more: str = ""
    """Further items of an object, each with a comma behind it."""

    @property
    def size(self) -> int:
        """How many lines it counts as."""
        return len(self.bodies) or 1

    def cut(self, begin: int, end: int) -> Part:
        """Return some of its messages; a loss is reported with the first."""
        if (begin, end) == (0, self.size):
            return self
        lost = 0 if begin else self.lost
        return Part(
            self.position + begin,
            self.seq + begin,
            lost,
            self.bodies[begin:end],
            self.entry,
            self.more,
        )


class PartPrinter:
    """Prints in one format, much at once; at its end, what is left, also before a damage."""

    def __init__(self, screen: Stdout, form: Callable[[Part], bytes]) -> None:
        self._screen = screen
        self._form = form
        self._waiting: list[bytes] = []
        self._size = 0

    def print(self, parts: Iterable[Part]) -> None:
        """Print messages, sooner or later."""
        for part in parts:
            text = self._form(part)
            self._waiting.append(text)
            self._size += len(text)
            if self._size >= _WRITE:
                self.flush()

    def flush(self) -> None:
        """Print what waits."""
        text = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._screen.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, JournalError):
            self.flush()


def form_of(output: str, decode: str | None, records: Records | None) -> Callable[[Part], bytes]:
    """Return what prints messages in a format, with what a decoder finds in them."""
    if output == "json":
        item = records.item if records is not None else syslog_item if decode else None
        return partial(_json, decode=item)
    return _FORMATS[output] if records is None else partial(_readable, records=records)


def _readable(part: Part, records: Records) -> bytes:
    label = "" if part.entry.producer is None else part.entry.producer.label
    losing = _short(part._replace(bodies=[])) if part.lost else b""
    return losing + records.lines(part.bodies, label)


def _short(part: Part) -> bytes:
    entry = part.entry
    label = printable(entry.producer.label) if entry.producer is not None else ""
    pid = "?" if entry.peer.pid is None else entry.peer.pid
    head = f"{local_time(entry.received_at) or '-'} {label or '-'}[{pid}]: "
    texts = [body.decode("utf-8", "backslashreplace") for body in part.bodies]
    if not "".join(texts).isprintable():
        texts = [*map(printable, texts)]
    if part.lost:
        texts.insert(0, f"-- {plural(part.lost, 'message')} lost --")
    lines = [f"\n{head}".join(texts), "\n"]
    return "".join([head, *lines] if texts else []).encode("utf-8", "backslashreplace")


def _json(part: Part, decode: Callable[[bytes], str | None] | None) -> bytes:
    entry = part.entry
    known = origin(local_time(entry.received_at), entry.peer, entry.producer)[1:]
    head = f',{part.more}{known},"seq":'
    losing = f',"lost":{part.lost}' if part.lost else ""
    if not part.bodies:
        return f'{{"position":{part.position}{head}{part.seq}{losing}}}\n'.encode()
    lines: list[str] = []
    ahead = part.seq - part.position
    for position, body in enumerate(part.bodies, part.position):
        decoded = "" if decode is None else decode(body)
        start = f'{{"position":{position}{head}{position + ahead}{losing},'
        lines.append(f"{start}{content(body)}{decoded}}}\n")
        losing = ""
    return "".join(lines).encode()


def _text(part: Part) -> bytes:
    return b"\n".join([*part.bodies, b""])


def _hex(part: Part) -> bytes:
    return b"\n".join([*map(hexlify, part.bodies), b""])


def _raw(part: Part) -> bytes:
    return b"".join(part.bodies)


_FORMATS: Final = {"short": _short, "text": _text, "hex": _hex, "raw": _raw}
