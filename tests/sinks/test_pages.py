"""What the pages about sinks show was run as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.ports import free_port
from tests.sinks.conftest import Funnel
from tests.sinks.natsservers import PROGRAM

PORT = "42220"  # on a page; here, a free one
PAGES = sorted((Path(__file__).parents[2] / "docs" / "how-to").glob("sink*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_page_do_what_it_shows(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    script = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    script = script.replace(PORT, str(free_port()))
    shown = "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))
    assert script
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mpsr").write_text(f'#!/bin/sh\nexec {sys.executable} -m mpsr "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o700)
    (programs / "nats-server").symlink_to(PROGRAM)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-mec", script],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=40,
    )
    assert done.stdout.decode() == shown, done.stderr.decode()
    assert done.returncode == 0


def test_template_is_a_sink_of_forty_lines(
    funnels: Callable[..., Funnel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a package would install it, killed in between."""
    text = (PAGES[0].parent / "sinks.md").read_text()
    (code,) = [
        each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def sink" in each
    ]
    assert code.count("\n") <= 40
    site = tmp_path / "site"
    info = site / "batches_sink-1.dist-info"
    info.mkdir(parents=True)
    (site / "batches_sink.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: batches-sink\nVersion: 1\n")
    (toml,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    name, value = re.findall(r'^(\w+) = "(.*)"$', toml, re.MULTILINE)[0]
    (info / "entry_points.txt").write_text(f"[mpsr.sinks]\n{name} = {value}\n")
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    funnel = funnels("batches:kept").start()
    funnel.send(b"one", b"two")
    funnel.kill()
    funnel.start()
    funnel.send(b"three")
    assert funnel.end() == 0, funnel.told
    written = [file.read_bytes() for file in sorted((tmp_path / "kept").iterdir())]
    assert b"".join(written) == b"one\ntwo\nthree\n"


def test_delivery_of_the_page_runs_in_a_program_of_its_own(tmp_path: Path) -> None:
    text = (PAGES[0].parent / "sinks.md").read_text()
    (code,) = [
        each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Delivery" in each
    ]
    stopping = "    import signal\n    signal.signal(signal.SIGTERM, lambda *_: delivery.stop())\n"
    stopping += "    open('ready', 'x').close()\n"
    code = code.replace("    delivery.wait()", f"{stopping}    delivery.wait()")
    program = subprocess.Popen([sys.executable, "-W", "error", "-c", code], cwd=tmp_path)
    import mpsr

    with mpsr.Producer(tmp_path / "app.sock") as producer:
        producer.send(b"hello")
        producer.flush(30)
    eventually((tmp_path / "ready").exists)
    program.terminate()
    assert program.wait(30) == 0
    assert b'"body":"hello"' in (tmp_path / "app.jsonl").read_bytes()
