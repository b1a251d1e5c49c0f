"""Choose the twin of the hot functions."""

from __future__ import annotations

from mpsr.wire._codec_py import (
    pack_batch,
    pack_delimited,
    pack_length,
    scan_batch,
    scan_delimited,
    scan_length,
    split_batch,
    split_delimited,
    split_length,
    to_bytes,
)

__all__ = [
    "pack_batch",
    "pack_delimited",
    "pack_length",
    "scan_batch",
    "scan_delimited",
    "scan_length",
    "split_batch",
    "split_delimited",
    "split_length",
    "to_bytes",
]
