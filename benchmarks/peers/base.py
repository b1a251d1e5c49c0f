"""Say what a peer is: a way to get messages from many processes into one."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from importlib.metadata import version
from typing import Any, ClassVar

from benchmarks.forked import run_forked
from benchmarks.sink import Sink
from benchmarks.spec import Spec
from benchmarks.work import Work


class Missing(Exception):
    """The peer cannot run here, and why."""


class Peer(ABC):
    """One peer, for one run.

    It is made before the producers are forked, so that what they must inherit can be made with
    it. Then each producer calls ``produce`` (``hold``, where many idle connections are held)
    and the parent calls ``receive``.
    """

    distribution: ClassVar[str | None] = None  # on the package index; None: Python's own
    settings: ClassVar[str]
    """What was chosen for it, and why: its best honest settings."""

    def __init__(self, spec: Spec, folder: str) -> None:
        self.spec = spec
        self.path = f"{folder}/socket"

    @classmethod
    def version(cls) -> str:
        """Return which version this is; raise Missing where it cannot run."""
        if cls.distribution is None:
            return f"Python {sys.version.split()[0]}"
        return version(cls.distribution)

    @abstractmethod
    def produce(self, work: Work) -> None:
        """Connect, and drive the work."""

    @abstractmethod
    def receive(self, sink: Sink) -> None:
        """Listen, and feed the sink until it has everything."""

    def hold(self, work: Work) -> None:
        """Connect ``work.connections`` times, warm each up, and run the work over all."""
        raise NotImplementedError

    @classmethod
    def measure(cls, spec: Spec, folder: str) -> dict[str, Any]:
        """Run once, in forked processes."""
        return run_forked(cls(spec, folder))
