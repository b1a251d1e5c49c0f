"""The page of a receiver's metrics, whose library is imported only where one is wanted."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpsr.cli.metrics.place import Place
    from mpsr.sync.receiver import Receiver


def served(
    receiver: Receiver, place: Place | None, *, handover: bool, quiet: bool
) -> AbstractContextManager[None]:
    """Serve a receiver's metrics while a block runs; see ``page.served``."""
    if place is None:
        return nullcontext()
    from mpsr.cli.metrics import page  # noqa: PLC0415 - not light, and not for all

    return page.served(receiver, place, handover=handover, quiet=quiet)
