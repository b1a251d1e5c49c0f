"""Start worker processes and talk with them."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol

import mpsr
from mpsr.engine.sending.states import WriteState
from tests.eventually import eventually
from tests.process.forking import Forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self


P = ParamSpec("P")

PATIENCE: Final = 40.0  # seconds: far beyond what anything here takes, below the test's own limit
TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second, in /proc's clock


class Worker:
    """A process of one of the ``roles``, which speaks in JSON lines."""

    def __init__(
        self, forks: Forks, role: Callable[P, None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        self.stderr = os.memfd_create("stderr")
        self.process = forks.start([role.__name__, args, kwargs], self.stderr)
        self.pid = self.process.pid
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.close()
        sys.stderr.write(self.complaint())
        os.close(self.stderr)

    def hear(self, timeout: float = PATIENCE) -> Any:
        """Return the next thing that the worker says."""
        deadline = monotonic() + timeout
        while b"\n" not in self._heard:
            ready, _, _ = select.select(
                [self.process.stdout], [], [], max(0, deadline - monotonic())
            )
            assert ready, f"nothing heard within {timeout:g} s; stderr: {self.complaint()}"
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            assert piece, f"it ended; stderr: {self.complaint()}"
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def said(self) -> bool:
        """Return whether it has said something, or has ended."""
        return bool(self._heard or select.select([self.process.stdout], [], [], 0)[0])

    def tell(self, value: object = None) -> None:
        """Say something to the worker."""
        self.process.stdin.write(json.dumps(value).encode() + b"\n")

    def ask(self, value: object = None) -> Any:
        """Say something to the worker and return its answer."""
        self.tell(value)
        return self.hear()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop it with SIGSTOP, and wait until it is stopped."""
        self.process.send_signal(signal.SIGSTOP)
        eventually(lambda: self._stat()[0] == "T")

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; return its exit status."""
        return self.process.wait(timeout)

    def complaint(self) -> str:
        """Return what it has written to stderr."""
        return os.pread(self.stderr, 1 << 20, 0).decode(errors="replace")

    def cpu_time(self) -> float:
        """Return the seconds of processor time it has used."""
        user, system = self._stat()[11:13]
        return (int(user) + int(system)) / TICKS

    def _stat(self) -> list[str]:
        """Return the fields of its ``stat`` in /proc from its state on."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()


class Start(Protocol):
    """Starts a worker that ends with the test."""

    def __call__(self, role: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> Worker: ...


@contextmanager
def beside(work: Callable[[], object], stop: Callable[[], object] | None = None) -> Iterator[None]:
    """Work in another thread during the block; wait for that thread at the block's end.

    If either fails, call ``stop``, so that the other does not wait, and raise the first failure.
    After a failure of the block, do not wait for the thread: it ends when the caller closes the
    objects that it uses.
    """
    failures: list[BaseException] = []

    def fail(exc: BaseException) -> None:
        failures.append(exc)
        if stop is not None:
            with suppress(mpsr.Closed):  # the other side has closed what it used
                stop()

    def target() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - raised again in the test's own thread
            fail(exc)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        yield
    except BaseException as exc:  # noqa: BLE001 - raised again below, if it was the first
        fail(exc)
    else:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def is_stuck(producer: mpsr.Producer) -> bool:
    """Wait until the producer has written all it has (False), or the kernel takes no more."""
    outbox = producer._outbox
    window = outbox.window
    eventually(
        lambda: outbox.state is WriteState.FULL or not (window.unsent or window.gathering),
        interval=0.0005,
    )
    return outbox.state is WriteState.FULL


def receive_beside(
    receiver: mpsr.Receiver, take: Callable[[mpsr.Batch], object], work: Callable[[], object]
) -> None:
    """Receive during some work; stop and drain the receiver at its end."""

    def work_then_stop() -> None:
        work()
        receiver.stop()

    with beside(work_then_stop, receiver.stop):
        for batch in receiver.batches():
            take(batch)


def receive_all(
    receiver: mpsr.Receiver, take: Callable[[mpsr.Batch], object], workers: Iterable[Worker]
) -> None:
    """Receive until the workers have ended well, and all they sent is drained."""

    def watch() -> None:
        for worker in workers:
            assert worker.wait() == 0, worker.complaint()

    receive_beside(receiver, take, watch)
