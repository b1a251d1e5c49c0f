"""Give the messages of a NATS stream to a command, and go on where a connection is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mpsr.cli.stdio import say
from mpsr.errors import SinkError
from mpsr.sinks.nats import stream_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpsr.cli.stdio import Stdout
    from mpsr.sinks.nats.reader import StreamMessage

    Messages = Iterator[list[StreamMessage]]

SCHEME: Final = "nats:"
_WAIT: Final = 0.1  # seconds between two looks at whether anybody reads stdout
_PAUSE: Final = 1.0  # seconds until a lost connection is made again


def messages_of(
    text: str,
    *,
    lines: int | None,
    since: int | None,
    follow: bool,
    wanted: Callable[[StreamMessage], bool],
    screen: Stdout,
) -> Messages:
    """Give messages; an empty list says that there are no more now.

    Args:
        text: a stream, as in ``nats://HOST:PORT/STREAM/SUBJECT``.
        lines: how many of the newest; None for all.
        since: only those stored then or later, in microseconds since 1970.
        follow: whether to go on, for ever, with what comes.
        wanted: tells which of them.
        screen: where they are printed.

    """
    seq = 0
    lost = ""
    while True:
        try:
            with stream_reader(text.removeprefix(SCHEME)) as reader:
                if lost:
                    say("the stream is followed again")
                    lost = ""
                there = reader.after(seq) if seq else None
                if there is None and lines is not None:
                    there = iter([reader.newest(lines, wanted)])
                for some in there or reader.present(since):
                    seq = max(seq, some[-1].seq if some else 0)
                    yield [each for each in some if wanted(each)]
                while follow:
                    some = reader.coming(_WAIT)
                    seq = max(seq, some[-1].seq if some else 0)
                    yield [each for each in some if wanted(each)]
                    if not some:
                        screen.pause(0)
            return
        except SinkError as exc:
            if not follow or not (seq or lost):
                raise
            if str(exc) != lost:
                say(f"{exc}; it is tried again")
                lost = str(exc)
            screen.pause(_PAUSE)
