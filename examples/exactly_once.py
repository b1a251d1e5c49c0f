"""Handle every message exactly once, though this program be killed at any moment.

    python examples/exactly_once.py [PATH [JOURNAL [DATABASE]]]

The results and the position up to which they reach are committed together, in a database of
ours; after a crash both are there or neither, and the journal still holds what comes next.
"""

import signal
import sqlite3
import sys
from contextlib import closing

import mpsr

TABLES = """
CREATE TABLE IF NOT EXISTS results (producer INTEGER, body BLOB);
CREATE TABLE IF NOT EXISTS progress (position INTEGER);
"""


def main(
    path: str = "demo.sock", journal: str = "demo.journal", database: str = "results.db"
) -> None:
    with closing(sqlite3.connect(database)) as ours, mpsr.Receiver(path, journal=journal) as events:
        signal.signal(signal.SIGTERM, lambda *_: events.stop())
        ours.executescript(TABLES)
        (done,) = ours.execute("SELECT ifnull(max(position), 0) FROM progress").fetchone()
        print(f"Receiving at {path}, after position {done}", flush=True)
        for batch in events.batches(after=done):
            rows = [(batch.peer.pid, message) for message in batch]
            with ours:  # one transaction
                ours.executemany("INSERT INTO results VALUES (?, ?)", rows)
                ours.execute("DELETE FROM progress")
                ours.execute("INSERT INTO progress VALUES (?)", (batch.position,))


if __name__ == "__main__":
    main(*sys.argv[1:])
