"""The handler: what a record becomes, and that the program neither waits nor fails for it."""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
import queue
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

import mpsr
import mpsr.logging
from tests.process.programs import begin, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 20  # seconds: longer means that it hangs


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """Give a logger of its own, without handlers when the test has ended."""
    logger = logging.getLogger("app.test")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def served(receiver: mpsr.Receiver[bytes], serve: Callable[[], object]) -> Iterator[None]:
    """Receive in a thread, which has ended when the block has, before the receiver is closed."""
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        receiver.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def received(receiver: mpsr.Receiver[bytes], count: int = 1) -> list[dict[str, Any]]:
    """Return so many records, as fields."""
    return [json.loads(receiver.receive(PATIENCE)) for _ in range(count)]


def test_dict_config_takes_the_handler_in_three_lines(address: str) -> None:
    """A class, an address, and who uses it."""
    program = """if True:
        import logging, logging.config, sys
        logging.config.dictConfig({
            "version": 1,
            "handlers": {"mpsr": {"class": "mpsr.logging.Handler", "address": sys.argv[1]}},
            "root": {"handlers": ["mpsr"], "level": "INFO"},
        })
        logging.getLogger("app").info("hello %s", "world")
        """
    with mpsr.Receiver(address) as receiver:
        process = begin(program, address)
        (fields,) = received(receiver)
        receiver.acknowledge(1)
        assert process.communicate(timeout=PATIENCE) == ("", "")
    assert (fields["logger"], fields["level"], fields["message"]) == ("app", "INFO", "hello world")
    assert fields["process"] == process.pid


def test_record_arrives_with_its_standard_fields(address: str, log: logging.Logger) -> None:
    """All that a record says of itself, and nothing of what it has not."""
    with mpsr.Receiver(address) as receiver:
        log.addHandler(mpsr.logging.Handler(address))
        record = log.makeRecord("app", 35, "/src/a.py", 7, "%s-%s", ("a", "ü"), None, "work")
        log.handle(record)
        (fields,) = received(receiver)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "Level 35",
        "levelno": 35,
        "logger": "app",
        "message": "a-ü",
        "process": record.process,
        "process_name": record.processName,
        "thread": threading.get_ident(),
        "thread_name": record.threadName,
        "module": "a",
        "function": "work",
        "line": 7,
        "path": "/src/a.py",
    }


def test_record_comes_back_as_it_was(address: str, log: logging.Logger) -> None:
    """``decode`` gives a record that formats as the one that was sent."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(host)s %(message)s")
    sent: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        sent.append(record)
        return True

    log.addFilter(keep)
    with mpsr.Receiver(address) as receiver:
        log.addHandler(mpsr.logging.Handler(address))
        try:
            raise ValueError("wrong")
        except ValueError:
            log.exception("failed\nat %d", 3, extra={"host": "db"}, stack_info=True)
        record = mpsr.logging.decode(receiver.receive(PATIENCE))
    assert formatter.format(record) == formatter.format(sent[0])
    for name in ("process", "processName", "threadName", "lineno", "pathname", "filename"):
        assert getattr(record, name) == getattr(sent[0], name)


class Mute:
    """Cannot tell what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("mute")


def test_extra_becomes_what_json_has(address: str, log: logging.Logger) -> None:
    """Objects become their repr; cycles, depth, length and failures are bounded."""
    cycle: list[Any] = []
    cycle.append(cycle)
    extra = {
        "n": 1,
        "ok": None,
        "inf": float("inf"),
        "big": 10**5000,
        "surrogate": "\ud800",
        "object": object,
        "mute": Mute(),
        "pairs": {1: (2, 3.5), "x": {"y"}},
        "cycle": cycle,
        "many": list(range(5000)),
    }
    with mpsr.Receiver(address) as receiver:
        log.addHandler(mpsr.logging.Handler(address))
        log.info("x", extra=extra)
        fields = received(receiver)[0]["extra"]
    assert {name: fields[name] for name in ("n", "ok", "inf", "surrogate", "object", "pairs")} == {
        "n": 1,
        "ok": None,
        "inf": "inf",
        "surrogate": "?",
        "object": "<class 'object'>",
        "pairs": {"1": [2, 3.5], "x": "{'y'}"},
    }
    assert fields["mute"] == "<Mute, of which repr() raised RuntimeError>"
    assert fields["big"] == "<int, of which repr() raised ValueError>"
    assert json.dumps(fields["cycle"]) == json.dumps([[[[[[["…"]]]]]]], ensure_ascii=True)
    assert len(fields["many"]) < 1001
    assert "items left out" in fields["many"][-1]


def test_log_call_that_does_not_fit_its_arguments_never_raises(
    address: str, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told as the standard library tells it, and counted."""
    handler = mpsr.logging.Handler(address)
    # Not through the logger, where pytest's own handler raises.
    handler.handle(log.makeRecord("app", 20, "", 0, "%d", ("x",), None))
    handler.close()
    assert "--- Logging error ---" in capsys.readouterr().err
    assert handler.lost == 1


def test_formatter_makes_the_message_and_leaves_the_exception(
    address: str, log: logging.Logger
) -> None:
    """So a traceback is not in the record twice."""
    with mpsr.Receiver(address) as receiver:
        handler = mpsr.logging.Handler(address)
        handler.setFormatter(logging.Formatter("<%(message)s>"))
        log.addHandler(handler)
        log.error("x", exc_info=ValueError("wrong"))
        (fields,) = received(receiver)
    assert fields["message"] == "<x>"
    assert fields["exception"]["type"] == "ValueError"
    assert fields["exception"]["message"] == "wrong"


def test_queue_and_memory_handlers_hand_records_on(address: str, log: logging.Logger) -> None:
    """The handler works behind those of the standard library that keep records."""
    handler = mpsr.logging.Handler(address)
    records: queue.Queue[Any] = queue.Queue()
    listener = logging.handlers.QueueListener(records, handler)
    memory = logging.handlers.MemoryHandler(10, target=handler)
    with mpsr.Receiver(address) as receiver:
        log.addHandler(logging.handlers.QueueHandler(records))
        log.addHandler(memory)
        listener.start()
        log.info("queued %d", 1, extra={"a": 1})
        (first,) = received(receiver)
        memory.flush()
        (second,) = received(receiver)
        listener.stop()
    assert [first["message"], second["message"]] == ["queued 1", "queued 1"]
    assert first["extra"] == second["extra"] == {"a": 1}
    handler.close()


def test_drops_are_counted_and_told_to_the_receiver(address: str, log: logging.Logger) -> None:
    """What found no room before the receiver came is a number there, and here."""
    handler = mpsr.logging.Handler(address, buffer=10_000)
    log.addHandler(handler)
    for number in range(200):
        log.info("%d", number)
    lost = handler.lost
    assert 0 < lost < 200
    with mpsr.Receiver(address) as receiver:
        told = kept = 0
        while told + kept < 200:
            batch = receiver.receive_batch(PATIENCE)
            told, kept = told + batch.lost, kept + len(batch)
    assert (told, kept) == (lost, 200 - lost)


@pytest.mark.parametrize("on_full", ["raise", "block"])
def test_full_buffer_never_raises_into_the_program(
    address: str, log: logging.Logger, on_full: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was not taken is told once, in a line, and counted."""
    handler = mpsr.logging.Handler(address, buffer=2000, on_full=on_full, timeout=0.05)
    log.addHandler(handler)
    for number in range(12):
        log.info("%d", number)
    assert 0 < handler.lost < 12
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("mpsr: no room for 1 message")


def test_record_behind_close_opens_the_handler_again(address: str, log: logging.Logger) -> None:
    """As it is with the standard library's: dictConfig closes handlers that are still in use."""
    handler = mpsr.logging.Handler(address)
    log.addHandler(handler)
    handler.close()
    with mpsr.Receiver(address) as receiver:
        log.info("again")
        assert received(receiver)[0]["message"] == "again"


def test_mpsrs_own_warnings_do_not_come_back(address: str) -> None:
    """Nor what this process has received: neither begets records without end."""
    root = logging.getLogger()
    handler = mpsr.logging.Handler(address)
    root.addHandler(handler)
    try:
        logging.getLogger("mpsr").warning("of mpsr's own")
        logging.getLogger("mpsr.logging").warning("too")
        logging.getLogger("mpsrx").warning("another's")
        with mpsr.Receiver(address) as receiver:
            with served(receiver, lambda: mpsr.logging.listen(receiver)):
                handler.flush()
        assert handler.stats().sent == 1
    finally:
        root.removeHandler(handler)
        handler.close()


@pytest.mark.timing
def test_without_a_receiver_log_calls_stay_fast(address: str, log: logging.Logger) -> None:
    """The 99th percentile of a call grows by less than a millisecond, with a full buffer, too."""
    handler = mpsr.logging.Handler(address, buffer=200_000)
    log.addHandler(handler)

    def percentile() -> float:
        times: list[float] = []
        for number in range(3000):
            since = perf_counter()
            log.info("%d", number)
            times.append(perf_counter() - since)
        return sorted(times)[2970]

    # The machine may be busy for a while; the handler would be slow each time.
    assert any(percentile() < 0.001 for _ in range(5))
    assert handler.lost


ENDING = """if True:
    import logging, mpsr.logging, signal, sys
    handler = mpsr.logging.Handler(sys.argv[1])
    logging.getLogger().addHandler(handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    for number in range(1000):
        logging.error("%d", number)
    print("ready", flush=True)
    signal.pause()
    """


def test_without_a_receiver_the_end_does_not_wait(address: str) -> None:
    """SIGTERM ends the program at once, whatever the handler's time-out; it prints the loss."""
    process = begin(ENDING.replace("[1]", "[1], timeout=1000"), address)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert complaint.startswith(f"mpsr: 1000 log records to {address} not delivered")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("where", ["main", "child"])
def test_end_counts_all_records_that_were_not_delivered(address: str, where: str) -> None:
    """Those that found no room, too, in a child of multiprocessing as in the main process."""
    program = """if True:
        import logging, mpsr.logging, multiprocessing, sys
        def work():
            logging.getLogger().addHandler(mpsr.logging.Handler(sys.argv[1], buffer=10_000))
            for number in range(1000):
                logging.error("%d", number)
        if sys.argv[2] == "main":
            work()
        else:
            process = multiprocessing.get_context("fork").Process(target=work)
            process.start()
            process.join()
        """
    outcome = run(program, address, where)
    assert outcome.status == 0
    assert outcome.complaint.startswith(f"mpsr: 1000 log records to {address} not delivered: ")
    assert outcome.complaint.count("\n") == 1


def test_drops_are_the_cause_if_all_other_records_arrive(
    address: str, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = mpsr.logging.Handler(address, buffer=10_000, timeout=PATIENCE)
    log.addHandler(handler)
    for number in range(200):
        log.info("%d", number)
    with mpsr.Receiver(address) as receiver:
        with served(receiver, lambda: [*receiver]):
            handler.close()
    told = capsys.readouterr().err
    assert told.startswith(f"mpsr: {handler.lost} log records to {address} not delivered: the buf")
    assert told.count("\n") == 1


@pytest.mark.parametrize("flush", [False, True])
def test_record_that_is_larger_than_the_receiver_takes_is_counted_with_the_cause(
    address: str, log: logging.Logger, capsys: pytest.CaptureFixture[str], flush: bool
) -> None:
    """Whether ``flush()`` or ``close()`` learns of it; the others arrive."""
    handler = mpsr.logging.Handler(address, timeout=PATIENCE)
    log.addHandler(handler)
    log.info("x" * 10_000)
    log.info("last")
    with mpsr.Receiver(address, max_message=8192) as receiver:
        got: list[bytes] = []

        def end() -> None:
            if flush:
                handler.flush()
            handler.close()

        with served(receiver, lambda: got.extend(receiver)):
            end()
    assert [json.loads(body)["message"] for body in got] == ["last"]
    assert handler.lost == 1
    told = capsys.readouterr().err
    assert told.startswith(f"mpsr: 1 log record to {address} not delivered: ")
    assert "the receiver takes messages of 8192 bytes at most" in told
    assert told.count("\n") == 1


def test_process_that_lives_within_a_restart_of_the_receiver_loses_nothing(address: str) -> None:
    """It has met no receiver, but one was there: so the end waits for the next."""
    with mpsr.Receiver(address):
        pass
    program = ENDING.replace("signal.pause()", "").replace("[1]", f"[1], timeout={PATIENCE}")
    process = begin(program, address)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with mpsr.Receiver(address) as receiver:
        assert len(received(receiver, 1000)) == 1000
        receiver.acknowledge(1000)
        assert process.communicate(timeout=PATIENCE) == ("", "")


def test_receiver_that_stands_still_delays_the_end_no_longer_than_told(address: str) -> None:
    """``flush`` and ``close``, which the end calls one after the other, wait once."""
    with mpsr.Receiver(address):
        process = begin(
            ENDING.replace("signal.pause()", "").replace("[1]", "[1], timeout=2"), address
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        since = perf_counter()
        _, complaint = process.communicate(timeout=PATIENCE)
        took = perf_counter() - since
    assert process.returncode == 0
    assert took < 3.9
    assert "1000 log records" in complaint


def test_flush_returns_once_all_is_accepted(address: str, log: logging.Logger) -> None:
    """So a program can be sure before it ends with ``os._exit``."""
    handler = mpsr.logging.Handler(address, timeout=PATIENCE)
    log.addHandler(handler)
    with mpsr.Receiver(address) as receiver:
        with served(receiver, lambda: [*receiver]):
            for number in range(1000):
                log.info("%d", number)
            handler.flush()
            assert handler.stats().accepted == 1000


FORKING = """if True:
    import logging, mpsr.logging, multiprocessing, os, sys
    def work(number):
        logging.getLogger("app").warning("child", extra={"n": number})
    def configure(address):
        logging.getLogger().addHandler(mpsr.logging.Handler(address))
    if __name__ == "__main__":
        address, how = sys.argv[1:]
        configure(address)
        logging.getLogger("app").warning("parent", extra={"n": 0})
        if how == "os.fork":
            for number in range(1, 5):
                if os.fork() == 0:
                    work(number)
                    sys.exit()
            for _ in range(4):
                os.wait()
        else:
            context = multiprocessing.get_context(how)
            start = {"initializer": configure, "initargs": (address,)} if how != "fork" else {}
            with context.Pool(2, maxtasksperchild=2, **start) as pool:
                pool.map(work, range(1, 5), chunksize=1)
                pool.close()
                pool.join()
    """


@pytest.mark.parametrize("how", ["os.fork", "fork", "spawn", "forkserver"])
def test_children_log_whole_however_they_are_started(
    address: str, how: str, tmp_path: Path
) -> None:
    """Each child's records come once, over a connection of its own; the parent's stay its own."""
    program = tmp_path / "program.py"
    program.write_text(FORKING)
    with mpsr.Receiver(address) as receiver:
        with subprocess.Popen(
            [sys.executable, "-W", "ignore:This process:DeprecationWarning", program, address, how],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                found = received(receiver, 5)
                with served(receiver, lambda: [*receiver]):  # acknowledges the last
                    _, complaint = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()  # else the block waits for one that hangs
    assert (process.returncode, complaint) == (0, "")
    assert sorted(each["extra"]["n"] for each in found) == list(range(5))
    assert len({each["process"] for each in found}) >= 3
