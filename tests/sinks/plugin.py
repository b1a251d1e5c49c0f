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
    """Raises while its file is there, and counts that; else appends."""

    def __init__(self, target: str) -> None:
        self.target = target

    def write(self, batch: Batch[Any], /) -> None:
        if os.path.exists(f"{self.target}.broken"):
            with open(f"{self.target}.attempts", "ab") as attempts:
                attempts.write(b".")
            raise mpsr.SinkError("the flux is low: raise it")
        with open(self.target, "ab") as file:
            file.writelines(body + b"\n" for body in batch)


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
