"""Turn argv into work, and how it ended into an exit status."""

from __future__ import annotations

TYPE_CHECKING = False  # what typing would say, which takes long to import
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line of this process.

    As long as it does nothing, SIGINT ends it at once, without a word. A process that ignores
    SIGINT goes on doing so.
    """
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - quicker than signal

    interruptible = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if interruptible:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    import gc  # noqa: PLC0415 - from here on there is time
    import sys  # noqa: PLC0415

    from mpsr.cli.entry import run  # noqa: PLC0415

    status = run(sys.argv[1:])
    if interruptible and _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    gc.freeze()  # Python would search all for cycles at the end: a fifth of a short run
    sys.exit(status)
