"""The C builds elsewhere than here, and what mpsr is without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = sorted((ROOT / "src" / "mpsr" / "_speedups").glob("*.c"))
HEADERS: Final = sysconfig.get_path("include")
FREE_THREADED: Final = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# glibc's own headers bring what other systems lack: it is taken away behind them.
ELSEWHERE: Final = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <endian.h>
#include <sys/mman.h>
#include <sys/socket.h>
#undef htole32
#undef htole64
#undef le32toh
#undef le64toh
#undef htobe32
#undef be32toh
#pragma GCC poison htole32 htole64 le32toh le64toh htobe32 be32toh memrchr syscall
#pragma GCC poison accept4 epoll_create1 eventfd memfd_create pipe2 recvmmsg timerfd_create
"""

needs_headers = pytest.mark.skipif(
    not (Path(HEADERS) / "Python.h").exists(), reason="takes Python's headers"
)


@needs_headers
@pytest.mark.needs("gcc")
def test_c_takes_nothing_of_linux_where_there_is_none(tmp_path: Path) -> None:
    """Without __linux__ it uses no <endian.h>, and no call that Linux alone has, as macOS needs."""
    (tmp_path / "elsewhere.h").write_text(ELSEWHERE)
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-U__linux__"]
    command += ["-I", HEADERS, "-include", str(tmp_path / "elsewhere.h"), *map(str, SOURCES)]
    assert subprocess.run(command, check=False, capture_output=True, text=True).stderr == ""
    for source in [*SOURCES, *SOURCES[0].parent.glob("*.h")]:
        assert not re.search(r"#include <(sys/)?endian.h>", source.read_text())


@needs_headers
@pytest.mark.needs("musl-gcc")
def test_c_compiles_with_musl() -> None:
    """It takes nothing that glibc alone declares."""
    include = Path("/usr/include")
    kernel = [include, *include.glob("*-linux-gnu")]  # <linux/futex.h>
    command = ["musl-gcc", "-std=c11", "-Wall", "-Werror", "-fsyntax-only", "-I", HEADERS]
    command += [f"-idirafter{path}" for path in kernel]
    command += map(str, SOURCES)
    assert subprocess.run(command, check=False, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize(
    ("compiler", "advice"),
    [
        ("/nowhere/cc", "install a C compiler (/nowhere/cc is not installed)"),
        ("/bin/false", "correct what the compiler reports"),
    ],
)
def test_build_that_fails_tells_what_is_missing_and_works(
    tmp_path: Path, compiler: str, advice: str
) -> None:
    """The build succeeds, blames only what it has looked for, and its result runs without the C."""
    pytest.importorskip("setuptools", "77")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    unbuilt = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src" / "mpsr", tmp_path / "src" / "mpsr", ignore=unbuilt)
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", "lib"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "CC": compiler},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0
    assert "mpsr: WARNING: its C extension was not built (" in built.stderr
    assert Path(HEADERS, "Python.h").exists() == ("Python's headers" not in built.stderr)
    assert advice.removeprefix("correct") in built.stderr or not Path(HEADERS, "Python.h").exists()
    assert not list(tmp_path.glob("lib/**/*.so"))
    shown = version_in(tmp_path / "lib")
    assert "codec: pure Python" in shown
    assert "why: this installation of mpsr has none for" in shown


def version_in(folder: Path) -> str:
    """Return what ``mpsr --version`` prints with the package in a folder."""
    return subprocess.check_output(
        [sys.executable, "-m", "mpsr", "--version"],
        env={**os.environ, "PYTHONPATH": str(folder), "MPSR_SPEEDUPS": "auto"},
        text=True,
    )


def test_version_tells_why_an_extension_cannot_be_loaded(tmp_path: Path) -> None:
    """As after it was built for another C library: the linker's reason, and no missing compiler."""
    copied = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src" / "mpsr", tmp_path / "mpsr", ignore=copied)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (tmp_path / "mpsr" / "_speedups" / f"_c{suffix}").write_bytes(b"of another system")
    shown = version_in(tmp_path)
    assert "codec: pure Python" in shown
    assert "the C extension cannot be loaded\n  why: " in shown
    assert f"_c{suffix}: " in shown
    assert "compiler" not in shown


@pytest.mark.skipif(not FREE_THREADED, reason="takes a free-threaded Python")
@pytest.mark.parametrize(("gil", "in_c"), [(None, True), ("0", False)])
def test_free_threaded_python_runs_no_c_without_its_lock(gil: str | None, *, in_c: bool) -> None:
    """Loading the C turns the lock on; where that is forbidden, the C is left aside."""
    pytest.importorskip("mpsr._speedups._c")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    environment["MPSR_SPEEDUPS"] = "auto"
    if gil is not None:
        environment["PYTHON_GIL"] = gil
    code = "import sys; from mpsr._speedups import IN_C; print(IN_C, sys._is_gil_enabled())"
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told == f"{in_c} {in_c}\n"
