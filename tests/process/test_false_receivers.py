"""A false receiver gets nothing from an observer of another user, and no terminal from any."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final
from unicodedata import category

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import mpsr
from mpsr import observe
from mpsr.cli.entry import run
from mpsr.cli.status import Status
from mpsr.wire.frames import encode_status, encode_tap
from tests.process.workers import PATIENCE
from tests.users import let_others_in

OTHER: Final = 3000
EXAMPLES: Final = 60
FALSE: Final = """
import os, socket, sys

listener = socket.socket(socket.AF_UNIX)
os.umask(0)
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
while True:
    client, _ = listener.accept()
    if client.recv(100):  # else the observer does not trust this user
        try:
            client.sendall(open(sys.argv[3], "rb").read())
        except OSError:  # the observer has read enough
            pass
    client.close()
"""

HEAD: Final[dict[str, Any]] = {
    "time": 1795787355.2,
    "peer": {"pid": 123, "uid": 1000, "gid": 1000},
    "producer": {"id": "5f0c6d0ad3a94c5e8d3b6a7e1f2c4b90", "label": "web"},
    "address": "/run/app.sock",
    "seq": 7,
    "size": 5,
    "skipped": 2,
}
DOCUMENT: Final[dict[str, Any]] = {
    "mpsr": "0.1.0",
    "pid": 4711,
    "uid": 1000,
    "addresses": ["/run/app.sock"],
    "started": 1795787295.1,
    "now": 1795787355.2,
    "consumer": {
        "state": "stuck",
        "since": 1795787342.9,
        "seconds": 12.3,
        "batch": {
            "producer": "5f0c6d0ad3a94c5e8d3b6a7e1f2c4b90",
            "label": "web",
            "pid": 123,
            "first_seq": 421,
            "messages": 100,
            "bytes": 10000,
            "position": 520,
        },
    },
    "stats": {
        "connections": 1,
        "accepted": 1,
        "batches": 7,
        "messages": 521,
        "nbytes": 52100,
        "lost": 1,
        "rejected": 1,
        "refused": 1,
        "refused_by_uid": {"1001": 1},
        "discarded": 0,
        "paused": True,
        "limited": True,
        "in_hand": 12.3,
    },
    "producers": [
        {
            "id": "5f0c6d0ad3a94c5e8d3b6a7e1f2c4b90",
            "label": "web",
            "pid": 123,
            "uid": 1000,
            "gid": 1000,
            "name": "python3",
            "framing": "native",
            "address": "/run/app.sock",
            "connected": 1795787300.5,
            "messages": 521,
            "bytes": 54400,
            "unacknowledged": 100,
            "lost": 1,
            "ring": False,
        },
        {
            "id": None,
            "label": None,
            "pid": None,
            "uid": None,
            "gid": None,
            "name": None,
            "framing": "lines",
            "address": None,
            "connected": 1795787300.5,
            "messages": 1,
            "bytes": 2,
            "unacknowledged": 0,
            "lost": 0,
            "ring": False,
        },
    ],
    "producers_left_out": 3,
    "journal": {
        "directory": "/var/lib/app.journal",
        "first": 1,
        "next": 522,
        "bytes": 69632,
        "limit": 1073741824,
        "full": True,
        "cursors": [{"name": "main", "position": 421, "lag": 100}],
    },
    "sinks": [
        {
            "name": "sqlite:x",
            "state": "failing",
            "lag": 7,
            "error": "disk full",
            "since": 1795787342.9,
            "rejected": 0,
            "delivered": 12,
            "delivered_bytes": 1200,
            "lost": 1,
        }
    ],
}
COMMANDING: Final = "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\r\u202egnp.exe\u2066\n"

Keys = tuple[str | int, ...]


def paths(value: Any, at: Keys = ()) -> Iterator[Keys]:
    """Yield the path of each value within a document."""
    yield at
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, each in items:
        yield from paths(each, (*at, key))


def changed(document: Any, path: Keys, value: Any) -> Any:
    """Return the document with another value at a path; without it if that is ``...``."""
    if not path:
        return value
    result = copy.deepcopy(document)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


def with_texts(value: Any, text: str) -> Any:
    """Return a document in which each text, and each key that is free, is another one."""
    if isinstance(value, dict):
        return {key: each if key == "id" else with_texts(each, text) for key, each in value.items()}
    if isinstance(value, list):
        return [with_texts(each, text) for each in value]
    return text if isinstance(value, str) and len(value) != 32 else value


extremes: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([..., None, True, [], {}, "", COMMANDING, -1, 2**63 - 1, -(2**63), 2**64]),
    st.sampled_from([10**400, 1e308, -1e308, 1e18, -0.5, float("nan"), float("inf")]),
    st.text(),
    st.integers(),
    st.floats(),
)


@st.composite
def fuzzed(draw: st.DrawFn, document: Any) -> Any:
    """Return a document with some values replaced."""
    result = with_texts(document, draw(st.sampled_from([COMMANDING, "ok", "\x1b" * 300])))
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from(sorted(paths(result), key=repr)))
        value = draw(extremes)
        if path or value is not ...:
            result = changed(result, path, value)
    return result


def encoded(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


answers = st.one_of(
    st.tuples(fuzzed(DOCUMENT), fuzzed(HEAD), st.binary(max_size=20)).map(
        lambda told: (
            encode_status(encoded(told[0])) * 2
            + encode_tap(encoded(told[1]), COMMANDING.encode() + told[2])
        )
    ),
    st.binary(max_size=200),
)
COMMANDS: Final = (
    ("status",),
    ("status", "-o", "json"),
    ("top", "--once"),
    ("tap",),
    ("tap", "-o", "json"),
)


class FalseReceiver:
    """A process that answers each connection with the bytes that it was given last."""

    def __init__(self, directory: str, uid: int) -> None:
        self.address = f"{directory}/false.sock"
        self._answer = Path(directory, "answer")
        command = [sys.executable, "-c", FALSE, self.address, str(uid), str(self._answer)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"listening\n"

    def give(self, answer: bytes) -> None:
        """Give the answer to the next connections."""
        self._answer.write_bytes(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def false_receiver(uid: int) -> Iterator[FalseReceiver]:
    with tempfile.TemporaryDirectory() as directory:
        let_others_in(Path(directory))
        os.chmod(directory, 0o777 if uid != os.geteuid() else 0o755)
        receiver = FalseReceiver(directory, uid)
        try:
            yield receiver
        finally:
            receiver.close()


@pytest.fixture(scope="module")
def ours() -> Iterator[FalseReceiver]:
    """Give a false receiver of the observer's own user."""
    with false_receiver(os.geteuid()) as receiver:
        yield receiver


def output_of(command: tuple[str, ...], address: str) -> tuple[int, str]:
    """Run a command; return its exit status, and what it wrote to both streams."""
    with tempfile.TemporaryFile() as file:
        with io.TextIOWrapper(file, encoding="utf-8", write_through=True) as text:
            with redirect_stdout(text), redirect_stderr(text):
                status = run([*command, address])
            file.seek(0)
            return status, file.read().decode()


def is_command(char: str, in_json: bool) -> bool:
    """Return whether a terminal may obey a character; JSON may have unusual spaces."""
    return not char.isprintable() and not (
        in_json
        and category(char) in ("Zs", "Cn", "Co", "Cf")
        and char not in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


GOOD: Final = encode_status(encoded(DOCUMENT)) * 2 + encode_tap(encoded(HEAD), b"hello")
BAD: Final = encode_status(encoded(with_texts(DOCUMENT, COMMANDING))) * 2 + encode_tap(
    encoded(with_texts(HEAD, COMMANDING)), COMMANDING.encode()
)
PID: Final = encode_status(encoded(changed(DOCUMENT, ("pid",), COMMANDING)))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[*HealthCheck])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@given(answer=answers)
@example(answer=GOOD)
@example(answer=BAD)
@example(answer=PID)
def test_no_document_commands_a_terminal_or_ends_a_command_otherwise_than_described(
    ours: FalseReceiver, command: tuple[str, ...], answer: bytes
) -> None:
    ours.give(answer)
    status, text = output_of(command, ours.address)
    assert status in (Status.OK, Status.FAILURE, Status.CONFIGURATION, Status.NO_RECEIVER)
    assert "defect" not in text
    assert "internal error" not in text
    assert not [char for char in text.replace("\n", "") if is_command(char, command[-1] == "json")]
    if answer is GOOD:
        assert status == Status.OK
    if answer is PID:
        assert "the receiver at" in text
        assert "sent a malformed STATUS" in text


@pytest.mark.parametrize("field", [*DOCUMENT])
def test_document_without_a_field_is_one_error(ours: FalseReceiver, field: str) -> None:
    """The error says which field it is, and who sent it."""
    ours.give(encode_status(encoded(changed(DOCUMENT, (field,), ...))))
    with pytest.raises(mpsr.RemoteProtocolError, match=f"^the receiver at .* sent .*`{field}`"):
        observe.status(ours.address, timeout=PATIENCE)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_receiver_of_another_user_is_not_observed(command: tuple[str, ...]) -> None:
    """Unless it is named; the rule is that of producers."""
    with false_receiver(OTHER) as theirs:
        with pytest.raises(mpsr.WrongReceiver, match=f"cannot observe .*uid {OTHER}"):
            observe.status(theirs.address, timeout=PATIENCE)
        status, text = output_of(command, theirs.address)
        assert status == Status.DENIED
        assert f"uid {OTHER}" in text
        theirs.give(GOOD)
        assert output_of((*command, "--receiver-uid", str(OTHER)), theirs.address)[0] == Status.OK
