"""Deliver to sinks: in a process of ``mpsr recv --to`` that can be killed, or in this process."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
from mpsr import observe
from mpsr.sinks import Delivery, SinkError
from tests.commands import command
from tests.eventually import eventually
from tests.processes import eventually_by

if TYPE_CHECKING:
    from mpsr.sinks import SinkStatus

ROOT = Path(__file__).parents[2]
PATIENCE = 30  # seconds: longer means that it hangs


class Fed(ABC):
    """A receiver with sinks that a test sends messages to."""

    address: Path

    @abstractmethod
    def await_commit(self) -> None:
        """Return once each sink has committed all that was accepted."""

    def send(self, *messages: bytes) -> None:
        """Send messages, and return once they are accepted."""
        with mpsr.Producer(self.address) as producer:
            producer.send_many(messages)
            producer.flush(PATIENCE)

    def deliver(self, *messages: bytes) -> None:
        """Send messages, and return once each sink has committed them."""
        self.send(*messages)
        self.await_commit()


class Funnel(Fed):
    """A receiver with sinks, which can be killed and started again."""

    def __init__(self, directory: Path, name: str, *sinks: str, journal: bool = True) -> None:
        self.address = directory / f"{name}.sock"
        self.journal = directory / f"{name}.journal"
        self.err = directory / f"{name}.err"
        self.out = directory / f"{name}.out"
        self.directory = directory
        self.arguments = [str(self.address), *(f"--to={sink}" for sink in sinks)]
        if journal:
            self.arguments += ["--journal", str(self.journal)]
        self.environment: dict[str, str] = {}
        self.limits: dict[str, float] = {}
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self, *more: str, limit: int | None = None) -> Funnel:
        """Start it; return once it listens."""
        words = [*command(**self.limits), "recv", *self.arguments, *more]
        if limit is not None:
            words = ["prlimit", f"--fsize={limit}", *words]
        before = self.told.count("listening on")
        with self.err.open("ab") as err, self.out.open("ab") as out:
            self.popen = subprocess.Popen(
                words,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **self.environment},
            )
        self._await(lambda: self.told.count("listening on") > before)
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self.popen is not None
        return self.popen

    @property
    def told(self) -> str:
        """What it has said on stderr, in all its lives."""
        return self.err.read_text() if self.err.exists() else ""

    def await_word(self, text: str) -> None:
        self._await(lambda: text in self.told)

    def _await(self, condition: Callable[[], bool]) -> None:
        eventually_by(self.process, condition, reason=lambda: self.told)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self, signum: int = signal.SIGTERM) -> int:
        """End it in order; return the exit status."""
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE)

    def await_commit(self) -> None:
        def committed() -> bool:
            return not any(each["lag"] for each in observe.status(self.address)["sinks"])

        eventually(committed, interval=0.02)  # each look is a connection to the receiver


class _Lines(logging.Handler):
    """Keeps the messages of log records."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())


class OwnFunnel(Fed):
    """A receiver with sinks in this process, for a test that neither kills nor signals it."""

    def __init__(self, directory: Path, name: str, *sinks: str, journal: bool = True) -> None:
        self.address = directory / f"{name}.sock"
        self.journal = directory / f"{name}.journal"
        self.sinks = sinks
        self._journaled = journal
        self._lines = _Lines()
        self._receiver: mpsr.Receiver[bytes] | None = None
        self._delivery: Delivery | None = None

    def start(self, **options: Any) -> OwnFunnel:
        """Start it, with options of the receiver."""
        self._receiver = mpsr.Receiver(
            self.address, journal=self.journal if self._journaled else None, **options
        )
        logging.getLogger("mpsr").addHandler(self._lines)
        self._delivery = Delivery(self._receiver, self.sinks)
        self._delivery.start()
        return self

    @property
    def told(self) -> str:
        """The lines that it has logged, in all its lives."""
        return "".join(f"{line}\n" for line in self._lines.kept)

    @property
    def statuses(self) -> list[SinkStatus]:
        assert self._delivery is not None
        return self._delivery.statuses()

    def await_word(self, text: str) -> None:
        eventually(lambda: text in self.told)

    def await_commit(self) -> None:
        eventually(lambda: not any(each.lag for each in self.statuses))

    def end(self) -> None:
        """End it in order; raise SinkError if a sink lacks a message."""
        assert self._delivery is not None
        self._delivery.close(PATIENCE)
        self.abandon()

    def abandon(self) -> None:
        """End it, though a sink may lack messages."""
        if self._delivery is not None:
            with suppress(SinkError):
                self._delivery.close(PATIENCE)
        if self._receiver is not None:
            self._receiver.close()
        logging.getLogger("mpsr").removeHandler(self._lines)
        self._delivery = self._receiver = None


def send_while_killed(
    chance: random.Random,
    funnel: Funnel,
    count: int,
    kills: int,
    interfere: Callable[[], None] = lambda: None,
) -> list[bytes]:
    """Send messages while the funnel is killed again and again; return them."""
    messages = [b"%d %s" % (i, b"x" * (i % 300)) for i in range(count)]
    part = count // (kills + 1) + 1
    with mpsr.Producer(funnel.address) as producer:
        for begin in range(0, count, part):
            producer.send_many(messages[begin : begin + part])
            if begin + part < count:
                time.sleep(chance.uniform(0, 0.1))  # anywhere in its work
                funnel.kill()
                interfere()
                funnel.start()
        producer.flush(PATIENCE)
    assert funnel.end() == 0, funnel.told
    return messages


@pytest.fixture
def funnels(tmp_path: Path) -> Iterator[Callable[..., Funnel]]:
    """Make funnels, which are killed at the end."""
    made: list[Funnel] = []

    def make(*sinks: str, name: str = "app", journal: bool = True) -> Funnel:
        made.append(Funnel(tmp_path, name, *sinks, journal=journal))
        return made[-1]

    yield make
    for each in made:
        if each.popen is not None and each.popen.poll() is None:
            each.kill()


@pytest.fixture
def own_funnels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., OwnFunnel]]:
    """Make funnels in this process, which works in their directory until the end of the test."""
    made: list[OwnFunnel] = []

    def make(*sinks: str, name: str = "app", journal: bool = True) -> OwnFunnel:
        monkeypatch.chdir(tmp_path)
        made.append(OwnFunnel(tmp_path, name, *sinks, journal=journal))
        return made[-1]

    yield make
    for each in made:
        each.abandon()


def lines_in(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.exists() else []


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install sinks of somebody else, as a package's entry points."""
    info = tmp_path / "site" / "theirs-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    kinds = ("Raising", "Blocking", "Broken", "Final", "Choosy", "Confused")
    lines = [f"{kind.lower()} = tests.sinks.plugin:{kind}" for kind in kinds]
    lines.append("missing = not_installed:sink")
    (info / "entry_points.txt").write_text("\n".join(["[mpsr.sinks]", *lines, ""]))
    paths = [str(tmp_path / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.fixture
def frozen() -> Iterator[Callable[[Path, str], None]]:
    """Give a file an attribute that refuses its removal, until the test ends."""
    made: list[tuple[Path, str]] = []

    def freeze(path: Path, attribute: str) -> None:
        if subprocess.run(["chattr", f"+{attribute}", path], check=False).returncode:
            pytest.skip("this user or file system cannot set attributes of files")
        made.append((path, attribute))

    yield freeze
    for path, attribute in made:
        for each in (path, *path.parent.glob(f"{path.name}.2*")):
            subprocess.run(["chattr", f"-{attribute}", each], check=False, capture_output=True)
