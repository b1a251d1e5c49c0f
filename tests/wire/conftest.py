"""Share what the tests of the wire need."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Final

import pytest

CODECS: Final = [
    name for name in ("mpsr._speedups.codec_py", "mpsr._speedups._c") if find_spec(name) is not None
]


@pytest.fixture(scope="session", params=CODECS, ids=lambda name: name.rpartition(".")[2])
def codec(request: pytest.FixtureRequest) -> ModuleType:
    """Each twin of the hot functions in turn."""
    return import_module(request.param)
