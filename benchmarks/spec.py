"""Say what one run does, in a form that travels to its process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["audit", "throughput", "latency", "idle"]
Interface = Literal["message", "batch", "untouched", "list", "bytes"]


@dataclass(frozen=True, slots=True)
class Spec:
    """One peer, doing one thing once."""

    peer: str
    kind: Kind
    interface: Interface
    """How messages are sent and taken: one at a time; in batches; in batches whose messages are
    left alone; as a pickled list that counts as one message; or, with the raw socket alone, as
    bytes that nobody divides."""
    size: int
    """Bytes of a message."""
    producers: int
    """Connections, each of which sends one message before the clock starts."""
    count: int
    """Messages in all, roughly: every producing process sends the same number."""
    rate: float = 0.0
    """Messages a second in all; 0: as fast as they will go."""
    holders: int = 0
    """Processes that hold the connections; 0: one each."""

    @property
    def processes(self) -> int:
        """Producing processes."""
        return self.holders or self.producers

    @property
    def share(self) -> int:
        """Messages of each producing process."""
        return max(1, self.count // self.processes)

    @property
    def total(self) -> int:
        """Messages in all, exactly."""
        return self.share * self.processes

    def to_json(self) -> str:
        """Return the spec as ``from_json`` takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Return what ``to_json`` was called on."""
        return cls(**json.loads(text))
