"""Hold no signals back: it takes C to do it without a moment between two steps."""

from __future__ import annotations

from typing import final


@final
class SignalMask:
    """Stands in for the C type of this name: a context manager that does nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass
