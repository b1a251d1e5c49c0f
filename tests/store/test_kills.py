"""What a journal holds after its process was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from ast import literal_eval

import pytest

from mpsr.store.journal import Journal
from tests.process.points import POINTS
from tests.store.entries import body, read_all

WORKER = """
import os, sys
from mpsr.store.journal import Journal
from tests.process import points
from tests.store.entries import numbered

path, point, hit = sys.argv[1], sys.argv[2], int(sys.argv[3])
points.die(point, hit)
journal = Journal(path, limit=2 << 20)
journal.cursor("reader")
journal.commit()
while True:
    first = journal.last + 1
    entries = [numbered(first, 3, 40_000), numbered(first + 3, 1)]
    os.write(1, b"'appending %d'\\n" % (first + 3))
    os.write(1, b"%r\\n" % journal.append(entries)[-1:])
    journal.move("reader", max(journal.cursor("reader"), first - 4))
    journal.commit()
    os.write(1, b"('cursor', %d)\\n" % journal.cursor("reader"))
"""


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    "hit", [2, 9, 20, *[pytest.param(hit, marks=pytest.mark.soak) for hit in range(21, 80)]]
)
def test_kill_leaves_what_was_appended_and_nothing_twice(path: str, point: str, hit: int) -> None:
    command = [sys.executable, "-c", WORKER, path, point, str(hit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    said = [literal_eval(line) for line in done.stdout.splitlines()]
    confirmed = max((last[0] for last in said if isinstance(last, list)), default=0)
    cursor = max((item[1] for item in said if isinstance(item, tuple)), default=0)
    begun = max((int(text.split()[1]) for text in said if isinstance(text, str)), default=0)
    with Journal(path, limit=2 << 20) as journal:
        assert journal.set_aside is None
        assert confirmed <= journal.last <= begun
        assert [state.expected_seq for state in journal.producers()] == (
            [journal.last + 1] if journal.last else []
        )
        assert journal.cursor("reader") >= cursor >= 0
        assert journal.trimmed <= journal.cursor("reader")
        found = read_all(journal)
        assert list(found) == [*range(journal.trimmed + 1, journal.last + 1)]
        sizes = {n: 0 if n % 4 == 0 else 40_000 for n in found}
        assert found == {n: body(n, size) for n, size in sizes.items()}
