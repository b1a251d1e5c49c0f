"""Start children, one after the other, each of which sends and then ends in its own way.

A child gets the objects by which it sends in one way. Through each of them, it sends ``COUNT``
messages, ``WAY/END/KIND NUMBER``.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import mpsr
from mpsr.logging import Handler

if TYPE_CHECKING:
    from collections.abc import Iterable

COUNT: Final = 50  # messages per object
ENDS: Final = (
    "return",
    "sys.exit",
    "status 3",
    "error",
    "interrupt",
    "close",
    "flush and _exit",
    "thread",
    "grandchild",
)
STATUS: Final = {"status 3": 3, "error": 1, "interrupt": 1}  # the others end with 0
GIVEN: Final = ("queue", "producer")  # these can be pickled
ALL: Final = (*GIVEN, "handler")
ADDRESS: Final = "MPSR_TEST_CHILDREN"  # the variable that has it when this module is imported


def open_given(address: str) -> dict[str, Any]:
    """Return one object of each kind that can be pickled."""
    return {"queue": mpsr.queue(address), "producer": mpsr.Producer(address)}


def open_all(address: str) -> dict[str, Any]:
    """Return one object of each kind that sends."""
    return {**open_given(address), "handler": Handler(address, timeout=30)}


# Made when a child imports this module, or inherited by a fork.
own: dict[str, Any] = open_all(os.environ[ADDRESS]) if ADDRESS in os.environ else {}


def send(objects: dict[str, Any], name: str) -> None:
    """Send through every object."""
    for kind, each in objects.items():
        for number in range(COUNT):
            text = f"{name}/{kind} {number}"
            if kind == "queue":
                each.put(text.encode())
            elif kind == "producer":
                each.send(text.encode())
            else:
                each.emit(logging.LogRecord("log", logging.INFO, __file__, 1, text, (), None))


def close_all(objects: dict[str, Any]) -> None:
    for each in objects.values():
        each.close()
    objects["queue"].join_thread()


def run(method: str, way: str, end: str, given: dict[str, Any]) -> None:
    """Do what a child does."""
    objects = given or (open_all(os.environ[ADDRESS]) if way == "made" else own)
    if end == "grandchild":
        context: Any = multiprocessing.get_context(method)
        child = context.Process(
            target=send, args=({kind: objects[kind] for kind in GIVEN}, f"{way}/{end}")
        )
        child.start()  # the end of this process waits for it
        return
    if end == "thread":

        def send_late() -> None:
            threading.main_thread().join()
            send(objects, f"{way}/{end}")

        threading.Thread(target=send_late).start()
        return
    send(objects, f"{way}/{end}")
    finish(end, objects)


def finish(end: str, objects: dict[str, Any]) -> None:
    """End this process, unless the end is to return."""
    if end == "sys.exit":
        sys.exit()
    if end == "status 3":
        sys.exit(3)
    if end == "error":
        raise LookupError("as the test asks for")
    if end == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if end == "close":
        close_all(objects)
    if end == "flush and _exit":
        objects["queue"].producer.flush(30)
        objects["producer"].flush(30)
        if "handler" in objects:
            objects["handler"].flush()
        os._exit(0)


class Child(multiprocessing.Process):
    """A child that has its object as an attribute."""

    def __init__(self, objects: dict[str, Any]) -> None:
        super().__init__()
        self.objects = objects

    def run(self) -> None:
        send(self.objects, "attribute/return")


_initialized: dict[str, Any] = {}


def initialize(objects: dict[str, Any]) -> None:
    _initialized.update(objects)


def send_initialized(name: str) -> None:
    send(_initialized, name)


def expected(ends: Iterable[str]) -> set[str]:
    """Return the names under which the children of ``main`` send."""
    names = {f"argument/{end}/{kind}" for end in ends for kind in GIVEN}
    for way in ("module", "made"):
        names |= {
            f"{way}/{end}/{kind}"
            for end in ends
            for kind in (GIVEN if end == "grandchild" else ALL)
        }
    names |= {f"attribute/return/{kind}" for kind in GIVEN}
    pools = ["Pool", "Pool of one task", "Executor"]
    names |= {f"initializer/{pool}/{kind}" for pool in pools for kind in GIVEN}
    return names | {f"task/{pool}/{kind}" for pool in pools for kind in GIVEN}


def main(method: str, preload: bool, *ends: str) -> None:
    address = os.environ[ADDRESS]
    multiprocessing.set_start_method(method)
    context: Any = multiprocessing.get_context()
    if preload:
        context.set_forkserver_preload([__name__])
    given = open_given(address)
    for way in ("argument", "module", "made"):
        for end in ends:
            arguments = (method, way, end, given if way == "argument" else {})
            child = context.Process(target=run, args=arguments)
            child.start()
            child.join()
            assert child.exitcode == STATUS.get(end, 0), (way, end, child.exitcode)
    child = Child(given)
    child.start()
    child.join()
    for tasks, name in ((None, "Pool"), (1, "Pool of one task")):
        with context.Pool(1, initialize, (given,), maxtasksperchild=tasks) as pool:
            pool.apply(send_initialized, (f"initializer/{name}",))
            pool.apply(send, (given, f"task/{name}"))
            pool.close()
            pool.join()
    with ProcessPoolExecutor(1, context, initialize, (given,)) as executor:
        executor.submit(send_initialized, "initializer/Executor").result()
        executor.submit(send, given, "task/Executor").result()
    close_all(given)
