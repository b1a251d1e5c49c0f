"""The programs of the pages on logging, run as pasted, each beside ``mpsr recv``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

import mpsr
import mpsr.logging

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
BLOCKS = re.findall(r"```python\n(.*?)```", (HOW_TO / "logging.md").read_text(), re.DOTALL)
DICT, HAND, STRUCTLOG, LOGURU, POOL, _, CELERY, ASYNC = BLOCKS


def test_programs_log_to_the_command(tmp_path: Path) -> None:
    """The receiver prints a line per record of each program, with its extra fields."""
    programs = {
        DICT: ["user 7 logged in host=db1"],
        HAND: ["user 7 logged in host=db1"],
        STRUCTLOG: ["logged in user=7"],
        LOGURU: ['logged in extra={"user":7}'],
        POOL: [f"worked on {number}" for number in range(8)],
    }
    wanted = Counter(line for lines in programs.values() for line in lines)
    command = [sys.executable, "-m", "mpsr", "recv", "app.sock", "--decode", "log"]
    command += ["--journal", "app.journal", "--count", str(wanted.total()), "--timeout", "20s"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as receiver:
        assert receiver.stderr is not None
        assert "listening on" in receiver.stderr.readline()
        for program in programs:
            (tmp_path / "program.py").write_text(program)
            subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True, timeout=20)
        printed, _ = receiver.communicate(timeout=30)
    lines = printed.splitlines()
    assert Counter(line.rstrip().partition("]: ")[2] for line in lines) == wanted


def test_async_program_handles_records(tmp_path: Path) -> None:
    """What is sent to it is logged there, under the sender's logger and process."""
    with subprocess.Popen(
        [sys.executable, "-c", ASYNC], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as receiver:
        with mpsr.Producer(tmp_path / "app.sock") as producer:
            producer.send(b'{"level":"ERROR","message":"of another program","logger":"node"}')
            producer.flush(20)
        assert receiver.stderr is not None
        line = receiver.stderr.readline()
        receiver.terminate()
    assert line.endswith(" node[None] ERROR of another program\n")


TASKS = """
from celery import Celery

transport = {"data_folder_in": "queue", "data_folder_out": "queue"}
app = Celery("tasks", broker="filesystem://", broker_transport_options=transport)
app.conf.worker_max_tasks_per_child = 5

@app.task
def work(number):
    logging.getLogger("app").info("worked", extra={"n": number})
"""


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_celery_logs_each_record_once(tmp_path: Path) -> None:
    """Through the ends of its children, in the order of each."""
    (tmp_path / "queue").mkdir()
    (tmp_path / "tasks.py").write_text(CELERY + TASKS)
    begin = "import tasks\nfor number in range(40): tasks.work.delay(number)"
    subprocess.run([sys.executable, "-c", begin], cwd=tmp_path, check=True, timeout=30)
    worker = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "3", "-P", "prefork"]
    found: list[int] = []
    with (
        mpsr.Receiver(tmp_path / "app.sock") as receiver,
        (tmp_path / "told").open("wb") as told,
        subprocess.Popen(worker, cwd=tmp_path, stdout=told, stderr=told) as process,
    ):
        try:
            while len(found) < 40:
                record = mpsr.logging.decode(receiver.receive(60))
                if record.name == "app":
                    found.append(record.__dict__["n"])
        finally:
            process.terminate()
            while process.poll() is None:  # what comes with the end
                with suppress(mpsr.TimedOut):
                    assert mpsr.logging.decode(receiver.receive(0.2)).name != "app"
    assert sorted(found) == list(range(40))
