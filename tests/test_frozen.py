"""Programs that are frozen, or packed into one file, hold all of mpsr."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any, Final

import pytest

import mpsr
from tests.eventually import PATIENCE

SOURCES: Final = Path(mpsr.__file__).parents[1]
COMMANDS: Final = [
    "recv",
    "send",
    "status",
    "top",
    "tap",
    "log",
    "journal",
    "systemd",
    "demo",
    "bench",
    "completion",
    "man",
]

PROGRAM: Final = """
import asyncio
import sys

import mpsr


async def through_async(address):
    async with mpsr.AsyncReceiver(address) as receiver, mpsr.AsyncProducer(address) as producer:
        await producer.send(b"async")
        message = await receiver.receive(10)
        receiver.acknowledge()
        return message


def library(directory):
    for name in [*mpsr.__all__, "logging", "metrics"]:
        getattr(mpsr, name)
    print("mpsr is its own:", not mpsr.__file__.startswith(sys.argv[3]))
    with mpsr.Receiver(f"{directory}/a.sock", journal=f"{directory}/journal") as receiver:
        with mpsr.Producer(f"{directory}/a.sock") as producer:
            producer.send(b"sync")
        print(receiver.receive(10), bool(mpsr.observe.status(f"{directory}/a.sock")))
    print(asyncio.run(through_async(f"{directory}/b.sock")))
    from mpsr.sinks.table import BUILT_IN, _built_in
    print(*(_built_in(scheme).__name__ for scheme in BUILT_IN))


def main():
    if sys.argv[1] == "library":
        library(sys.argv[2])
    else:
        from mpsr.cli import main
        main()


if __name__ == "__main__":
    main()
"""


def run_all(program: list[str], directory: Path) -> None:
    """Use all of the library, and each command, in a packed program."""

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [*program, *arguments], check=False, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    expected = f"mpsr is its own: True\nb'sync' True\nb'async'\n{'sink ' * 7}sink\n"
    assert call("library", str(directory), str(SOURCES)) == expected
    for command in COMMANDS:
        assert call(command, "--help").startswith(f"Usage: mpsr {command}")
    address = directory / "c.sock"
    with subprocess.Popen(
        [*program, "recv", str(address), "--decode", "log", "--count", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as receiver:
        call("send", str(address), "hello", "--timeout", "20s")
        printed, _ = receiver.communicate(timeout=PATIENCE)
    assert (receiver.returncode, printed) == (0, b"hello\n")
    assert "C extension cannot be loaded" not in call("--version")
    assert f"ExecStart={' '.join(program)} recv systemd:" in call("systemd", "/run/app/x.sock")


# -- what a freezer sees --------------------------------------------------------------------


class _Source:
    """The source of a module as its tree, without what is imported for types only."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def read(self) -> ast.Module:
        return _WithoutTypes().visit(ast.parse(self._source.read()))  # type: ignore[no-any-return]


class _WithoutTypes(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> Any:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


class _Finder(ModuleFinder):
    """Finds modules of mpsr by the statements that import them, as programs that freeze do."""

    def __init__(self) -> None:
        super().__init__(path=[str(SOURCES)])

    def load_module(self, name: str, file: Any, path: Any, info: Any) -> Any:
        source: Any = _Source(file) if file is not None and path.endswith(".py") else file
        return super().load_module(name, source, path, info)


def test_every_module_is_imported_by_a_statement() -> None:
    """Also those that are imported late: a name in a text is nothing that a freezer can see."""
    finder = _Finder()
    finder.import_hook("mpsr")
    library = set(finder.modules)
    assert {"mpsr.aio.receiver", "mpsr.sync.producer", "mpsr.observe", "mpsr.queues"} <= library
    assert "mpsr.cli" not in library  # a program that freezes only the library
    finder.import_hook("mpsr.cli")
    assert set(modules()) - set(finder.modules) == set()


def modules() -> Iterator[str]:
    """Yield the names of all modules of mpsr but the one that ``python -m`` runs."""
    for path in (SOURCES / "mpsr").rglob("*.py"):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        if parts[-1] != "__main__":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_is_imported_by_a_text() -> None:
    """Of mpsr or another package: a freezer would leave it out."""
    for path in (SOURCES / "mpsr").rglob("*.py"):
        assert not re.search(r"\b(import_module|__import__)\b", path.read_text()), path


# -- real programs --------------------------------------------------------------------------


def zipapp(directory: Path) -> list[str]:
    """Pack with Python's zipapp; other packages are those of this environment."""
    sources = directory / "sources"
    shutil.copytree(SOURCES / "mpsr", sources / "mpsr")
    (sources / "__main__.py").write_text(PROGRAM)
    target = directory / "program.pyz"
    make("zipapp", str(sources), "-o", str(target))
    return [sys.executable, str(target)]


def shiv(directory: Path) -> list[str]:
    site = directory / "site"
    shutil.copytree(SOURCES / "mpsr", site / "mpsr")
    (site / "program.py").write_text(PROGRAM)
    target = directory / "program.pyz"
    make("shiv", "--site-packages", str(site), "-e", "program:main", "-o", str(target))
    return [sys.executable, str(target)]


def pex(directory: Path) -> list[str]:
    (directory / "program.py").write_text(PROGRAM)
    target = directory / "program.pex"
    sources = ["-D", str(directory), "-D", str(SOURCES), "--inherit-path=fallback"]
    make("pex", *sources, "-e", "program:main", "-o", str(target))
    return [sys.executable, str(target)]


def make(packer: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", packer, *arguments], check=True, capture_output=True)


@pytest.mark.soak
@pytest.mark.parametrize("pack", [zipapp, shiv, pex])
def test_packed_program_has_all_of_mpsr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[Path], list[str]]
) -> None:
    """The library, and each command."""
    pytest.importorskip(pack.__name__)
    monkeypatch.setenv("SHIV_ROOT", str(tmp_path / "shiv"))
    monkeypatch.setenv("PEX_ROOT", str(tmp_path / "pex"))
    run_all(pack(tmp_path), tmp_path)


HEAVY: Final = ["numpy", "polars", "pyarrow", "duckdb", "matplotlib", "sphinx", "mypy", "zmq"]


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_frozen_program_has_all_of_mpsr(tmp_path: Path) -> None:
    """With PyInstaller, and no hook; what takes no part is left out."""
    pytest.importorskip("PyInstaller")
    (tmp_path / "program.py").write_text(PROGRAM)
    places = {"--distpath": "dist", "--workpath": "work", "--specpath": "."}
    arguments = [f"{option}={tmp_path / place}" for option, place in places.items()]
    arguments += [f"--exclude-module={name}" for name in HEAVY]
    make(
        "PyInstaller",
        "--log-level=ERROR",
        f"--paths={SOURCES}",
        *arguments,
        str(tmp_path / "program.py"),
    )
    run_all([str(tmp_path / "dist" / "program" / "program")], tmp_path)
