"""The how-to pages about queues: every program runs as written, and prints what the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
PAGES = ("from-multiprocessing-queue", "from-pyzmq", "multiprocessing-and-pools")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
PROGRAMS = [
    pytest.param(*block.groups(""), id=f"{page}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.finditer((HOW_TO / f"{page}.md").read_text()), 1)
]


@pytest.mark.parametrize(("program", "printed"), PROGRAMS)
def test_program_of_the_page_prints_what_the_page_says(
    program: str, printed: str, tmp_path: Path
) -> None:
    """Each runs in a directory of its own, from a file, which spawned processes import."""
    if "import zmq" in program and find_spec("zmq") is None:
        pytest.skip("pyzmq is not installed")
    (tmp_path / "program.py").write_text(program)
    # From 3.12 on Python warns of a fork beside threads.
    forks = "ignore:This process:DeprecationWarning"
    command = [sys.executable, "-W", "error", "-W", forks, "program.py"]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, printed), ended.stderr
    assert ended.stderr in ("", "disk is 93 % full\n")
