"""Choose the twin of the hot functions, once: as MPSR_SPEEDUPS says, else C where it is built."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mpsr.errors import ConfigurationError, MpsrError

_CHOICES: Final = ("auto", "require", "off")
_CHOICE: Final = os.environ.get("MPSR_SPEEDUPS", "auto")

if _CHOICE not in _CHOICES:
    raise ConfigurationError(f"MPSR_SPEEDUPS={_CHOICE}: choose one of {', '.join(_CHOICES)}")


def do_without(what: str, cause: ImportError) -> None:
    """Raise MpsrError where something that is written in C, and not there, is required."""
    if _CHOICE != "require":
        return
    error = (
        f"MPSR_SPEEDUPS=require, but the C {what} is not there: install mpsr anew where there are "
        "a C compiler and Python's headers (pip install --no-binary mpsr --force-reinstall mpsr; "
        "in a checkout, pip install -e .)"
    )
    raise MpsrError(error) from cause


if TYPE_CHECKING:
    from mpsr.wire import _codec as twin
elif _CHOICE == "off":
    from mpsr.wire import _codec_py as twin
else:
    try:
        from mpsr.wire import _codec as twin
    except ImportError as exc:
        do_without("codec", exc)
        from mpsr.wire import _codec_py as twin

TWIN: Final = "C" if twin.__name__.endswith("._codec") else "Python"

Assembly = twin.Assembly
Packer = twin.Packer
iter_batch = twin.iter_batch
longest = twin.longest
pack_batch = twin.pack_batch
pack_delimited = twin.pack_delimited
pack_length = twin.pack_length
scan_batch = twin.scan_batch
scan_batches = twin.scan_batches
scan_delimited = twin.scan_delimited
scan_head = twin.scan_head
scan_length = twin.scan_length
split_batch = twin.split_batch
split_delimited = twin.split_delimited
split_length = twin.split_length
to_bytes = twin.to_bytes

__all__ = [
    "Assembly",
    "Packer",
    "iter_batch",
    "longest",
    "pack_batch",
    "pack_delimited",
    "pack_length",
    "scan_batch",
    "scan_batches",
    "scan_delimited",
    "scan_head",
    "scan_length",
    "split_batch",
    "split_delimited",
    "split_length",
    "to_bytes",
]
