"""What a journal holds after its process was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from ast import literal_eval

import pytest

from mpsr.journal import Journal
from tests.journal.entries import body, read_all

WORKER = """
import os, signal, sys
from mpsr import journal as module
from tests.journal.entries import numbered, PRODUCER

path, wanted, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def at(point):
    global left
    if point == wanted:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

module._at = at
journal = module.Journal(path, limit=8 << 20)
journal.cursor("reader")
journal.commit()
while True:
    first = journal.last + 1
    entries = [numbered(first, 3, 40_000), numbered(first + 3, 1)]
    tracks = [module.TrackState(0, PRODUCER, 1, first + 4)]
    os.write(1, b"'appending %d'\\n" % (first + 3))
    os.write(1, b"%r\\n" % journal.append(entries, tracks)[-1:])
    for record in journal.read(journal.cursor("reader"))[:1]:
        journal.move("reader", record.position)
    journal.commit()
    os.write(1, b"('cursor', %d)\\n" % journal.cursor("reader"))
"""
POINTS = ["before-commit", "after-commit", "before-cursor", "checkpoint", "trim"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    "hit", [5, 12, *[pytest.param(hit, marks=pytest.mark.soak) for hit in range(13, 31)]]
)
def test_kill_leaves_what_was_appended_and_nothing_twice(path: str, point: str, hit: int) -> None:
    command = [sys.executable, "-c", WORKER, path, point, str(hit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    said = [literal_eval(line) for line in done.stdout.splitlines()]
    confirmed = max(last[0] for last in said if isinstance(last, list))
    cursor = max((item[1] for item in said if isinstance(item, tuple)), default=0)
    begun = max(int(text.split()[1]) for text in said if isinstance(text, str))
    with Journal(path) as journal:
        assert journal.set_aside is None
        assert journal.last in {confirmed, begun}
        assert journal.tracks()[0].expected_seq == journal.last + 1
        assert journal.cursor("reader") >= cursor >= 0
        assert journal.trimmed <= journal.cursor("reader")
        found = read_all(journal)
        assert list(found) == [*range(journal.trimmed + 1, journal.last + 1)]
        sizes = {n: 0 if n % 4 == 0 else 40_000 for n in found}
        assert found == {n: body(n, size) for n, size in sizes.items()}
