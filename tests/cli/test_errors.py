"""Each known cause of an error has its own lines `why` and `try`, which differ from all others.

The fixture checks each output of a command in this folder for lines that say nothing.
"""

from __future__ import annotations

import inspect
import os
import re
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

import mpsr
from mpsr.cli.arguments import OPTIONS, in_options
from mpsr.cli.common import children
from mpsr.cli.entry import command
from mpsr.errors import Explanation
from tests.cli.conftest import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Cause(NamedTuple):
    """A command line, and the lines `why` and `try` of its error, if it has them."""

    words: str
    why: str = ""
    advice: str = ""
    feed: bytes = b""
    env: dict[str, str] = {}  # noqa: RUF012 - it is only read


CAUSES: Final = [
    # the address of a receiver
    Cause("recv", advice="write it like: mpsr recv app.sock"),
    Cause("recv ''", "it is empty", "pass a path, @name or fd:N"),
    Cause("recv @", "an abstract name has 1 to 107 bytes and no NUL", "choose another"),
    Cause("recv fd:x", "a descriptor is a small decimal number", "write it like fd:3"),
    Cause("recv fd:999", "it is no socket: Bad file descriptor", "pass a descriptor that is open"),
    Cause(
        "recv none/x.sock",
        "its directory cannot be opened: No such file or directory",
        "make sure that its directory exists",
    ),
    Cause(
        "recv file",
        "what is there is a regular file",
        "choose another path, or remove it if nobody needs it",
    ),
    Cause(
        "recv busy.sock",
        "this very process is receiving there",
        "stop it, choose another address, or take over from it with --handover",
    ),
    Cause("recv @x --mode 660", "", "leave out --mode and --group, or claim a path"),
    Cause("recv x --group nosuch", "--mode 600 forbids the group to connect", "pass --mode 660"),
    Cause("recv x --group nosuch --mode 660", "", "create it first"),
    Cause(
        "recv systemd:",
        "no sockets were passed to this process (LISTEN_FDS is not set)",
        "start it by its .socket unit, or try systemd-socket-activate",
    ),
    # values of options
    Cause("recv x --count x", "'x' is not a whole number, 1 or more"),
    Cause("tap x --rate 0", "'0' is not a whole number, 1 to 1000"),
    Cause("recv x --timeout x", "'x' is no duration", "write it like 500ms, 5s or 2m"),
    Cause("recv x --timeout 9999h", "'9999h' is longer than 480h"),
    Cause("recv x --max-message x", "'x' is no size", "write it like 1000, 64K or 16M"),
    Cause("recv x --max-message 5G", "'5G' is not below 4G"),
    Cause("recv x --mode 9", "'9' is no octal mode", "write it like 660"),
    Cause("recv x,mode=077", "'077' denies its owner to read or to write", "write it like 660"),
    Cause("recv x,mode=660,mode=600", "'x,mode=660,mode=600' has mode= twice", "write it once"),
    Cause("recv x --allow-user nosuch", "there is no user 'nosuch'", "pass a name or a number"),
    Cause("recv x --allow-group nosuch", "there is no group 'nosuch'", "pass a name or a number"),
    Cause("recv x --output foo", "'foo' is none of text, json, hex, raw"),
    Cause("recv x", "'x' is not a whole number, 1 or more", env={"MPSR_RECV_COUNT": "x"}),
    Cause("recv x --typ stream", advice="did you mean --type?"),
    Cause("recv x --xyzzy", advice="mpsr recv --help lists the options"),
    Cause("recieve", advice="did you mean mpsr recv?"),
    Cause("xyzzy", advice="mpsr --help lists the commands"),
    Cause("journal", advice="write it like: mpsr journal verify events.journal"),
    Cause(
        "recv x --decode log --level foo",
        "'foo' is no level",
        "choose DEBUG, INFO, WARNING, ERROR, CRITICAL or a number",
    ),
    Cause(
        "log j --since foo",
        "'foo' is no time",
        "write it like 2026-03-01, '2026-03-01 12:00', 12:00, today or -1h",
    ),
    Cause(
        "tap x --match (",
        "'(' is no regular expression: missing ), unterminated subpattern at position 0",
    ),
    Cause(
        "recv x --metrics 9464",
        "'9464' does not say at which host",
        "write 127.0.0.1:9464, or 0.0.0.0:9464 to be read from other machines",
    ),
    Cause("recv x --metrics h:99999", "99999 is no port", "choose one of 0 to 65535"),
    # options that exclude or require others
    Cause(
        "recv x --journal-limit 1G",
        "the limit applies to a journal, and no journal was given",
        "add --journal DIR, or remove --journal-limit",
    ),
    Cause(
        "recv x --journal y --journal-limit 1K",
        "a journal needs room for segments",
        "pass 2097152 bytes or more",
    ),
    Cause(
        "recv x --null -o raw",
        "raw puts nothing between messages",
        "remove --null, or choose --output text",
    ),
    Cause("recv x --decode syslog", "text shows no fields", "add --output json"),
    Cause(
        "recv x --decode log -o hex",
        "only text and json show records",
        "choose --output text or --output json",
    ),
    Cause("recv x --level info", "other messages have no level", "add --decode log"),
    Cause(
        "recv x --count 1 --to file:x",
        "sinks run until a signal",
        "remove --count and --timeout, or --to",
    ),
    Cause("log j --follow --reverse", "the newest message is still to come", "remove one of them"),
    Cause(
        "send busy.sock x --null",
        "it says how to read stdin",
        "remove --null, or pass the messages on stdin",
    ),
    Cause("send busy.sock --null --whole", "each says where a message ends", "remove one of them"),
    Cause(
        "send busy.sock --type dgram --framing lines",
        "the framings of dgram are packet",
        "choose --framing packet",
    ),
    Cause(
        "send dgram.sock x --type dgram --spool s",
        "datagrams and foreign framings have none",
        "leave it out, or send with --type stream and --framing native",
    ),
    Cause(
        "send x x --max-message 3G --spool s",
        "a spool stores messages of at most 268435456 bytes",
        "pass --max-message 268435456",
    ),
    Cause("man --directory x recv", "it writes all pages", "remove one of them"),
    # sinks
    Cause(
        "recv x --to foo:x",
        "the sinks are -, arrow:, duckdb:, exec:, file:, mpsr:, nats:, parquet:, sqlite:, stdout:",
        "write it like file:events.jsonl or sqlite:events.db",
    ),
    Cause("recv x --to sqlite:x?columns=a", "", "choose one of table=, mode="),
    Cause("recv x --to file:x?formt=json", "", "did you mean format=?"),
    Cause("recv x --to file:", "", "write it like file:events.jsonl"),
    Cause("recv x --to file:x?keep=2", "", "add rotate=100M"),
    Cause("recv x --to file:x?keep=0", "it is not a whole number, 1 or more"),
    Cause(
        "recv x --to file:x?rotate=abc",
        "it is neither a size nor a time",
        "write it like 100M, 1d or 12h",
    ),
    Cause(
        "recv x --to parquet:x?every=y", "it is no time", "write it like 500ms, 30s, 5m, 12h or 1d"
    ),
    Cause("recv x --to file:x?format=xml", "it is none of json, lines, length, raw"),
    Cause("recv x --to file:x?on_reject=foo", "it is none of store, stop"),
    Cause(
        "recv x --to file:x?on_reject=stop&rejected=y",
        "on_reject=stop stores no message",
        "remove one of these options",
    ),
    Cause("recv x --to stdout:x", "", "write --to stdout; --output chooses the format"),
    Cause(
        "recv x --to file:x --to file:y",
        "it keeps the messages that some of the sinks have not written yet",
        "add --journal DIR",
    ),
    # a receiver that is missing, busy or another
    Cause(
        "send none.sock x",
        "cannot reach none.sock: nothing is there",
        "start the receiver: mpsr recv none.sock",
    ),
    Cause(
        "send stale.sock x",
        "cannot reach stale.sock: nobody listens there (any more)",
        "start the receiver: mpsr recv stale.sock",
    ),
    Cause(
        "send file x",
        "cannot reach file: what is there is a regular file, not a socket",
        "check the path",
    ),
    Cause(
        "send dgram.sock x",
        "cannot reach dgram.sock: its socket is not of type stream",
        "pass --type dgram if that is what it is",
    ),
    Cause(
        "send busy.sock x --timeout 500ms",
        "busy.sock took the connection, but no receiver has answered yet",
        "look at the receiver, or wait longer with a larger --timeout",
    ),
    Cause(
        "send closed.sock x",
        "uid {uid} may not send here: neither its user nor a group of it is allowed",
        "have the receiver allow this user, with --allow-user",
    ),
    Cause("send systemd:x x", "", "pass the path that they have"),
    Cause(
        "send served.sock yyy --max-message 2",
        "a message of 3 bytes: the most here is 2",
        "raise --max-message, here and at the receiver",
    ),
    Cause(
        "send served.sock 'a\nb' --framing lines",
        "the message holds the delimiter b'\\n'",
        "choose another --framing, or encode it",
    ),
    Cause(
        "send served.sock --json",
        "the line is no JSON object with body or body_b64",
        "write lines as mpsr recv -o json prints them",
        feed=b"not JSON\n",
    ),
    Cause("status none.sock", "nothing is there", "start the receiver, or check the path"),
    Cause(
        "status dgram.sock",
        "its receiver takes only datagrams, which have no way back",
        "give the receiver a second address, of type stream, and observe that",
    ),
    Cause(
        "status busy.sock --timeout 10ms",
        f"its process {os.getpid()} has not called receive() yet, holds Python's interpreter lock, "
        "has other connections to accept first, or is no receiver of mpsr's",
    ),
    Cause("recv x --timeout 1ms", "", "start a producer, or wait longer with a larger --timeout"),
    Cause(
        "send served.sock x",
        "",
        "set it to user ids with spaces between them, or to any",
        env={"MPSR_RECEIVER_UID": "app"},
    ),
    # journals
    Cause("log none", "No such file or directory", "check the path of the directory"),
    Cause(
        "recv x --journal file",
        "it is no directory, as a journal is",
        "choose another path ({cwd}/file was not changed)",
    ),
    Cause(
        "recv x --journal data",
        "it is a directory of other things, no journal",
        "choose another path ({cwd}/data was not changed)",
    ),
    Cause("journal trim j", "this very process has it open", "stop that, or choose another path"),
    Cause("journal trim old --drop x", "there are: 'main'", "name one of these"),
]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Give a directory with what the causes name: files, sockets, receivers and journals."""
    directory: Path = tmp_path_factory.mktemp("s")
    (directory / "file").touch()
    (directory / "data").mkdir()
    (directory / "data" / "x").touch()
    with ExitStack() as own:
        datagrams = own.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(str(directory / "dgram.sock"))
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(directory / "stale.sock"))
        own.enter_context(mpsr.Receiver(directory / "busy.sock"))  # and nothing receives there
        own.enter_context(mpsr.Receiver(directory / "j.sock", journal=directory / "j"))
        with mpsr.Receiver(directory / "old.sock", journal=directory / "old"):
            pass
        served = own.enter_context(mpsr.Receiver(directory / "served.sock"))
        closed = own.enter_context(mpsr.Receiver(directory / "closed.sock", allow_uids=[1]))
        threads = [threading.Thread(target=list, args=(each,)) for each in (served, closed)]
        for thread in threads:
            thread.start()
        yield Cli(directory)
        for receiver, thread in zip((served, closed), threads, strict=True):
            receiver.stop()
            thread.join()


def split(words: str) -> list[str]:
    """Return the words of a command line; only quotes are special."""
    return [word[1:-1] if word[0] == "'" else word for word in re.findall(r"'[^']*'|\S+", words)]


def told_of(scene: Cli, cause: Cause) -> list[str]:
    """Return the lines of an error, without those before and after it."""
    told = scene.call(*split(cause.words), feed=cause.feed, env=cause.env)[2].splitlines()
    # It is in the first line if it arrives before the message is taken.
    told = [line.replace("  why: the receiver refused this producer:", "  why:") for line in told]
    return [line for line in told if not re.match("mpsr: (listening|received|sent) ", line)]


@pytest.mark.parametrize("cause", CAUSES, ids=[f"{each.words} {each.env}" for each in CAUSES])
def test_each_cause_has_its_own_words(scene: Cli, cause: Cause) -> None:
    """The lines are those of the table; a line that would say nothing is left out."""
    what, *more = told_of(scene, cause)
    assert what.startswith("mpsr: ")
    parts = (("why", cause.why), ("try", cause.advice))
    expected = [f"  {name}: {text}" for name, text in parts if text]
    known = {"{cwd}": str(scene.directory), "{uid}": str(os.geteuid())}
    for name, value in known.items():
        expected = [line.replace(name, value) for line in expected]
    assert more == expected


def test_causes_differ_from_each_other(scene: Cli) -> None:
    """No two causes have the same error: each names what is wrong with it."""
    told = ["\n".join(told_of(scene, each)) for each in CAUSES]
    assert len(set(told)) == len(told), sorted(each for each in told if told.count(each) > 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("receiver_uid= does not name that user", "--receiver-uid does not name that user"),
        ("pass receiver_uid=7, or not", "pass --receiver-uid 7, or not"),
        ("pass receiver_uid='any'", "pass --receiver-uid any"),
        ("group='a b' has no use", "--group 'a b' has no use"),
        ("mode=0o77 is too small", "--mode 77 is too small"),
        ('send with type="stream"', "send with --type stream"),
        ("(observers=)", "(--observer)"),
        ("set MPSR_RECEIVER_UID=7", "set MPSR_RECEIVER_UID=7"),
        ("cannot reach /tmp/mode=0o77", "cannot reach /tmp/mode=0o77"),
        ("file:x?mode=999 is invalid", "file:x?mode=999 is invalid"),
        ("accept_files=True", "accept_files=True"),
    ],
)
def test_arguments_become_options(text: str, expected: str) -> None:
    """In each part of an error; a part of a path or of a URL stays as it is."""
    assert in_options(Explanation(text, text, text)) == Explanation(*3 * (expected,))


def test_table_of_options_is_complete() -> None:
    """It has each argument of the library that a command passes on, and no other."""
    names: set[str] = set()
    for made in (mpsr.Producer, mpsr.Receiver):
        names |= {*inspect.signature(made.__init__).parameters}
    options: Any = {
        flag for each in children(command) for param in each.params for flag in param.opts
    }
    same = {name for name in names if f"--{name.replace('_', '-')}" in options} - {"decode"}
    assert same <= OPTIONS.keys()
    assert OPTIONS.keys() <= names
    assert {*OPTIONS.values()} <= options
