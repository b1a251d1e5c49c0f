"""Format messages, and what is known of them, as bytes to print."""

from __future__ import annotations

from binascii import hexlify
from datetime import datetime
from typing import TYPE_CHECKING, Final

from click import UsageError

from mpsr.errors import Explanation
from mpsr.forwarding import claim_of, taken_apart
from mpsr.json_format import content, origin, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.batch import Batch

    Format = Callable[[Batch[bytes], int], bytes]
    """Takes a batch, and how many of its messages to print."""

FORMATS: Final = ("text", "json", "hex", "raw")
DECODERS: Final = ("syslog", "log")


def check_decoder(
    decoder: str | None, output: str, level: int | None, readable: str = "text"
) -> None:
    """Refuse a decoder beside a format that shows nothing of it, and a level of no records.

    ``readable`` is the format that shows log records as people read them.
    """
    if decoder == "syslog" and output != "json":
        raise UsageError(
            Explanation(
                f"--decode {decoder} requires --output json",
                f"{output} shows no fields",
                "add --output json",
            )
        )
    if decoder == "log" and output not in {readable, "json"}:
        raise UsageError(
            Explanation(
                f"--decode log has no use with --output {output}",
                f"only {readable} and json show records",
                f"choose --output {readable} or --output json",
            )
        )
    if level is not None and decoder != "log":
        raise UsageError(
            Explanation(
                "--level requires --decode log", "other messages have no level", "add --decode log"
            )
        )


def format_named(name: str, end: bytes, decoder: str | None = None, level: int = 0) -> Format:
    """Return the format of that name, each message with ``end`` behind it (raw has no ends).

    With a decoder, JSON has what that finds in a message, too, and text shows log records as
    people read them; those below ``level`` are left out.
    """
    if decoder == "log":
        from mpsr.cli.records import Records  # noqa: PLC0415 - few decode

        shown = Records(end, level)
        return shown if name == "text" else _Json(end, shown.item)
    match name:
        case "text":
            return lambda batch, count: end.join([*_bodies(batch, count), b""])
        case "hex":
            return lambda batch, count: end.join([*map(hexlify, _bodies(batch, count)), b""])
        case "raw":
            return lambda batch, count: b"".join(_bodies(batch, count))
        case "json":
            return _Json(end, syslog_item if decoder == "syslog" else None)
        case _:
            error = f"{name} is no format"
            raise ValueError(error)


def _bodies(batch: Batch[bytes], count: int) -> list[bytes]:
    """Return the first messages, without what says where a funnel had them from."""
    bodies = batch.raw[:count]
    apart = taken_apart(bodies)
    return bodies if apart is None else [each.body for each in apart]


class _Json:
    """One object a message, with all that is known of it."""

    def __init__(self, end: bytes, decode: Callable[[bytes], str | None] | None) -> None:
        self._end = end
        self._decode = decode
        self._lost: dict[bytes, int] = {}  # by producer, reported before the next message

    def __call__(self, batch: Batch[bytes], count: int) -> bytes:
        lost = self._lost_before(batch)
        time = datetime.now().astimezone().isoformat(timespec="microseconds")
        # Most of an object is the same for the whole batch.
        head = origin(time, batch.peer, batch.producer)
        if batch.address is not None:
            head += f',"address":{to_json(batch.address)}'
        head += ',"seq":'
        lines: list[str] = []
        bodies = batch.raw[:count]
        apart = taken_apart(bodies)
        for seq, body in enumerate(bodies, batch.first_seq):
            message, claim = body, ""
            if apart is not None:
                found = apart[seq - batch.first_seq]
                message, claim = found.body, claim_of(found)
            decoded = "" if self._decode is None else self._decode(message)
            if decoded is None:
                continue
            losing = f',"lost":{lost}' if lost else ""
            lost = 0
            lines.append(f"{head}{seq}{losing}{claim},{content(message)}{decoded}}}")
        if lost and not lines and batch.producer is not None:
            self._lost[batch.producer.id] = lost
        lines.append("")
        return self._end.decode().join(lines).encode()

    def _lost_before(self, batch: Batch[bytes]) -> int:
        """Return the losses to tell with this batch; one without messages leaves its own behind."""
        if batch.producer is None:
            return batch.lost
        lost = self._lost.pop(batch.producer.id, 0) + batch.lost
        if lost and not batch:
            self._lost[batch.producer.id] = lost
        return lost


def syslog_item(body: bytes) -> str:
    """Return the item of an object that holds the fields of a syslog message."""
    from mpsr.syslog_format import syslog  # noqa: PLC0415 - few decode

    return f',"syslog":{to_json(syslog(body).as_dict())}'
