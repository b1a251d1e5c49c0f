"""Sinks of somebody else, which fail in their ways."""

from __future__ import annotations

import os
import threading
from typing import Any

import mpsr
from mpsr.batch import Batch


class Base:
    def open(self, journal: str) -> None:
        pass

    def write(self, batch: Batch[Any], /) -> None:
        pass

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass


class Raising(Base):
    """Raises while a file is there, in write() or in commit(), and counts the former."""

    def __init__(self, target: str) -> None:
        self.target = target

    def write(self, batch: Batch[Any], /) -> None:
        if os.path.exists(f"{self.target}.broken"):
            with open(f"{self.target}.attempts", "ab") as attempts:
                attempts.write(b".")
            raise mpsr.SinkError("the flux is low: raise it")
        with open(self.target, "ab") as file:
            file.writelines(body + b"\n" for body in batch)

    def commit(self) -> None:
        if os.path.exists(f"{self.target}.uncommitted"):
            raise mpsr.SinkError("the flux is low: raise it")


class Blocking(Base):
    """Blocks for ever in write()."""

    def __init__(self, target: str) -> None:
        pass

    def write(self, batch: Batch[Any], /) -> None:
        threading.Event().wait()


class Broken(Base):
    """Has a defect."""

    def __init__(self, target: str) -> None:
        pass

    def commit(self) -> None:
        raise ZeroDivisionError("division by zero")


class Final(Base):
    """Finds out late that it can never work."""

    def __init__(self, target: str) -> None:
        pass

    def open(self, journal: str) -> None:
        raise mpsr.ConfigurationError("no such planet")


class Choosy(Base):
    """Can never write a message that begins with "bad"; publishes in write(), as NATS does."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.written = False

    def write(self, batch: Batch[Any], /) -> None:
        if os.path.exists(f"{self.target}.broken"):
            raise mpsr.SinkError("the flux is low: raise it")
        bad = {i: "it is bad" for i, body in enumerate(batch) if body.startswith(b"bad")}
        if bad:
            raise mpsr.MessageRejected(bad)
        with open(self.target, "ab") as file:
            file.writelines(b"%d %s\n" % (batch.lost, body) for body in batch)
        self.written = True

    def commit(self) -> None:
        """Be as strict as a database: without a transaction, there is nothing to commit."""
        assert self.written
        self.written = False


class Confused(Base):
    """Rejects a message that it was not given."""

    def __init__(self, target: str) -> None:
        pass

    def write(self, batch: Batch[Any], /) -> None:
        raise mpsr.MessageRejected({len(batch): "it is not there"})
