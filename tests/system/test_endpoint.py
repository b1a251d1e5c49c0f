"""What claiming and reaching an address promises."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from ast import literal_eval
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from mpsr.batch import UNKNOWN_PEER, Peer
from mpsr.errors import (
    AddressDenied,
    AddressError,
    AddressInUse,
    AddressOccupied,
    ConfigurationError,
    InvalidAddress,
    NoReceiver,
    ReceiverBusy,
    WrongSocketType,
)
from mpsr.system import address as addresses
from mpsr.system import endpoint, path_claim, sockets
from mpsr.system.address import Address, SocketType, parse_address
from mpsr.system.claims import Claim
from mpsr.system.endpoint import claim, reach
from mpsr.system.sockets import peer_of

NOBODY = 65534
LINUX = sys.platform == "linux"
on_linux = pytest.mark.skipif(not LINUX, reason="only Linux has this")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to act as another user")
both_types = pytest.mark.parametrize("kind", ["stream", "dgram", "seqpacket"])

WORKER = """
import os, socket, sys
from mpsr.system.address import parse_address
from mpsr.system.endpoint import claim, reach
from mpsr.errors import AddressError
held = []

def take(path, **options):
    held.append(claim(parse_address(path), **options))
    return "won"

def drop(how):
    getattr(held.pop(), how)()

def listen(path, mode):
    sock = socket.socket(socket.AF_UNIX)
    held.append(sock)
    sock.bind(path)
    os.chmod(path, mode)
    sock.listen()

def fork(how, hold):
    done, told = os.pipe()
    if os.fork() == 0:
        if how:
            drop(how)
        os.close(told)
        os.read(hold, 1)
        os._exit(0)
    os.close(told)
    os.read(done, 1)

def become(uid):
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)

for line in sys.stdin:
    try:
        result = eval(line)
    except AddressError as error:
        result = (type(error).__name__, error.pid, str(error))
    print(repr(result), flush=True)
"""


class Worker:
    """Another process, which evaluates what it is told."""

    def __init__(self, *, hold: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pass_fds=() if hold is None else (hold,),
        )
        self.pid = self.process.pid

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout
        return literal_eval(self.process.stdout.readline())

    def ask(self, line: str) -> Any:
        self.tell(line)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def signature() -> str:
    """Return what a lock file holds whose owner is this process."""
    return f"{os.getpid()}\n{os.stat('/proc/self/ns/pid').st_ino}\n"


@pytest.fixture
def home() -> Iterator[str]:
    """Make a directory with a short path, whatever the name of the test."""
    path = tempfile.mkdtemp(prefix="m", dir="/tmp")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def path(home: str) -> str:
    return f"{home}/s"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    with worker.process:
        yield worker
        worker.kill()


@contextlib.contextmanager
def claimed(text: str, **options: Any) -> Iterator[Claim]:
    with contextlib.closing(claim(parse_address(text), **options)) as it:
        yield it


@contextlib.contextmanager
def foreign(path: str, kind: int, *, backlog: int | None = 8) -> Iterator[socket.socket]:
    """Bind a socket as a program does that knows no lock."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(path)
        if backlog is not None and kind != socket.SOCK_DGRAM:
            sock.listen(backlog)
        yield sock


def snapshot(path: str) -> tuple[object, ...]:
    """Take what must not change when something is refused."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def refused(error: type[AddressError], text: str, **options: Any) -> AddressError:
    with pytest.raises(error) as caught:
        claim(parse_address(text), **options)
    assert caught.value.address == text
    return caught.value


def unreached(error: type[AddressError], text: str, **options: Any) -> AddressError:
    with pytest.raises(error) as caught:
        reach(parse_address(text), **options)
    assert caught.value.address == text
    return caught.value


# -- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "typed"),
    [
        ("/run/a.sock", Address("path", "/run/a.sock"), "/run/a.sock"),
        ("a.sock", Address("path", "a.sock"), "a.sock"),
        ("unix:a.sock", Address("path", "a.sock"), "a.sock"),
        ("unix:unix:/a", Address("path", "/a"), "/a"),
        (Path("/run/a.sock"), Address("path", "/run/a.sock"), "/run/a.sock"),
        ("./@a", Address("path", "./@a"), "./@a"),
        ("/run/\udcff", Address("path", "/run/\udcff"), "/run/\udcff"),
        ("fd:3", Address("fd", "3"), "fd:3"),
        ("fd:0", Address("fd", "0"), "fd:0"),
        ("unix:fd:007", Address("fd", "7"), "fd:7"),
        pytest.param("@a b", Address("abstract", "a b"), "@a b", marks=on_linux),
        pytest.param("unix:@a", Address("abstract", "a"), "@a", marks=on_linux),
        pytest.param(
            "@" + "a" * 107, Address("abstract", "a" * 107), "@" + "a" * 107, marks=on_linux
        ),
    ],
)
def test_address_is_read_and_written_as_people_type_it(
    text: str | Path, address: Address, typed: str
) -> None:
    """An address is read from any accepted spelling and written in the plain one."""
    assert parse_address(text) == address
    assert str(address) == typed
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it is empty; pass a path"),
        ("unix:", "it is empty; pass a path"),
        ("localhost:8080", "an address of a network"),
        ("[::1]:80", "an address of a network"),
        (":514", "an address of a network"),
        ("tcp://10.0.0.1:80", "an address of a network"),
        ("unix:http://host/", "an address of a network"),
        ("/run/", "it names a directory; add the name of a socket"),
        ("/", "it names a directory; add the name of a socket"),
        ("/run/..", "it names a directory; add the name of a socket"),
        (".", "it names a directory; add the name of a socket"),
        ("/run/\0a", "a path holds no NUL"),
        ("fd:", "write it like fd:3"),
        ("fd:x", "write it like fd:3"),
        ("fd:-1", "write it like fd:3"),
        ("fd:³", "write it like fd:3"),
        ("fd:2147483648", "write it like fd:3"),
        ("fd:" + "9" * 5000, "write it like fd:3"),
        ("@", "1 to 107 bytes" if LINUX else "only Linux"),
        ("@a\0b", "no NUL" if LINUX else "only Linux"),
        ("@" + "a" * 108, "1 to 107 bytes" if LINUX else "only Linux"),
        ("@" + "é" * 54, "1 to 107 bytes" if LINUX else "only Linux"),
    ],
)
def test_unusable_address_is_refused_with_advice(text: str, complaint: str) -> None:
    """Text that is no address raises InvalidAddress, which says why and what to do."""
    with pytest.raises(InvalidAddress) as caught:
        parse_address(text)
    assert str(caught.value).startswith(f"{text!r} is no usable address: ")
    assert complaint in str(caught.value)
    assert caught.value.address == text


def test_abstract_name_is_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux an abstract name is refused in plain words."""
    monkeypatch.setattr(addresses, "LINUX", False)
    with pytest.raises(InvalidAddress, match="only Linux has abstract names; pass a path"):
        parse_address("@name")


# -- arguments --------------------------------------------------------------------------------


def test_unknown_type_is_refused(path: str) -> None:
    """A type that is not supported raises ConfigurationError on both ends."""
    kind: Any = "raw"
    with pytest.raises(ConfigurationError, match="type='raw' is none of stream, dgram, seqpacket"):
        claim(parse_address(path), type=kind)
    with pytest.raises(ConfigurationError, match="type='raw' is none of stream, dgram, seqpacket"):
        reach(parse_address(path), type=kind)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mode": 0o1600}, "mode=0o1600 is no set of permissions; pass one like 0o660"),
        ({"mode": -1}, "is no set of permissions"),
        ({"group": 0}, "mode=0o600 forbids the group to connect; pass mode=0o660"),
        ({"group": "no-such-group", "mode": 0o660}, "group='no-such-group' does not exist"),
        ({"group": "a\0b", "mode": 0o660}, "does not exist"),
        ({"group": -1, "mode": 0o660}, "group=-1 is no group id"),
        ({"group": str(2**32), "mode": 0o660}, "group='4294967296' is no group id"),
    ],
)
def test_senseless_permissions_are_refused_before_anything_is_made(
    home: str, path: str, options: dict[str, Any], complaint: str
) -> None:
    """A mode or group that makes no sense raises ConfigurationError and leaves no trace."""
    with pytest.raises(ConfigurationError) as caught:
        claim(parse_address(path), **options)
    assert complaint in str(caught.value)
    assert os.listdir(home) == []


@pytest.mark.parametrize("text", [pytest.param("@mpsr-none", marks=on_linux), "fd:0"])
@pytest.mark.parametrize("options", [{"mode": 0o660}, {"group": 0}])
def test_permissions_are_refused_for_what_is_no_file(text: str, options: dict[str, Any]) -> None:
    """An abstract name or a descriptor takes no mode and no group."""
    with pytest.raises(ConfigurationError) as caught:
        claim(parse_address(text), **options)
    assert str(caught.value) == (
        f"{text} is no file and has no permissions; leave out mode= and group=, or claim a path"
    )


# -- a free path ------------------------------------------------------------------------------


def test_stream_claim_accepts_connections(path: str) -> None:
    """A claimed stream socket listens, never blocks, and is not inherited by programs."""
    with claimed(path) as it, reach(parse_address(path)) as sock:
        assert it.address == Address("path", path)
        assert it.socket.getsockname() == path
        assert not it.socket.getblocking()
        assert not os.get_inheritable(it.socket.fileno())
        connection, _ = it.socket.accept()
        with connection:
            assert not sock.getblocking()
            sock.sendall(b"hello")
            assert connection.recv(9) == b"hello"


def test_datagram_claim_receives_with_the_sender(path: str) -> None:
    """A claimed datagram socket tells from the first datagram on who sent it."""
    with claimed(path, type="dgram") as it, reach(parse_address(path), type="dgram") as sock:
        sock.send(b"hello")
        body, ancillary, _, _ = it.socket.recvmsg(9, socket.CMSG_SPACE(12))
        assert body == b"hello"
        if LINUX:
            assert [item[2] for item in ancillary] == [
                struct.pack("iII", os.getpid(), os.getuid(), os.getgid())
            ]


def test_backlog_is_honoured(path: str) -> None:
    """The backlog given to claim is the one that the kernel keeps."""
    address = parse_address(path)
    with claimed(path, backlog=0), reach(address):
        assert str(unreached(ReceiverBusy, path)) == (
            f"cannot reach {path}: somebody listens there, but the backlog is full; try again"
        )


@both_types
def test_close_leaves_only_the_lock(home: str, path: str, kind: SocketType) -> None:
    """After close the path is gone, the lock file is empty, and a second close does nothing."""
    it = claim(parse_address(path), type=kind)
    assert Path(f"{path}.lock").read_text() == signature()
    assert mode_of(f"{path}.lock") & 0o077 == 0
    it.close()
    it.close()
    it.abandon()
    assert it.socket.fileno() == -1
    assert os.listdir(home) == ["s.lock"]
    assert Path(f"{path}.lock").read_text() == ""


def test_descriptors_are_all_closed(path: str) -> None:
    """Claiming, being refused, reaching and closing leave no descriptor open."""
    before = set(os.listdir("/dev/fd"))
    with claimed(path):
        refused(AddressInUse, path)
        reach(parse_address(path)).close()
        unreached(WrongSocketType, path, type="dgram")
    refused(InvalidAddress, f"{path}{'x' * 120}")
    assert set(os.listdir("/dev/fd")) <= before


def test_close_works_after_chdir(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is removed from where it was claimed, wherever the process is by then."""
    monkeypatch.chdir(home)
    with claimed("s") as it:
        assert it.socket.getsockname() == f"{os.getcwd()}/s"
        monkeypatch.chdir("/")
    assert os.listdir(home) == ["s.lock"]


@pytest.mark.needs("systemd-tmpfiles")
def test_cleaning_by_age_spares_a_socket_claimed_by_a_relative_path(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    Path("old").touch()
    with claimed("s"):
        text = f"d {home} - - - 0\n"  # 0: whatever its age
        command = ["systemd-tmpfiles", "--clean", "-"]
        subprocess.run(command, input=text, text=True, check=True, timeout=30)
        assert not os.path.exists("old")
        reach(parse_address("s")).close()


def test_close_works_after_the_directory_was_renamed(home: str) -> None:
    """The socket is removed even where its directory has another name by then."""
    os.mkdir(f"{home}/old")
    with claimed(f"{home}/old/s"):
        os.rename(f"{home}/old", f"{home}/new")
    assert os.listdir(f"{home}/new") == ["s.lock"]


def test_close_works_after_the_directory_was_removed(home: str) -> None:
    """Close does not fail where there is nothing left to remove."""
    os.mkdir(f"{home}/old")
    with claimed(f"{home}/old/s"):
        shutil.rmtree(f"{home}/old")


def test_close_does_not_unlink_a_replaced_path(path: str) -> None:
    """What somebody else put at the path is left alone when we close."""
    with claimed(path):
        os.unlink(path)
        with foreign(path, socket.SOCK_STREAM):
            pass
        before = snapshot(path)
    assert snapshot(path) == before


# -- permissions ------------------------------------------------------------------------------


@both_types
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o622])
def test_mode_is_what_was_asked_for(
    path: str, umask: Callable[[int], int], mode: int, mask: int, kind: SocketType
) -> None:
    """The socket has its mode when claim returns, under any umask."""
    umask(mask)
    with claimed(path, type=kind, mode=mode):
        assert mode_of(path) == mode


def test_default_mode_is_private(path: str, umask: Callable[[int], int]) -> None:
    """Without mode= only the same user can connect."""
    umask(0)
    with claimed(path):
        assert mode_of(path) == 0o600


@on_linux
def test_mode_is_never_too_wide(
    path: str, umask: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is born with its mode; nothing has to be taken away afterwards."""
    umask(0)
    monkeypatch.setattr(os, "chmod", None)
    with claimed(path, mode=0o640):
        assert mode_of(path) == 0o640


@on_linux
@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_wrong_group_can_never_connect(
    path: str, umask: Callable[[int], int], monkeypatch: pytest.MonkeyPatch, mask: int
) -> None:
    """Until the socket has its group, no group may connect."""
    modes, chown = [], os.chown

    def watched(*args: Any, **options: Any) -> None:
        modes.append(mode_of(path))
        chown(*args, **options)

    umask(mask)
    monkeypatch.setattr(os, "chown", watched)
    with claimed(path, mode=0o666, group=os.getgid()):
        assert modes == [0o600]
        assert mode_of(path) == 0o666


def test_group_is_taken_by_name_or_number(path: str) -> None:
    """A group is named, or numbered as a number or as text."""
    name = grp.getgrgid(os.getgid()).gr_name
    for group in (name, os.getgid(), str(os.getgid())):
        with claimed(path, mode=0o660, group=group):
            assert os.lstat(path).st_gid == os.getgid()
            assert mode_of(path) == 0o660


@as_root
def test_group_is_set(path: str) -> None:
    """The socket belongs to the group that was asked for."""
    with claimed(path, mode=0o660, group=NOBODY):
        assert os.lstat(path).st_gid == NOBODY
        assert os.lstat(path).st_uid == os.geteuid()


@as_root
def test_forbidden_group_leaves_nothing_bound(home: str, path: str, worker: Worker) -> None:
    """A group that the process may not give to raises AddressDenied, and the path is free."""
    os.chown(home, NOBODY, NOBODY)
    worker.ask(f"become({NOBODY})")
    error, _, text = worker.ask(f"take({path!r}, mode=0o660, group=0)")
    assert error == "AddressDenied"
    assert f"cannot claim {path}: its permissions (mode 0660, group 0) cannot be set" in text
    assert os.listdir(home) == []
    assert worker.ask(f"take({path!r})") == "won"


def test_failure_after_bind_leaves_nothing_bound(
    home: str, path: str, umask: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails after bind, the path is removed and the lock released."""

    def failing(*_args: object, **_options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    umask(0o077)
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", failing)
        assert str(refused(AddressError, path, mode=0o660)) == (
            f"cannot claim {path}: its permissions (mode 0660, group as it is) cannot be set: "
            "Input/output error; its file system fails, or has no sockets or locks; choose a path "
            "in /run, or an abstract @name"
        )
    assert os.listdir(home) == []
    with claimed(path, mode=0o660):
        pass


def test_permissions_are_never_set_on_what_took_our_place(
    path: str, umask: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that somebody puts in the socket's place keeps its mode, and is not removed."""
    opened = os.open

    def swapping(name: str, flags: int, *args: Any, **options: Any) -> int:
        if name == "s":
            os.unlink(path)
            Path(path).touch(0o600)
        return opened(name, flags, *args, **options)

    umask(0o077)
    monkeypatch.setattr(os, "open", swapping)
    error = refused(AddressOccupied, path, mode=0o666)
    assert "something has taken our socket's place" in str(error)
    assert stat.S_ISREG(os.lstat(path).st_mode)
    assert mode_of(path) == 0o600


def test_vanished_socket_is_not_taken_for_a_claim(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that is gone as soon as it was bound makes the claim fail."""
    lstat = path_claim.PathClaim._lstat

    def vanishing(self: Any, name: str) -> os.stat_result | None:
        if name == "s" and os.path.exists(path):
            os.unlink(path)
        return lstat(self, name)

    monkeypatch.setattr(path_claim.PathClaim, "_lstat", vanishing)
    assert "something has taken our socket away" in str(refused(AddressOccupied, path))


def test_claim_works_where_sockets_have_no_mode_of_their_own(
    path: str, umask: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other systems than Linux a path is claimed all the same."""
    umask(0o177)  # a file born with 0600 needs nothing more
    monkeypatch.setattr(addresses, "LINUX", False)
    with claimed(path, type="dgram"):
        assert mode_of(path) == 0o600


# -- a path that is taken ---------------------------------------------------------------------


@both_types
def test_live_receiver_is_refused_with_its_pid(path: str, worker: Worker, kind: str) -> None:
    """A second receiver learns which process has the path, and changes nothing."""
    assert worker.ask(f"take({path!r}, type={kind!r})") == "won"
    before = snapshot(path)
    error = refused(AddressInUse, path)
    assert error.pid == worker.pid
    assert str(error) == (
        f"cannot claim {path}: process {worker.pid} is receiving there; "
        "stop it or choose another address"
    )
    assert snapshot(path) == before
    socket_type: Any = kind
    reach(parse_address(path), type=socket_type).close()


def test_own_receiver_is_refused_as_such(path: str) -> None:
    """A process that claims a path twice is told that it has it itself."""
    with claimed(path):
        error = refused(AddressInUse, path)
        assert error.pid == os.getpid()
        assert "this very process is receiving there" in str(error)


@both_types
def test_stale_socket_of_a_killed_owner_is_taken_again(
    path: str, worker: Worker, kind: SocketType
) -> None:
    """After kill -9 the next receiver has the path at once."""
    assert worker.ask(f"take({path!r}, type={kind!r})") == "won"
    worker.kill()
    before = snapshot(path)
    with claimed(path, type=kind):
        assert snapshot(path) != before
        reach(parse_address(path), type=kind).close()


@pytest.mark.parametrize(
    "kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, *[socket.SOCK_SEQPACKET] * LINUX]
)
def test_stale_socket_of_any_program_and_type_is_taken(path: str, kind: int) -> None:
    """A socket of ours that nobody holds is removed, whoever left it."""
    with foreign(path, kind):
        pass
    with claimed(path):
        reach(parse_address(path)).close()


@pytest.mark.parametrize(
    ("kind", "pid_is_known"),
    [
        (socket.SOCK_STREAM, True),
        (socket.SOCK_DGRAM, False),
        *[(socket.SOCK_SEQPACKET, True)] * LINUX,
    ],
)
def test_live_foreign_socket_is_refused(path: str, kind: int, pid_is_known: bool) -> None:
    """A live socket of a program that knows no lock is left untouched."""
    with foreign(path, kind):
        before = snapshot(path)
        error = refused(AddressInUse, path)
        assert snapshot(path) == before
    if LINUX:
        assert error.pid == (os.getpid() if pid_is_known else None)


def test_live_receiver_is_refused_though_its_lock_was_removed(path: str, worker: Worker) -> None:
    """Removing the lock file does not make a live path free."""
    worker.ask(f"take({path!r})")
    os.unlink(f"{path}.lock")
    before = snapshot(path)
    error = refused(AddressInUse, path)
    assert snapshot(path) == before
    if LINUX:
        assert error.pid == worker.pid


def test_socket_that_does_not_listen_yet_is_refused(path: str) -> None:
    """A program between its bind and its listen is not robbed."""
    with foreign(path, socket.SOCK_STREAM, backlog=None):
        before = snapshot(path)
        refused(AddressInUse, path)
        assert snapshot(path) == before


def test_busy_foreign_listener_is_refused(path: str) -> None:
    """A listener whose backlog is full is alive."""
    with foreign(path, socket.SOCK_STREAM, backlog=0), reach(parse_address(path)):
        before = snapshot(path)
        error = refused(AddressInUse, path)
        assert snapshot(path) == before
    assert error.pid is None
    assert "another process is receiving there" in str(error)


@on_linux
def test_datagram_socket_with_a_peer_of_its_own_is_refused(home: str, path: str) -> None:
    """A datagram socket that talks to one peer only is alive though it refuses us."""
    with (
        foreign(f"{home}/peer", socket.SOCK_DGRAM),
        foreign(path, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(f"{home}/peer")
        refused(AddressInUse, path)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda path: Path(path).write_text("data"), "a regular file"),
        (os.mkdir, "a directory"),
        (os.mkfifo, "a fifo"),
        (lambda path: os.symlink("/dev/null", path), "a symbolic link"),
        (lambda path: os.symlink(f"{path}-nothing", path), "a symbolic link"),
        pytest.param(
            lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
            "a device",
            marks=as_root,
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".lock"])
def test_what_is_no_socket_is_refused(
    home: str, path: str, make: Callable[[str], object], shown: str, suffix: str
) -> None:
    """Anything but a socket at the path, or but a lock at its lock's, is named and untouched."""
    make(path + suffix)
    before = snapshot(path + suffix)
    error = refused(AddressOccupied, path)
    what = f"its lock {path}.lock" if suffix else "what is there"
    if suffix and shown == "a regular file":
        shown = "no lock file of a receiver"
    assert str(error) == (
        f"cannot claim {path}: {what} is {shown}; "
        "choose another path, or remove it if nobody needs it"
    )
    assert snapshot(path + suffix) == before
    assert os.listdir(home) == [f"s{suffix}"]


def test_refusal_of_a_live_foreign_socket_leaves_no_lock(home: str, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        refused(AddressInUse, path)
        assert os.listdir(home) == ["s"]


def test_refusal_leaves_the_lock_of_somebody_else(home: str, path: str) -> None:
    with claimed(path):
        refused(AddressInUse, path)
        assert set(os.listdir(home)) == {"s", "s.lock"}


def test_lock_that_its_owner_removed_meanwhile_is_made_anew(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    removed: list[str] = []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if not removed:
            removed.append(path)
            os.unlink(f"{path}.lock")

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(path):
        assert os.path.exists(f"{path}.lock")
        refused(AddressInUse, path)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.EIO])
def test_file_system_without_locks_is_explained(
    home: str, path: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(_descriptor: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert "choose a path in /run, or an abstract @name" in str(refused(InvalidAddress, path))
    assert os.listdir(home) == []


def test_socket_at_the_lock_is_refused(path: str) -> None:
    """A socket in the lock's place is named, and untouched."""
    with foreign(f"{path}.lock", socket.SOCK_STREAM):
        assert "is a socket" in str(refused(AddressOccupied, path))


def test_link_to_a_live_receiver_is_refused(home: str, path: str) -> None:
    """A symbolic link is never followed, claimed or removed, live or not."""
    with claimed(f"{home}/real"):
        os.symlink("real", path)
        assert "what is there is a symbolic link" in str(refused(AddressOccupied, path))
        assert os.readlink(path) == "real"


def test_lock_with_a_second_name_is_refused(home: str, path: str) -> None:
    """A lock file that is a hard link to another file is not written to."""
    Path(f"{home}/other").write_text("123\n")
    os.link(f"{home}/other", f"{path}.lock")
    assert "is no lock file of a receiver" in str(refused(AddressOccupied, path))
    assert Path(f"{home}/other").read_text() == "123\n"


@pytest.mark.parametrize("text", ["x", "1" * 32, "12 34\n" * 9])
def test_lock_with_other_content_is_refused(path: str, text: str) -> None:
    """A file that happens to be called like the lock keeps its content."""
    Path(f"{path}.lock").write_text(text)
    refused(AddressOccupied, path)
    assert Path(f"{path}.lock").read_text() == text


@pytest.mark.parametrize("text", ["", "123\n"])
def test_lock_of_an_earlier_owner_is_taken(path: str, text: str) -> None:
    """A lock file that was left, written or not, is used again."""
    Path(f"{path}.lock").write_text(text)
    with claimed(path):
        assert Path(f"{path}.lock").read_text() == signature()


@pytest.mark.parametrize("text", ["", "4194305\n", "99999999999\n", "nonsense"])
def test_unknown_owner_of_the_lock_is_called_so(path: str, text: str) -> None:
    """Where the lock's text names no running process, none is named."""
    with claimed(path):
        Path(f"{path}.lock").write_text(text)
        error = refused(AddressInUse, path)
    assert error.pid is None
    assert "another process is receiving there" in str(error)


def test_owner_that_runs_as_another_user_is_named(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a process may not be signalled shows that it runs."""

    def forbidden(*_args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", forbidden)
    with claimed(path):
        Path(f"{path}.lock").write_text("1\n")
        assert refused(AddressInUse, path).pid == 1


def test_full_disk_does_not_prevent_a_claim(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock holds though the process id cannot be written into it."""

    def failing(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", failing)
    with claimed(path):
        assert refused(AddressInUse, path).pid is None


@pytest.mark.parametrize("gone", [False, True])
def test_stale_socket_is_rechecked_before_it_is_removed(
    path: str, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """What replaces a stale socket while it is examined is not removed."""
    with foreign(path, socket.SOCK_STREAM):
        pass

    def replacing(_target: str) -> None:
        os.rename(path, f"{path}-old")
        if not gone:
            Path(path).write_text("data")

    monkeypatch.setattr(path_claim, "who_holds", replacing)
    if gone:
        with claimed(path):
            return
    assert "what is there has just changed" in str(refused(AddressOccupied, path))
    assert Path(path).read_text() == "data"


def test_stale_socket_that_vanishes_meanwhile_is_no_obstacle(path: str) -> None:
    """A socket that its owner removes while we ask for it counts as nobody's."""
    assert sockets.who_holds(path) is None


def test_path_bound_meanwhile_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What appears between the check and the bind is left untouched."""
    monkeypatch.setattr(path_claim.PathClaim, "make_way", lambda _self: None)
    Path(path).write_text("data")
    assert "something has just appeared there" in str(refused(AddressOccupied, path))
    assert Path(path).read_text() == "data"


@as_root
@pytest.mark.parametrize("suffix", ["", ".lock"])
def test_another_users_file_is_refused_even_to_root(path: str, suffix: str) -> None:
    """A socket or lock of another user is left untouched, stale or not."""
    if suffix:
        Path(f"{path}.lock").touch()
    else:
        with foreign(path, socket.SOCK_STREAM):
            pass
    os.chown(path + suffix, NOBODY, NOBODY)
    before = snapshot(path + suffix)
    assert f"belongs to uid {NOBODY}" in str(refused(AddressOccupied, path))
    assert snapshot(path + suffix) == before


@as_root
def test_forbidden_directory_is_denied(home: str, worker: Worker) -> None:
    """A directory that may not be written to, or searched, raises AddressDenied."""
    os.chmod(home, 0o755)
    os.mkdir(f"{home}/secret", 0o700)
    worker.ask(f"become({NOBODY})")
    for path in (f"{home}/s", f"{home}/secret/s"):
        error, _, text = worker.ask(f"take({path!r})")
        assert error == "AddressDenied"
        assert text.startswith(f"cannot claim {path}: ")
        assert text.endswith("Permission denied; change the permissions or the user")


@as_root
def test_owner_is_named_across_users(home: str, path: str, worker: Worker) -> None:
    """A lock that another user holds is reported with its pid to who may read it."""
    os.chown(home, NOBODY, NOBODY)
    os.chmod(home, 0o777)
    worker.ask(f"become({NOBODY})")
    with claimed(path):
        error, _, text = worker.ask(f"take({path!r})")
        assert error == "AddressOccupied"
        assert f"its lock {path}.lock belongs to uid 0" in text


@as_root
def test_socket_that_we_may_not_ask_is_refused(home: str, path: str, worker: Worker) -> None:
    """Where nobody can tell whether a socket is in use, it is left untouched."""
    os.chown(home, NOBODY, NOBODY)
    worker.ask(f"become({NOBODY})")
    worker.ask(f"listen({path!r}, 0)")
    before = snapshot(path)
    error, _, text = worker.ask(f"take({path!r})")
    assert error == "AddressDenied"
    assert "nobody can tell whether its socket is in use: Permission denied" in text
    assert snapshot(path) == before


@pytest.mark.parametrize(
    ("number", "error", "advice"),
    [
        (errno.EROFS, AddressDenied, "choose a path on a file system that can be written"),
        (errno.EMFILE, AddressError, "close files, or see ulimit -n"),
    ],
)
def test_lock_that_cannot_be_opened_is_explained(
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[AddressError],
    advice: str,
) -> None:
    """What prevents the lock is told in the system's words, with advice."""
    opened = os.open

    def failing(name: str, flags: int, *args: Any, **options: Any) -> int:
        if name == "s.lock":
            raise OSError(number, os.strerror(number))
        return opened(name, flags, *args, **options)

    monkeypatch.setattr(os, "open", failing)
    caught = refused(error, path)
    assert type(caught) is error
    assert str(caught) == (
        f"cannot claim {path}: its lock {path}.lock cannot be taken: "
        f"{os.strerror(number)}; {advice}"
    )


def test_missing_directory_is_invalid(home: str) -> None:
    """A path in a directory that is not there, or is none, is told so."""
    assert str(refused(InvalidAddress, f"{home}/none/s")) == (
        f"cannot claim {home}/none/s: its directory cannot be opened: "
        "No such file or directory; make sure that its directory exists"
    )
    Path(f"{home}/file").touch()
    assert "Not a directory" in str(refused(InvalidAddress, f"{home}/file/s"))


def test_of_two_racing_processes_exactly_one_wins(path: str) -> None:
    """In 200 rounds of 200 one process has the path and the other one is told so."""
    one, two = Worker(), Worker()
    with one.process, two.process:
        for number in range(200):
            for worker in (one, two):
                worker.tell(f"take({path!r})")
            answers = {worker: worker.answer() for worker in (one, two)}
            winners = [worker for worker, answer in answers.items() if answer == "won"]
            assert len(winners) == 1, answers
            (loser,) = set(answers) - set(winners)
            assert answers[loser][0] == "AddressInUse"
            assert answers[loser][1] in {winners[0].pid, None}  # None: not yet written
            reach(parse_address(path)).close()
            winners[0].ask("drop('close')")
            if number % 2:  # every other round has a stale socket to remove
                with foreign(path, socket.SOCK_STREAM):
                    pass
        one.kill()
        two.kill()


# -- forks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["abandon", ""])
def test_forked_child_keeps_the_path_only_unless_it_abandons(path: str, how: str) -> None:
    """A child that abandoned keeps nothing alive; one that did not keeps the path in use."""
    hold, release = os.pipe()
    worker = Worker(hold=hold)
    os.close(hold)
    with worker.process:
        worker.ask(f"take({path!r})")
        worker.ask(f"fork({how!r}, {hold})")
        reach(parse_address(path)).close()
        assert refused(AddressInUse, path).pid == worker.pid
        worker.kill()
        if how:
            with claimed(path):
                pass
        else:
            error = refused(AddressInUse, path)
            assert error.pid is None
    os.close(release)


def test_close_releases_the_lock_though_a_child_holds_its_descriptor(path: str) -> None:
    """A child that forgot to abandon does not keep an orderly restart from the path."""
    hold, release = os.pipe()
    worker = Worker(hold=hold)
    os.close(hold)
    with worker.process:
        worker.ask(f"take({path!r})")
        worker.ask(f"fork('', {hold})")
        worker.ask("drop('close')")
        with claimed(path):
            pass
        worker.kill()
    os.close(release)


# -- long paths -------------------------------------------------------------------------------


@on_linux
@both_types
def test_long_path_is_claimed_and_reached(home: str, kind: SocketType) -> None:
    """A path longer than a socket address is used through its directory."""
    directory = f"{home}/{'d' * 120}"
    os.mkdir(directory)
    path = f"{directory}/s"
    with foreign(f"{home}/stale", socket.SOCK_STREAM):
        os.rename(f"{home}/stale", path)
    with claimed(path, type=kind, mode=0o666) as it:
        assert mode_of(path) == 0o666
        with reach(parse_address(path), type=kind) as sock:
            sock.send(b"hello")
        assert refused(AddressInUse, path).pid == os.getpid()
        assert str(it.address) == path
    assert os.listdir(directory) == ["s.lock"]


@on_linux
def test_longest_direct_path_is_bound_as_it_is_known(home: str) -> None:
    """A path of exactly 107 bytes is bound directly, one of 108 through its directory."""
    path = f"{home}/{'n' * (50 - len(home))}"
    os.mkdir(path)
    path += "/" + "s" * (107 - len(path) - 1)
    with claimed(path) as it:
        assert it.socket.getsockname() == path
        reach(parse_address(path)).close()
    with claimed(path + "x") as it:
        assert it.socket.getsockname().startswith("/proc/self/fd/")
        reach(parse_address(path + "x")).close()


@on_linux
def test_long_name_is_refused(home: str) -> None:
    """A file name that no socket address can hold raises InvalidAddress with the limit."""
    path = f"{home}/{'n' * 120}"
    for caught in (refused(InvalidAddress, path), unreached(InvalidAddress, path)):
        assert f"its path has {len(path)} bytes; a socket's may have 107" in str(caught)
        assert str(caught).endswith("choose a shorter one")
    assert os.listdir(home) == []


def test_long_path_is_refused_without_proc(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc is missing a long path raises InvalidAddress with the limit."""
    monkeypatch.setattr(sockets, "PROC", "/nowhere")
    directory = f"{home}/{'d' * 120}"
    os.mkdir(directory)
    error = refused(InvalidAddress, f"{directory}/s")
    assert f"a socket's may have {addresses.MAX_NAME}" in str(error)
    assert os.listdir(directory) == []


# -- abstract names ---------------------------------------------------------------------------


@pytest.fixture
def name() -> str:
    return f"@mpsr-test-{os.getpid()}-{os.urandom(4).hex()}"


@on_linux
@both_types
def test_abstract_name_is_claimed_and_reached(name: str, kind: SocketType) -> None:
    """An abstract name needs no file and is free again after close."""
    for _ in range(2):
        with claimed(name, type=kind) as it, reach(parse_address(name), type=kind) as sock:
            assert it.socket.getsockname() == b"\0" + name[1:].encode()
            assert not it.socket.getblocking()
            sock.send(b"hello")


@on_linux
def test_taken_abstract_name_is_refused_with_its_pid(name: str, worker: Worker) -> None:
    """A second receiver learns which process has the name."""
    worker.ask(f"take({name!r})")
    error = refused(AddressInUse, name)
    assert error.pid == worker.pid
    assert str(error).startswith(f"cannot claim {name}: process {worker.pid} is receiving there")


@on_linux
def test_taken_abstract_name_is_refused_where_its_pid_is_unknown(name: str) -> None:
    """A name that is bound by a datagram socket, or does not listen yet, is refused as well."""
    with foreign(f"\0{name[1:]}", socket.SOCK_STREAM, backlog=None):
        assert refused(AddressInUse, name).pid is None
    with claimed(name, type="dgram"):
        assert refused(AddressInUse, name, type="dgram").pid is None


@on_linux
def test_abandoned_abstract_name_is_free_when_all_copies_are_closed(name: str) -> None:
    """Abandon closes the descriptor of an abstract name."""
    claim(parse_address(name)).abandon()
    assert str(unreached(NoReceiver, name)) == (
        f"cannot reach {name}: nobody listens there (any more); start the receiver"
    )


@on_linux
def test_other_failures_of_an_abstract_name_are_explained(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system says to an abstract name is passed on."""

    def failing(*_args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket.socket, "bind", failing, raising=False)
    assert "its socket cannot be bound" in str(refused(AddressDenied, name))


# -- inherited descriptors --------------------------------------------------------------------


@both_types
def test_inherited_socket_is_taken_over(path: str, kind: SocketType) -> None:
    """fd:N is used as it is, and its path is never removed."""
    with foreign(path, addresses.SOCKET_TYPES[kind]) as sock:
        number = sock.detach()
        os.set_inheritable(number, True)
        with claimed(f"fd:{number}", type=kind) as it:
            assert it.socket.fileno() == number
            assert not it.socket.getblocking()
            assert not os.get_inheritable(number)
            reach(parse_address(path), type=kind).close()
            if kind == "dgram" and LINUX:
                assert it.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED)
    assert stat.S_ISSOCK(os.lstat(path).st_mode)


@pytest.mark.parametrize("doing", [refused, unreached])
def test_unusable_descriptor_is_refused_and_stays_open(
    home: str, doing: Callable[..., AddressError]
) -> None:
    """A descriptor that cannot serve is named for what it is, and stays the caller's."""
    one, two = socket.socketpair(type=socket.SOCK_DGRAM)
    with one, two, socket.socket(socket.AF_INET) as inet, open(f"{home}/f", "w") as file:
        assert "it is no socket: Bad file descriptor; pass a descriptor that is open" in str(
            doing(InvalidAddress, "fd:999999")
        )
        assert "pass a socket" in str(doing(InvalidAddress, f"fd:{file.fileno()}"))
        assert "it is an AF_INET socket of type SOCK_STREAM; pass an AF_UNIX one" in str(
            doing(InvalidAddress, f"fd:{inet.fileno()}")
        )
        assert "an AF_UNIX socket of type SOCK_DGRAM; pass an AF_UNIX one of type stream" in str(
            doing(WrongSocketType, f"fd:{one.fileno()}")
        )
        for item in (one, two, inet, file):
            os.fstat(item.fileno())


def test_connected_descriptor_is_not_for_a_receiver() -> None:
    """A stream socket that does not listen cannot be claimed."""
    one, two = socket.socketpair()
    with one, two:
        error = refused(InvalidAddress, f"fd:{one.fileno()}")
        assert "its socket does not listen; pass a listening one" in str(error)
        one.send(b"still open")


def test_listening_descriptor_is_not_for_a_producer(path: str) -> None:
    """A socket that is not connected cannot be reached."""
    with foreign(path, socket.SOCK_STREAM) as sock:
        error = unreached(InvalidAddress, f"fd:{sock.fileno()}")
        assert "pass a connected one (a listening one is a receiver's)" in str(error)


@both_types
def test_connected_descriptor_is_duplicated(kind: SocketType) -> None:
    """A producer's fd:N leaves the caller's descriptor to the caller."""
    one, two = socket.socketpair(type=addresses.SOCKET_TYPES[kind])
    with two:
        with one:
            twin = reach(Address("fd", str(one.fileno())), type=kind)
            assert twin.fileno() != one.fileno()
            assert not os.get_inheritable(twin.fileno())
        with twin:
            assert not twin.getblocking()
            twin.send(b"hello")
            assert two.recv(9) == b"hello"


# -- reaching ---------------------------------------------------------------------------------


@both_types
def test_nothing_there_is_no_receiver(home: str, kind: SocketType) -> None:
    """A path where nothing is, even in no directory, raises NoReceiver."""
    for path in (f"{home}/s", f"{home}/none/s", f"{home}/{'d' * 120}/s"):
        assert str(unreached(NoReceiver, path, type=kind)) == (
            f"cannot reach {path}: nothing is there; start the receiver, or check the path"
        )


@both_types
def test_stale_socket_is_no_receiver(path: str, kind: SocketType) -> None:
    """A socket that nobody listens to raises NoReceiver."""
    with foreign(path, socket.SOCK_STREAM):
        pass
    assert str(unreached(NoReceiver, path, type=kind)) == (
        f"cannot reach {path}: nobody listens there (any more); start the receiver"
    )


@pytest.mark.parametrize(
    ("make", "shown"),
    [(lambda path: Path(path).touch(), "a regular file"), (os.mkdir, "a directory")],
)
def test_what_is_no_socket_cannot_be_reached(
    path: str, make: Callable[[str], object], shown: str
) -> None:
    """Anything but a socket is named for what it is."""
    make(path)
    assert str(unreached(InvalidAddress, path)) == (
        f"cannot reach {path}: what is there is {shown}, not a socket; check the path"
    )


def test_receiver_is_reached_through_a_link(home: str, path: str) -> None:
    """A symbolic link to a receiver serves to reach it."""
    os.symlink("real", path)
    unreached(NoReceiver, path)
    with claimed(f"{home}/real"):
        reach(parse_address(path)).close()


def test_loop_of_links_is_invalid(path: str) -> None:
    """A link that leads to itself is no address."""
    os.symlink("s", path)
    assert "choose a path without a loop of symbolic links" in str(unreached(InvalidAddress, path))


@pytest.mark.parametrize(
    ("tried", "other"), list(permutations(["stream", "dgram", "seqpacket"], 2))
)
def test_wrong_type_is_named_with_the_other(path: str, tried: str, other: Any) -> None:
    """A socket of another type says which was tried and which to pass."""
    with claimed(path, type=other):
        assert str(unreached(WrongSocketType, path, type=tried)) == (
            f"cannot reach {path}: its socket is not of type {tried}; "
            f"pass type={other!r} if that is what it is"
        )


@as_root
def test_forbidden_socket_is_denied_with_owner_and_mode(home: str, worker: Worker) -> None:
    """AddressDenied says whose the socket is and what its mode is, where that can be seen."""
    worker.ask(f"become({NOBODY})")
    with claimed(f"{home}/s"):
        error, _, text = worker.ask(f"reach(parse_address({home + '/s'!r}))")
        assert error == "AddressDenied"
        assert text == (
            f"cannot reach {home}/s: its socket, of uid 0, gid {os.lstat(home + '/s').st_gid} "
            "and mode 0600, refused: Permission denied; change the permissions or the user"
        )
    os.chmod(home, 0o700)
    error, _, text = worker.ask(f"reach(parse_address({home + '/s'!r}))")
    assert error == "AddressDenied"
    assert "it cannot be connected to: Permission denied" in text


def test_other_failures_to_reach_are_explained(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says to a connection is passed on."""

    def failing(*_args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(endpoint, "Socket", failing)
    assert str(unreached(AddressError, path)) == (
        f"cannot reach {path}: no socket can be made: socket: Too many open files; "
        "close files, or see ulimit -n"
    )


# -- peers ------------------------------------------------------------------------------------


@on_linux
def test_peer_is_who_the_kernel_says(path: str, worker: Worker) -> None:
    """Both ends of a connection know the process at the other end."""
    with claimed(path) as it:
        worker.ask(f"held.append(reach(parse_address({path!r})))")
        connection, _ = it.socket.accept()
        with connection, reach(parse_address(path)) as own:
            assert peer_of(connection) == Peer(worker.pid, os.getuid(), os.getgid())
            assert peer_of(own) == Peer(os.getpid(), os.getuid(), os.getgid())
            worker.kill()
            assert peer_of(connection) == Peer(worker.pid, os.getuid(), os.getgid())


@on_linux
def test_peer_of_nobody_is_unknown() -> None:
    """A socket without a peer, or closed, has an unknown peer and raises nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        assert peer_of(sock) == UNKNOWN_PEER
    assert peer_of(sock) == UNKNOWN_PEER


@on_linux
def test_peer_is_unknown_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without these options leaves the peer unknown."""
    monkeypatch.setattr(sockets, "LINUX", False)
    one, two = socket.socketpair()
    with one, two:
        assert peer_of(one) == UNKNOWN_PEER
