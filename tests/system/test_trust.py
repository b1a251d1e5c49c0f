"""A producer sends to nobody who could have taken the name of its receiver."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import anyio
import pytest

import mpsr
from mpsr import observe
from mpsr.sinks.table import sink
from mpsr.system.address import parse_address
from mpsr.system.endpoint import check_receiver, reach
from mpsr.system.trust import Step, steps_to, trusted, trusted_by_path
from tests.process.programs import begin, run
from tests.users import let_others_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ME, ROOT, OWNER, STRANGER = 1000, 0, 2000, 3000
CLOSED, STICKY, OPEN, GROUP = 0o755, 0o1777, 0o777, 0o775


def directory(uid: int, mode: int) -> Step:
    return Step(uid, stat.S_IFDIR | mode)


@pytest.mark.parametrize(
    ("steps", "trusted"),
    [
        ([(ROOT, CLOSED), (ROOT, CLOSED)], {ROOT, ME}),
        ([(ROOT, CLOSED), (OWNER, CLOSED)], {ROOT, ME, OWNER}),  # /run/app
        ([(ROOT, CLOSED), (ME, CLOSED)], {ROOT, ME}),
        ([(ROOT, CLOSED), (OWNER, GROUP)], {ROOT, ME}),
        ([(ROOT, CLOSED), (OWNER, OPEN)], {ROOT, ME}),
        ([(ROOT, CLOSED), (ROOT, STICKY)], {ROOT, ME}),  # /tmp
        ([(ROOT, CLOSED), (ROOT, STICKY), (STRANGER, CLOSED)], {ROOT, ME}),
        ([(ROOT, CLOSED), (ROOT, STICKY), (ME, CLOSED)], {ROOT, ME}),
        ([(ROOT, CLOSED), (ROOT, STICKY), (ROOT, CLOSED), (OWNER, CLOSED)], {ROOT, ME, OWNER}),
        ([(ROOT, OPEN), (ME, CLOSED)], {ROOT, ME}),
        ([(ROOT, OPEN), (OWNER, CLOSED)], {ROOT, ME}),
    ],
)
def test_trusted_are_those_who_alone_could_put_a_socket_there(
    steps: list[tuple[int, int]], trusted: set[int]
) -> None:
    assert trusted_by_path([directory(*step) for step in steps], ME) == trusted


def test_symbolic_link_counts_where_it_stands_and_where_it_leads(tmp_path: Path) -> None:
    """Whoever owns the link, or a directory on either way, could lead elsewhere."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    os.chown(tmp_path / "link", STRANGER, -1, follow_symlinks=False)
    os.chown(tmp_path / "real", OWNER, -1)
    uids = [
        step.uid
        for step in steps_to(str(tmp_path / "link" / "nothing.sock")[: -len("/nothing.sock")])
    ]
    assert uids[-3:] == [STRANGER, OWNER, os.geteuid()]


# -- real receivers of other users ---------------------------------------------------------------

IMPOSTOR = """
import os, socket, sys

kind = socket.SOCK_STREAM if sys.argv[2] == "stream" else socket.SOCK_DGRAM
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[3]))
os.umask(0)
with socket.socket(socket.AF_UNIX, kind) as sock:
    name = sys.argv[1]
    sock.bind("\\0" + name[1:] if name.startswith("@") else name)
    if kind == socket.SOCK_STREAM:
        sock.listen()
    print("ready", flush=True)
    sock.settimeout(30)
    if kind == socket.SOCK_STREAM:
        sock, _ = sock.accept()
    try:
        print(sock.recv(1000))
    except OSError as error:
        print(error)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")


@pytest.fixture
def impostor() -> Iterator[Callable[..., Any]]:
    """Give a function that has another user receive at an address."""
    processes = []

    def start(address: str, kind: str = "stream", uid: int = STRANGER) -> Any:
        process = begin(IMPOSTOR, address, kind, str(uid))
        processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(params=["world-writable directory", "abstract name"])
def taken(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an address that a stranger can take."""
    if request.param == "abstract name":
        return f"@mpsr-test-{os.getpid()}-{os.urandom(4).hex()}"
    let_others_in(tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    return str(tmp_path / "open" / "test.sock")


@needs_root
def test_stranger_who_took_the_name_first_gets_nothing(
    impostor: Callable[..., Any], taken: str
) -> None:
    """Sending, flushing and closing say at once who receives there, and why that is wrong."""
    thief = impostor(taken)
    producer: mpsr.Producer = mpsr.Producer(taken)
    with pytest.raises(mpsr.WrongReceiver) as caught:
        producer.flush(10)
        producer.send(b"secret")
        producer.flush(10)
    assert (caught.value.uid, caught.value.pid) == (STRANGER, thief.pid)
    assert f"uid {STRANGER} (process {thief.pid}) receives there" in str(caught.value)
    assert f"receiver_uid={STRANGER} or set MPSR_RECEIVER_UID={STRANGER}" in str(caught.value)
    with suppress(mpsr.Undelivered):
        producer.close(10)
    output, _ = thief.communicate(timeout=10)
    assert output == "b''\n"


@needs_root
def test_stranger_gets_nothing_from_tasks_either(impostor: Callable[..., Any], taken: str) -> None:
    impostor(taken)

    async def main() -> None:
        async with mpsr.AsyncProducer[bytes](taken) as producer:
            with pytest.raises(mpsr.WrongReceiver):
                while True:
                    await producer.send(b"secret")
                    await producer.flush(10)

    with suppress(mpsr.Undelivered):
        anyio.run(main)


@needs_root
@pytest.mark.parametrize("receiver_uid", [STRANGER, {1, STRANGER}, "any"])
def test_named_user_may_receive(
    impostor: Callable[..., Any], taken: str, receiver_uid: Any
) -> None:
    friend = impostor(taken)
    with mpsr.Producer[bytes](taken, framing="lines", receiver_uid=receiver_uid) as producer:
        producer.send(b"hello")
        producer.flush(10)
    output, _ = friend.communicate(timeout=10)
    assert output.startswith("b'hello")


@needs_root
def test_owner_of_a_directory_that_nobody_else_writes_may_receive(
    impostor: Callable[..., Any], tmp_path: Path
) -> None:
    """As a web server's user sends to an application at /run/app."""
    home = tmp_path / "app"
    home.mkdir()
    os.chown(home, STRANGER, STRANGER)
    home.chmod(0o755)
    let_others_in(tmp_path)
    address = str(home / "app.sock")
    friend = impostor(address)
    with mpsr.Producer[bytes](address, framing="lines") as producer:
        producer.send(b"hello")
    output, _ = friend.communicate(timeout=10)
    assert output.startswith("b'hello")


@needs_root
def test_datagrams_go_to_no_stranger(impostor: Callable[..., Any], taken: str) -> None:
    """The kernel does not tell who receives them: the owner of the socket's file stands for it."""
    impostor(taken, "dgram")
    producer: mpsr.Producer = mpsr.Producer(taken, type="dgram")
    with pytest.raises(mpsr.WrongReceiver):
        producer.send(b"secret")
        producer.flush(10)
    with suppress(mpsr.Undelivered):  # it may have refused the message
        producer.close(0)


EXCHANGER = """
import ctypes, os, socket, sys

os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
os.umask(0)
taken, other = (path.encode() for path in (sys.argv[1], sys.argv[1] + ".link"))
library = ctypes.CDLL(None)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.bind(taken)
    sock.setblocking(False)
    os.symlink("/etc/passwd", other)
    print("ready", flush=True)
    while os.path.exists(sys.argv[3]):
        library.renameat2(-100, taken, -100, other, 2)
        try:
            print("got", sock.recv(100), flush=True)
        except BlockingIOError:
            pass
"""


@needs_root
def test_datagrams_go_to_no_stranger_who_exchanges_the_path(tmp_path: Path) -> None:
    """The owner who is looked up is that of the very file that is sent to."""
    let_others_in(tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    taken, goes_on = tmp_path / "open" / "test.sock", tmp_path / "goes on"
    goes_on.touch()
    with begin(EXCHANGER, str(taken), str(STRANGER), str(goes_on)) as thief:
        assert thief.stdout
        assert thief.stdout.readline() == "ready\n"
        for _ in range(100):
            producer: mpsr.Producer = mpsr.Producer(taken, type="dgram", exit_timeout=0)
            with suppress(mpsr.MpsrError):
                producer.send(b"secret")
                producer.flush(0.02)
            with suppress(mpsr.MpsrError):
                producer.close(0)
        goes_on.unlink()
        out, _ = thief.communicate()
    assert out == ""


# -- as containers of one pod: each a user of its own, and a directory that all may write to ----

AS_USER = """
import contextlib, io, os, sys

import mpsr, mpsr.logging
from mpsr.cli.entry import run

# This imports, as root, what another user may not be able to read.
name = f"@mpsr-test-{os.getpid()}"
with mpsr.Receiver(name) as receiver, mpsr.Producer(name) as producer:
    producer.send(b"hello")
    next(receiver)
    receiver.acknowledge()
with contextlib.redirect_stderr(io.StringIO()):
    run(["send", name, "hello"])
    run(["status", name])
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
"""
RECEIVING = (
    AS_USER
    + """
with mpsr.Receiver(sys.argv[2], mode=0o666) as receiver:
    print("ready", flush=True)
    for message in receiver:
        receiver.acknowledge()
"""
)
SENDING = AS_USER + "sys.exit(run(sys.argv[2:]))"
LOGGING = (
    AS_USER
    + """
import logging

logging.getLogger().addHandler(mpsr.logging.Handler(sys.argv[2], timeout=10))
for number in range(1000):
    logging.error("%d", number)
"""
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a receiver that runs as another user in a directory like an emptyDir."""
    directory = tmp_path_factory.mktemp("shared")
    let_others_in(directory)
    directory.chmod(0o777)
    address = str(directory / "app.sock")
    with begin(RECEIVING, str(OWNER), address) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield address
        process.kill()


@needs_root
def test_error_of_a_shared_directory_names_it_and_the_remedies(shared: str) -> None:
    """In the command's own words: an option, and a variable for all programs."""
    for arguments in (["send", shared, "hello"], ["status", shared]):
        outcome = run(SENDING, str(STRANGER), *arguments)
        assert outcome.status == 77
        what, why, advice = outcome.complaint.splitlines()[:3]
        assert what.endswith(f" {shared}")
        assert f"uid {OWNER}" in why
        assert f"other users can write to {os.path.dirname(shared)}," in why
        assert f"--receiver-uid {OWNER} or set MPSR_RECEIVER_UID={OWNER};" in advice
        assert "receiver_uid=" not in outcome.complaint


@needs_root
@pytest.mark.parametrize("value", [str(OWNER), f" 1 {OWNER}", "any"])
def test_users_of_the_variable_may_receive(
    shared: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the command, a program and its log alike, and in addition to the default."""
    monkeypatch.setenv("MPSR_RECEIVER_UID", value)
    assert run(SENDING, str(STRANGER), "send", shared, "hello").status == 0
    outcome = run(LOGGING, str(STRANGER), shared)
    assert (outcome.status, outcome.complaint) == (0, "")


@needs_root
def test_sink_sends_to_the_user_that_its_option_names(shared: str) -> None:
    refused = sink(f"mpsr:{shared}").make()
    with pytest.raises(mpsr.SinkError, match=f"receiver_uid={OWNER} or set MPSR_RECEIVER_UID"):
        refused.open("")
    refused.close()
    accepted = sink(f"mpsr:{shared}?receiver_uid={OWNER}").make()
    accepted.open("")
    accepted.close()
    with pytest.raises(mpsr.ConfigurationError, match="neither a user id nor any"):
        sink(f"mpsr:{shared}?receiver_uid=app").make()


@needs_root
def test_variable_does_not_replace_the_default_or_an_argument(
    impostor: Callable[..., Any], taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPSR_RECEIVER_UID", str(STRANGER))
    with mpsr.Receiver(taken) as receiver, mpsr.Producer[bytes](taken) as producer:
        producer.send(b"hello")
        assert receiver.receive(10) == b"hello"
        receiver.acknowledge()
    impostor(taken)
    strict: mpsr.Producer = mpsr.Producer(taken, receiver_uid=OWNER)
    with pytest.raises(mpsr.WrongReceiver, match="receiver_uid= does not name that user"):
        strict.flush(10)
        strict.send(b"secret")
        strict.flush(10)
    with suppress(mpsr.Undelivered):
        strict.close(0)


@pytest.mark.parametrize("value", ["app", "-1", "1,2", "any 1"])
def test_variable_with_another_value_is_an_error(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPSR_RECEIVER_UID", value)
    with pytest.raises(mpsr.ConfigurationError, match="variable MPSR_RECEIVER_UID"):
        mpsr.Producer("@nowhere")
    with pytest.raises(mpsr.ConfigurationError, match="variable MPSR_RECEIVER_UID"):
        observe.status("@nowhere")


@needs_root
def test_log_that_another_user_would_receive_ends_with_a_count(shared: str) -> None:
    """Whether the producer has noticed during the calls or not; the status is the program's."""
    outcome = run(LOGGING, str(STRANGER), shared)
    assert outcome.status == 0
    last = outcome.complaint.splitlines()[-1]
    assert last.startswith(f"mpsr: 1000 log records to {shared} not delivered: ")
    assert f"receiver_uid={OWNER} or set MPSR_RECEIVER_UID={OWNER};" in last


def test_own_receiver_is_found_in_a_directory_that_everybody_writes(taken: str) -> None:
    with mpsr.Receiver(taken) as receiver, mpsr.Producer[bytes](taken) as producer:
        producer.send(b"hello")
        assert receiver.receive(10) == b"hello"
        receiver.acknowledge()


@pytest.mark.parametrize("receiver_uid", [None, ME])
def test_path_that_is_removed_before_the_check_has_no_receiver(
    tmp_path: Path, receiver_uid: int | None
) -> None:
    """A producer tries again later; it does not take the receiver for a wrong one."""
    directory = tmp_path / "removed"
    directory.mkdir()
    kind: Literal["dgram"] = "dgram"  # its check looks at the path in any case
    address = parse_address(directory / "test.sock")
    with mpsr.Receiver[bytes](address.value, type=kind):
        sock = reach(address, type=kind)
    with sock:
        shutil.rmtree(directory)
        with pytest.raises(mpsr.NoReceiver, match="nothing is there"):
            check_receiver(address, sock, trusted(receiver_uid))


def test_descriptor_is_the_callers_word_unless_a_user_is_named() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        address = f"fd:{ours.fileno()}"
        with mpsr.Producer[bytes](address, framing="lines") as producer:
            producer.send(b"hello")
        assert theirs.recv(100) == b"hello\n"
        wrong: mpsr.Producer = mpsr.Producer(address, framing="lines", receiver_uid=STRANGER)
        with pytest.raises(mpsr.WrongReceiver):
            wrong.send(b"secret")
            wrong.flush(10)
        with pytest.raises(mpsr.Undelivered):
            wrong.close(0)
