"""Be the processes of these tests: ``python -m tests.process.roles DESCRIPTOR`` forks them."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import resource
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import mpsr
from mpsr.engine.receiving.handover import Giver
from mpsr.engine.sending.window import Window
from mpsr.front import takeover
from mpsr.limits import KIB
from tests.eventually import eventually
from tests.limits import set_limits
from tests.process import points
from tests.process.forking import serve
from tests.process.stamps import Tally, digest_of, stamp_of, stamped

if TYPE_CHECKING:
    from collections.abc import Callable

STDIN: Final = io.FileIO(0, closefd=False)


def say(value: object = None) -> None:
    """Say something to the test."""
    os.write(1, json.dumps(value).encode() + b"\n")


def hear() -> Any:
    """Wait for what the test says; read no further, for a fork may have the next line."""
    return json.loads(STDIN.readline())


def told() -> bool:
    """Tell whether the test has said something."""
    return bool(select.select([0], [], [], 0)[0])


class Record:
    """A file that several processes append to; its order is the order of the events."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, **event: object) -> None:
        os.write(self._file, b"\n" + json.dumps(event).encode() + b"\n")

    @staticmethod
    def events(path: Path) -> list[dict[str, Any]]:
        """Return all events, but those that a killed process had not written to the end."""
        return [json.loads(line) for line in path.read_bytes().splitlines() if line[-1:] == b"}"]


def note_batch(record: Record, batch: mpsr.Batch, **more: object) -> None:
    """Note what a batch holds; fail if that is not a run of whole messages of its sender."""
    stamps = [stamp_of(message) for message in batch]
    first = stamps[0].number if stamps else 0
    for number, stamp in enumerate(stamps, first):
        assert stamp == (stamps[0].source, number)
        assert stamp.source.pid == batch.peer.pid
    record.note(
        receiver=os.getpid(),
        producer=batch.peer.pid,
        first=first,
        count=len(stamps),
        lost=batch.lost,
        **more,
    )


# -- receivers --------------------------------------------------------------------------------


def receive(
    address: str,
    record: str,
    *,
    limits: dict[str, float] | None = None,
    spare_descriptors: int | None = None,
    **options: Any,
) -> None:
    """Note every batch before coming back for more; end at SIGTERM, tell statistics at SIGUSR1."""
    set_limits(**(limits or {}))
    notes = Record(record)
    with mpsr.Receiver(address, **options) as receiver:
        signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
        signal.signal(signal.SIGUSR1, lambda *_: say(receiver.stats()._asdict()))
        if spare_descriptors is not None:
            used = len(os.listdir("/proc/self/fd")) - 1  # less the one that lists them
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare_descriptors, hard))
        say("ready")
        for number, batch in enumerate(receiver.batches()):
            note_batch(notes, batch)
            if number == 0:
                say("receiving")
    say(receiver.stats()._asdict())


def receive_journaled(
    address: str,
    record: str,
    journal: str,
    *,
    kill_at: str = "",
    hit: int = 1,
    pause: float = 0,
    **options: Any,
) -> None:
    """Note every batch with its position; end at SIGTERM, or at a named point with SIGKILL."""
    if kill_at:
        points.die(kill_at, hit)
    notes = Record(record)
    with mpsr.Receiver(address, journal=journal, **options) as receiver:
        signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
        say("ready")
        for number, batch in enumerate(receiver.batches()):
            time.sleep(pause)
            note_batch(notes, batch, position=batch.position, digest=digest_of(batch))
            if number == 0:
                say("receiving")
    say(receiver.stats()._asdict())


def receive_on_word(address: str, journal: str, **options: Any) -> None:
    """Hold a journal; receive only when the test has said so, until SIGTERM."""
    tally = Tally()
    with mpsr.Receiver(address, journal=journal, **options) as receiver:
        signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
        say("ready")
        hear()
        for batch in receiver.batches():
            tally.take(batch)
    say(sorted(tally.counts.values()))


def receive_journaled_beside_children(address: str, journal: str) -> None:
    """Receive one message; then let a child try, and receive another."""
    with mpsr.Receiver(address, journal=journal) as receiver:
        say("ready")
        messages = [receiver.receive().decode()]
        for _ in range(3):
            if os.fork() == 0:
                with suppress(mpsr.Closed):
                    receiver.try_receive_batch()
                    os._exit(1)
                receiver.close()
                sys.exit()
        expect_children(3)
        say("alone")
        messages.append(receiver.receive().decode())
        say(messages)


def receive_slowly(address: str, pause: float, *, limits: dict[str, float]) -> None:
    """Take some time over every batch; end at SIGTERM, with statistics."""
    set_limits(**limits)
    with mpsr.Receiver(address) as receiver:
        signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
        say("ready")
        for _ in receiver.batches():
            time.sleep(pause)
    say(receiver.stats()._asdict())


def receive_with_child(address: str, how: str) -> None:
    """Hold an address with a child alive, which outlives this process."""
    with mpsr.Receiver(address) as receiver:
        if how == "fork":
            if os.fork() == 0:
                linger()
        elif how == "multiprocessing":
            multiprocessing.get_context("fork").Process(target=linger).start()
        else:
            say(os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "300"))
        for _ in receiver:
            pass


def linger() -> NoReturn:
    say(os.getpid())
    while True:
        signal.pause()


def race(address: str) -> None:
    """In every round try to receive at a given time; say how that went, and when it is over."""
    say("ready")
    while (moment := hear()) is not None:
        child = os.fork()
        if child == 0:
            while time.monotonic() < moment:
                pass
            try:
                receiver = mpsr.Receiver(address)
            except mpsr.AddressInUse as error:
                say({"won": False, "pid": os.getpid(), "rival": error.pid})
                os._exit(0)
            say({"won": True, "pid": os.getpid()})
            if hear() == "close":
                receiver.close()
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        say("over")


# -- producers --------------------------------------------------------------------------------


def send(address: str, messages: int, *, size: int = 0, **options: Any) -> None:
    """Send messages, close, and tell the statistics."""
    with mpsr.Producer(address, **options) as producer:
        for number in range(messages):
            producer.send(stamped(number, size=size))
    say(producer.stats()._asdict())


def send_on_demand(address: str) -> None:
    """Send and flush as many messages as the test says, each time it says so."""
    with mpsr.Producer(address) as producer:
        numbers = count()
        say("ready")
        while (messages := hear()) is not None:
            producer.send_many([stamped(next(numbers)) for _ in range(messages)])
            producer.flush()
            say("flushed")


def flood(address: str, *, size: int = 0, pause: float = 0, **options: Any) -> None:
    """Send until told to end, with a pause after each 16 messages; say how many there were."""
    with mpsr.Producer(address, **options) as producer:
        for number in count():
            producer.send(stamped(number, size=size))
            if number == 0:
                say("sending")
            if number % 16 == 0:
                if told():
                    producer.flush()
                    say(number + 1)
                    return
                if pause:
                    time.sleep(pause)


def stream(address: str, record: str, *, flush_every: int) -> None:
    """Send until told to end, and note below which number all is flushed."""
    notes = Record(record)
    with mpsr.Producer(address) as producer:
        for number in count():
            producer.send(stamped(number, size=50))
            if number % flush_every == flush_every - 1:
                producer.flush()
                notes.note(producer=os.getpid(), flushed=number + 1)
            if number % 16 == 0 and told():
                producer.flush()
                notes.note(producer=os.getpid(), flushed=number + 1)
                say(number + 1)
                return


def stream_counted(address: str, *, flush_every: int, least: int) -> None:
    """Send until told to end, and ``least`` times confirmed; say what was sent, once or more."""
    counted = {"sent": 0, "digest": 0, "confirmed": 0, "resent": 0}
    written = 0  # below this number all was written to a connection that is gone
    rewind, resume = Window.rewind, Window.resume

    def noting_rewind(window: Window) -> None:
        nonlocal written
        written = max([written, *(batch.end_seq for batch in window._inflight)])
        rewind(window)

    def noting_resume(window: Window, expected_seq: int, max_message: int) -> bool:
        counted["resent"] += max(0, written - expected_seq)
        return resume(window, expected_seq, max_message)

    Window.rewind, Window.resume = noting_rewind, noting_resume  # type: ignore[method-assign, assignment]
    with mpsr.Producer(address) as producer:
        for number in count():
            message = stamped(number, size=50)
            producer.send(message)
            counted["sent"] += 1
            counted["digest"] += digest_of([message])
            ending = number % 16 == 0 and counted["confirmed"] >= least and told()
            if ending or counted["sent"] % flush_every == 0:
                producer.flush()
                counted["confirmed"] += 1
            if ending:
                say(counted)
                return


def crowd(address: str, producers: int, messages: int) -> None:
    """Be many producers in one process."""
    crowd = [mpsr.Producer(address) for _ in range(producers)]
    for number in range(messages):
        for place, producer in enumerate(crowd):
            producer.send(stamped(number, stream=place))
    for producer in crowd:
        producer.close()


def swarm(address: str, processes: int, messages: int) -> None:
    """Be many processes, each with one producer."""
    for _ in range(processes):
        if os.fork() == 0:
            with mpsr.Producer(address) as producer:
                for number in range(messages):
                    producer.send(stamped(number))
            os._exit(0)
    expect_children(processes)


def expect_children(children: int) -> None:
    """Wait for all children; fail if there are not so many, or one failed."""
    for _ in range(children):
        _, status = os.wait()
        assert status == 0


def send_datagrams(address: str, seed: int, messages: int, **options: Any) -> None:
    """Send datagrams of mixed sizes, as ``datagrams`` makes them."""
    with mpsr.Producer(address, type="dgram", **options) as producer:
        for datagram in datagrams(seed, messages):
            producer.send(datagram)


def datagrams(seed: int, messages: int) -> Any:
    """Make datagrams of 0 to 100,000 bytes, the same for the same seed."""
    chance = random.Random(seed)
    block = chance.randbytes(200_000)
    for _ in range(messages):
        begin = chance.randrange(100_000)
        yield block[begin : begin + chance.randint(0, 100_000)]


# -- forks, and ends of programs --------------------------------------------------------------


def fork_after_use(address: str, how: str, children: int, messages: int) -> None:
    """Use a producer, then use it in children too; nobody calls close()."""
    producer: mpsr.Producer = mpsr.Producer(address)
    send_numbered(producer, messages)
    if how.startswith("fork"):
        for _ in range(children):
            if os.fork() == 0:
                send_numbered(producer, messages)
                if how == "fork, flush and _exit":
                    producer.flush(timeout=30)
                    os._exit(0)
                sys.exit()
        expect_children(children)
    elif how == "multiprocessing fork":
        join(
            [
                multiprocessing.get_context("fork").Process(
                    target=send_numbered, args=(producer, messages)
                )
                for _ in range(children)
            ]
        )
    else:
        join(
            [
                multiprocessing.get_context("spawn").Process(
                    target=send_as_new_producer, args=(address, messages)
                )
                for _ in range(children)
            ]
        )


def join(children: list[Any]) -> None:
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0


def send_numbered(producer: mpsr.Producer, messages: int) -> None:
    for number in range(messages):
        producer.send(stamped(number))


def send_as_new_producer(address: str, messages: int) -> None:
    send_numbered(mpsr.Producer(address), messages)


def fork_while_sending(address: str, children: int, messages: int) -> None:
    """Fork again and again while other threads send with the same producer."""
    producer: mpsr.Producer = mpsr.Producer(address)
    done = threading.Event()

    def keep_sending() -> None:
        while not done.is_set():
            producer.send(b"")

    threads = [threading.Thread(target=keep_sending) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(children):
        if os.fork() == 0:
            send_numbered(producer, messages)
            producer.flush(timeout=20)
            os._exit(0)
    expect_children(children)
    done.set()
    for thread in threads:
        thread.join()
    producer.close()


def forget(
    address: str, messages: int, how: str, *, limits: dict[str, float] | None = None
) -> None:
    """Send, and end without close()."""
    set_limits(**(limits or {}))
    if how == "multiprocessing child":
        join(
            [
                multiprocessing.get_context("fork").Process(
                    target=send_as_new_producer, args=(address, messages)
                )
            ]
        )
        return
    send_numbered(mpsr.Producer(address), messages)
    if how == "exception":
        raise RuntimeError("the program failed")


def end_with_daemon(
    address: str, *, limits: dict[str, float] | None = None, **options: Any
) -> None:
    """End while a daemon thread sends."""
    set_limits(**(limits or {}))
    producer: mpsr.Producer = mpsr.Producer(address, **options)
    begun = threading.Event()

    def keep_sending() -> None:
        for number in count():
            producer.send(stamped(number, size=1000))
            begun.set()

    threading.Thread(target=keep_sending, daemon=True).start()
    begun.wait()


def end_while_closing(address: str, messages: int) -> None:
    """End while a daemon thread waits in close()."""
    producer: mpsr.Producer = mpsr.Producer(address)
    send_numbered(producer, messages)
    threading.Thread(target=producer.close, daemon=True).start()
    eventually(lambda: producer._closing)
    say("closing")


def close_while_sending(address: str, rounds: int) -> None:
    """Close producers that other threads are sending with; say what these threads met."""
    met: set[str] = set()

    def keep_sending(producer: mpsr.Producer) -> None:
        try:
            while True:
                producer.send(b"")
        except Exception as exc:  # noqa: BLE001 - whatever it is, the test wants to know
            met.add(repr(type(exc)))

    for _ in range(rounds):
        producer: mpsr.Producer = mpsr.Producer(address, buffer=256 * KIB)
        threads = [threading.Thread(target=keep_sending, args=(producer,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        producer.flush()
        with suppress(mpsr.Undelivered):
            producer.close(timeout=5)
        for thread in threads:
            thread.join()
    say(sorted(met))


def receive_files(address: str, *, full: bool = False, **options: Any) -> None:
    """Say of each batch its message and what its file holds; go on when told.

    With ``full`` there is no descriptor left for the first file, for a while.
    """
    with mpsr.Receiver(address, accept_files=True, **options) as receiver:
        say("ready")
        if full:
            say(_without_descriptors(receiver))
        for batch in receiver.batches():
            held = [os.pread(each, 1000, 0).decode() for each in batch.files]
            open_now = len(os.listdir("/proc/self/fd"))
            say([batch[0].decode(), held, open_now])
            hear()


def receive_many_files(address: str, log: str, **options: Any) -> None:
    """Append each message to a log, with its process and whether a file came; end at SIGTERM."""
    with (
        mpsr.Receiver(address, accept_files=True, **options) as receiver,
        open(log, "ab", 0) as out,
    ):
        signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
        say("ready")
        for batch in receiver.batches():
            if batch:
                out.write(f"{os.getpid()} {len(batch.files)} {batch[0].decode()}\n".encode())
        say(receiver.stats().rejected)


def send_many_files(address: str, path: str, name: str, count: int) -> None:
    """Send numbered messages with a file; say how often it connected and what was lost."""
    with mpsr.Producer(address) as producer:
        for number in range(count):
            producer.send_file(path, f"{name} {number}".encode())
        producer.flush(240)
        stats = producer.stats()
    say([stats.connects, stats.lost])


def _without_descriptors(receiver: mpsr.Receiver) -> int:
    """Receive for a second without a descriptor to spare; return how many were sent away."""
    receiver.receive_batch()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    fillers: list[int] = []
    with suppress(OSError):
        while True:
            fillers.append(os.dup(0))
    say("full")
    with suppress(mpsr.TimedOut):
        receiver.receive_batch(1)
    for each in fillers:
        os.close(each)
    return receiver.stats().rejected


def send_until_interrupted(address: str, times: int) -> None:
    """Send until Ctrl-C, several times; say each time which messages were not taken for sure."""
    with mpsr.Producer(address) as producer:
        numbers = count()
        number = 0
        for _ in range(times):
            try:
                say("sending")
                for number in numbers:
                    producer.send(stamped(number))
            except KeyboardInterrupt:
                producer.flush(timeout=20)
                say(number)


def hand_over(
    address: str, record: str, *, die_at: str | None = None, refresh: bool = True, **options: Any
) -> None:
    """Take an address over and receive, noting all; be killed at a point of a hand-over."""
    if die_at is not None:
        _die_at(*die_at.split())
    file = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with mpsr.Receiver(address, handover=refresh, **options) as receiver:
        signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
        say("ready")
        for batch in receiver.batches():
            os.write(file, b"".join(message + b"\n" for message in batch))
    say(receiver.stats()._asdict())


def _die_at(end: str, doing: str, step: str) -> None:
    """Have this process killed before it says a step, behind that, or once it hears one."""
    kind: Any = Giver if end == "giver" else takeover._Taker
    name = (
        "_hear" if doing == "hears" and end == "taker" else "hear" if doing == "hears" else "_say"
    )
    before = getattr(kind, name)

    def instead(self: Any, *args: Any) -> Any:
        message = args[-1] if end == "taker" else args and args[0].get("step")
        if doing == "before" and message == step:
            os.kill(os.getpid(), signal.SIGKILL)
        found = before(self, *args)
        heard = found and found.get("step") if end == "taker" else str(self.step.name).lower()
        if (doing == "behind" and message == step) or (doing == "hears" and heard == step):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(kind, name, instead)


if __name__ == "__main__":
    name, args, kwargs = serve(int(sys.argv[1]))
    role: Callable[..., None] = globals()[name]
    role(*args, **kwargs)
