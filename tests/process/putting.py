"""Put objects to a queue from other processes, which import no more than this for it."""

from __future__ import annotations

import json
import logging
import logging.handlers
from typing import Any


def to_json(obj: object) -> bytes:
    return json.dumps(obj).encode()


def put_numbers(writer: Any, worker: int) -> None:
    for number in range(100):
        writer.put([worker, number])
    writer.close()
    writer.join_thread()


_inherited: Any = None


def keep(writer: Any) -> None:
    global _inherited  # noqa: PLW0603 - as an initializer does it
    _inherited = writer


def put_square(number: int) -> int:
    _inherited.put(number * number)
    return number


def log(writer: Any, worker: int) -> None:
    logger = logging.getLogger("worker")
    logger.addHandler(logging.handlers.QueueHandler(writer))
    try:
        raise KeyError(worker)
    except KeyError:
        logger.exception("worker %d failed", worker, extra={"worker": worker})
    writer.close()
    writer.join_thread()
