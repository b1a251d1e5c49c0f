"""The package as a whole: its face, its weight, its error tree."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version

import pytest

import mpsr
import mpsr.errors

ERRORS = {
    name
    for name, value in vars(mpsr.errors).items()
    if isinstance(value, type) and issubclass(value, mpsr.MpsrError)
}


def test_every_public_name_is_there() -> None:
    """What ``__all__`` lists can be had, the lazily loaded names too."""
    for name in mpsr.__all__:
        assert getattr(mpsr, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = mpsr.nothing_like_it


def test_the_version_is_the_packages() -> None:
    """The module and the installed package tell one version."""
    assert mpsr.__version__ == version("mpsr")


def test_importing_is_light() -> None:
    """What only the async fronts or the command need is not loaded with the package."""
    heavy = {"anyio", "asyncio", "click", "logging", "rich", "sqlite3", "multiprocessing"}
    code = "import sys; from mpsr import Producer, Receiver; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not heavy.intersection(loaded)


def test_importing_the_package_imports_none_of_its_modules() -> None:
    """A name's module comes with the name; so the command can take signals before all else."""
    code = "import sys, mpsr; print(*sys.modules); mpsr.Producer; mpsr.Batch"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert [name for name in loaded if name.startswith("mpsr")] == ["mpsr"]
    assert set(mpsr.__all__) <= set(dir(mpsr))


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    """Every exception is in the drawn tree, and no other."""
    tree = mpsr.errors.__doc__ or ""
    drawn = set(re.findall(r"^[│├└─ ]*([A-Z]\w+)", tree, re.MULTILINE)) - {"Name"}
    assert drawn == ERRORS


def test_every_error_is_public() -> None:
    """Whoever can meet an error can name it."""
    assert set(mpsr.__all__) >= ERRORS
