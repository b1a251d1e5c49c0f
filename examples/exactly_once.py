"""Handle every message exactly once, even if this program is killed at any moment.

    python examples/exactly_once.py [PATH [JOURNAL [DATABASE]]]

One transaction holds the results, the messages that could not be handled, and the position up to
which both reach.
"""

import json
import signal
import sqlite3
import sys
from contextlib import closing

import mpsr

TABLES = """
CREATE TABLE IF NOT EXISTS results (pid INTEGER, name TEXT, value REAL);
CREATE TABLE IF NOT EXISTS dead_letters (pid INTEGER, body BLOB, reason TEXT);
CREATE TABLE IF NOT EXISTS progress (position INTEGER);
"""


def main(path: str = "demo.sock", journal: str = "demo.journal", database: str = "demo.db") -> None:
    receiver = mpsr.Receiver(path, journal=journal, decode=json.loads)
    with closing(sqlite3.connect(database)) as ours, receiver as events:
        signal.signal(signal.SIGTERM, lambda *_: events.stop())
        ours.executescript(TABLES)
        (done,) = ours.execute("SELECT ifnull(max(position), 0) FROM progress").fetchone()
        print(f"Receiving at {path}, after position {done}", flush=True)
        for batch in events.batches(after=done):
            with ours:  # one transaction
                for index, body in enumerate(batch.raw):
                    try:
                        event = batch[index]  # decodes it
                        row = (batch.peer.pid, str(event["name"]), float(event["value"]))
                    except (mpsr.DecodeError, LookupError, TypeError, ValueError) as exc:
                        letter = (batch.peer.pid, body, repr(exc))
                        ours.execute("INSERT INTO dead_letters VALUES (?, ?, ?)", letter)
                    else:
                        ours.execute("INSERT INTO results VALUES (?, ?, ?)", row)
                ours.execute("DELETE FROM progress")
                ours.execute("INSERT INTO progress VALUES (?)", (batch.position,))


if __name__ == "__main__":
    main(*sys.argv[1:])
