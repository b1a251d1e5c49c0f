"""Format messages, and what is known of them, as bytes to print."""

from __future__ import annotations

from binascii import hexlify
from datetime import datetime
from typing import TYPE_CHECKING, Final

from mpsr.json_format import content, origin, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpsr.batch import Batch

    Format = Callable[[Batch[bytes], int], bytes]
    """Takes a batch, and how many of its messages to print."""

FORMATS: Final = ("text", "json", "hex", "raw")
DECODERS: Final = ("syslog",)


def format_named(name: str, end: bytes, decoder: str | None = None) -> Format:
    """Return the format of that name, each message with ``end`` behind it (raw has no ends).

    With a decoder, JSON has what that finds in a message, too.
    """
    match name:
        case "text":
            return lambda batch, count: end.join([*batch.raw[:count], b""])
        case "hex":
            return lambda batch, count: end.join([*map(hexlify, batch.raw[:count]), b""])
        case "raw":
            return lambda batch, count: b"".join(batch.raw[:count])
        case "json":
            return _Json(end, _syslog if decoder == "syslog" else None)
        case _:
            error = f"{name} is no format"
            raise ValueError(error)


class _Json:
    """One object a message, with all that is known of it."""

    def __init__(self, end: bytes, decode: Callable[[bytes], str] | None) -> None:
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
        for seq, body in enumerate(batch.raw[:count], batch.first_seq):
            losing = f',"lost":{lost}' if lost else ""
            lost = 0
            decoded = "" if self._decode is None else self._decode(body)
            lines.append(f"{head}{seq}{losing},{content(body)}{decoded}}}")
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


def _syslog(body: bytes) -> str:
    from mpsr.syslog_format import syslog  # noqa: PLC0415 - few decode

    return f',"syslog":{to_json(syslog(body).as_dict())}'
