"""Be a receiver, producer or journal to which one system call is refused: ROLE CALL ERROR PATH."""

from __future__ import annotations

import os
import sys
import time
import traceback

import mpsr
from tests.refusals.seccomp import refuse

PATIENCE = 0.7  # seconds: a refused call ends after that at the latest
MESSAGES = [b"first", b"second" * 1000]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the test reads it


def receive(path: str, **options: object) -> None:
    with mpsr.Receiver[bytes](path, **options) as receiver:  # type: ignore[arg-type]
        say("listening")
        got: list[bytes] = []
        while len(got) < len(MESSAGES):
            got += receiver.receive_batch(PATIENCE)
        receiver.acknowledge()
        assert got == MESSAGES


def send(path: str, **options: object) -> None:
    with mpsr.Producer[bytes](path, **options) as producer:  # type: ignore[arg-type]
        producer.send_many(MESSAGES)
        producer.flush(PATIENCE)


def play(role: str, path: str) -> None:
    kind = role.partition(" ")[2] or "stream"
    if role.startswith("producer"):
        send(path, type=kind)
    elif role == "journal":
        receive(path, journal=f"{path}.journal")
    else:
        receive(path, type=kind)


if __name__ == "__main__":
    role, call, error, path = sys.argv[1:]
    refuse(call, error)
    begun = time.process_time()
    try:
        play(role, path)
    except (mpsr.MpsrError, OSError) as exc:
        say(f"{type(exc).__name__}: {exc}")
    except Exception:  # noqa: BLE001 - the test finds the traceback
        traceback.print_exc(file=sys.stdout)
    else:
        say("works")
    say(f"seconds: {time.process_time() - begun:.2f}")
    sys.stderr.flush()
    os._exit(0)  # the end of the interpreter is not under test
