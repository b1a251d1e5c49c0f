"""Every block of Python and every command on a page is run, as it stands there.

How a page says what is special about a block, CONTRIBUTING.md tells under "Pages".
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.pages import MARKS, ROOT, RUN, Page, pages
from tests.eventually import eventually
from tests.ports import free_port
from tests.processes import eventually_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docs.pages import Block

PATIENCE: Final = 20.0  # seconds: far beyond what any block takes
DIRECTORIES: Final = ("/run/app", "/var/lib/app")  # on pages; here, directories of the test's own
PORT: Final = ":9464"  # on pages; here, a free one
NAME: Final = '"@fast"'  # on a page; here, an abstract name of this process
_ENDED: Final = {0, 130, -signal.SIGINT, -signal.SIGTERM, 143}  # statuses of what was ended

_COLON_COMMENT: Final = re.compile(r"^<!-- ([\w -]+):(?! generated)", re.MULTILINE)


def pages_to_run() -> list[Page]:
    """Return the pages that have blocks which no other test runs."""
    return [
        page
        for page in pages()
        if "tested by" not in page.marks
        and any(not {"not run", "tested by"} & block.marks.keys() for block in page.blocks)
    ]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory whose name is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="mpsr-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.needs(*sorted(page.needs))])
        for page in pages_to_run()
    ],
)
def test_blocks_of_the_page_run_as_they_stand(page: Page, directory: Path) -> None:
    """In order, in one directory; what a page shows as printed is printed."""
    for name in DIRECTORIES:
        (directory / name.removeprefix("/")).mkdir(parents=True)

    port, name_here = f":{free_port()}", f'"@mpsr-{os.getpid()}-fast"'

    def local(text: str) -> str:
        text = text.replace(PORT, port).replace(NAME, name_here)
        for name in DIRECTORIES:
            text = text.replace(name, str(directory / name.removeprefix("/")))
        return text

    with ExitStack() as everything:
        running: dict[str, tuple[subprocess.Popen[bytes], ExitStack]] = {}
        for block in page.blocks:
            code, where, marks = local(block.code), f"{page.name}:{block.line}", block.marks
            if "not run" in marks or "tested by" in marks:
                continue
            if "file" in marks:
                (directory / marks["file"]).write_text(code)
                continue
            socket = local(marks.get("beside") or marks.get("takes over") or "")
            if not socket:
                printed, status = run(command_of(block, code, directory), directory)
                assert status == 0, f"{where}: status {status}\n{printed}"
                check_printed(where, block, code, printed)
                continue
            before = running.pop(socket, None)
            if before is not None and "beside" in marks:  # it gives way, as in a reader's terminal
                before[1].close()
            own = everything.enter_context(ExitStack())
            program = own.enter_context(running_beside(where, block, code, directory, socket))
            running[socket] = program, own
            if before is not None and "takes over" in marks:
                before[0].wait(PATIENCE)  # ended by the one that takes over
                before[1].close()


def command_of(block: Block, code: str, directory: Path) -> list[str]:
    """Return what runs a block as a program."""
    if block.language == "python":
        program = directory / f"line{block.line}.py"  # a file, which multiprocessing can import
        program.write_text(code)
        return [sys.executable, "-W", "error", "-u", program.name]
    lines = [line for line in code.splitlines() if line.startswith(("$ ", "> "))]
    script = "\n".join(line[2:] for line in lines)
    # What a line has left in the background ends with the block.
    end = "trap 'status=$?; kill $(jobs -p) 2>/dev/null || :; wait; exit $status' EXIT\n"
    return ["bash", "-ec", end + script]


def environment() -> dict[str, str]:
    """Return an environment in which ``mpsr`` and ``python`` are those under test."""
    return {
        **os.environ,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "COLUMNS": "100",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }


def run(command: list[str], directory: Path) -> tuple[str, int]:
    """Run a program to its end; return what it printed, on either stream, and its status."""
    ended = subprocess.run(
        command,
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    return ended.stdout, ended.returncode


@contextmanager
def running_beside(
    where: str, block: Block, code: str, directory: Path, socket: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the block, which begins once its socket is there; then end it."""
    path = directory / socket  # an absolute path stays what it is
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        subprocess.Popen(
            command_of(block, code, directory),
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as program,
    ):

        def printed() -> str:
            output.seek(0)
            return output.read()

        try:
            eventually_by(program, lambda: is_socket(path), reason=lambda: f"{where}\n{printed()}")
            yield program
            wanted = expected_lines(block, code)
            with suppress(AssertionError):  # check_printed() says more
                eventually(lambda: not missing_lines(wanted, printed()), within=10)
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGINT)
            try:
                program.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGABRT)  # faulthandler prints where it waits
                program.wait(PATIENCE)
                pytest.fail(f"{where}: not ended by SIGINT\n{printed()}")
        finally:
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)
        check_printed(where, block, code, printed())
        assert program.returncode in _ENDED or "KeyboardInterrupt" in printed(), printed()


def is_socket(path: Path) -> bool:
    return path.exists() and stat.S_ISSOCK(path.stat().st_mode)


def expected_lines(block: Block, code: str) -> list[str]:
    """Return what a block of commands shows as printed."""
    if block.language != "console":
        return []
    return [line for line in code.splitlines() if line and not line.startswith(("$ ", "> "))]


def missing_lines(expected: list[str], printed: str) -> list[str]:
    """Return the lines that were not printed; numbers count as alike, and … stands for anything."""
    lines = [re.sub(r"\d+", "0", line.rstrip()) for line in printed.splitlines()]
    return [
        line for line in expected if not any(re.fullmatch(_pattern(line), other) for other in lines)
    ]


def _pattern(line: str) -> str:
    return ".*".join(re.escape(re.sub(r"\d+", "0", part)) for part in line.rstrip().split("…"))


def check_printed(where: str, block: Block, code: str, printed: str) -> None:
    missing = missing_lines(expected_lines(block, code), printed)
    assert not missing, f"{where}: not printed: {missing}\nprinted:\n{printed}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_block_says_well_what_is_special_about_it(page: Page) -> None:
    """A mark is known, a test that it names exists, and no language slips by."""
    assert set(_COLON_COMMENT.findall(page.text)) <= set(MARKS)
    for marks in [page.marks, *(block.marks for block in page.blocks)]:
        if "tested by" in marks:
            assert (ROOT / marks["tested by"]).is_file()
        if "not run" in marks:
            assert len(marks["not run"].split()) > 3, "give the reason"
    others = (
        [] if "tested by" in page.marks else re.findall(r"^`{3,} ?(\w+)", page.text, re.MULTILINE)
    )
    assert not {"bash", "sh", "shell", "pycon", "py", "shell-session"} & set(others), RUN
