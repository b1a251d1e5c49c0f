"""A program closes all descriptors, and opens its own files, which get the numbers of mpsr's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

import mpsr
from tests.process.programs import Outcome, receiving, run

if TYPE_CHECKING:
    from pathlib import Path

SENDING: Final = ["producer", "lines", "spool", "files", "handler", "asyncio"]
RECEIVING: Final = ["receiver", "journal", "queue", "reader"]
GROUPS: Final = [pytest.param(SENDING, id="sending"), pytest.param(RECEIVING, id="receiving")]
KINDS: Final = ["file", "append", "socket", "pipe", "epoll", "timer", "eventfd", "memfd"]

# Each kind is opened at each number. The kernel's report on each descriptor, and the data that it
# holds, must be the same in the end. "mixed" opens the kinds in turn.
PROGRAM: Final = """
from mpsr import limits
limits.CLOSE_TIMEOUT = 0.2  # of a queue whose receiver has lost its descriptors
import asyncio, ctypes, gc, logging, os, select, socket, struct, sys, time, warnings
import mpsr, mpsr.logging
from mpsr.store.reader import Reader

objects, kind, how, address, directory = sys.argv[1:]
warnings.simplefilter("ignore", ResourceWarning)
libc = ctypes.CDLL(None, use_errno=True)
kinds = KINDS
said = []

def attempt(call, *arguments):
    try:
        result = call(*arguments)
    except mpsr.MpsrError as error:
        said.append(f"{type(error).__name__}: {error}")
    else:
        return result

class Logged(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

def record(text):
    return logging.LogRecord("user", logging.INFO, __name__, 1, text, (), None)

# -- what mpsr opens ---------------------------------------------------------------------

def begin(what):
    own = f"{address}.{what}"
    kept = f"{directory}/{what}"
    if what == "producer":
        made = mpsr.Producer(address)
    elif what == "lines":
        made = mpsr.Producer(address, framing="lines")
    elif what == "files":
        made = mpsr.Producer(address + ".none", exit_timeout=0)
        for each in (os.eventfd(3), os.open("/dev/null", os.O_RDONLY), os.pipe()[0]):
            made.send_file(each)
        return made
    elif what == "spool":
        made = mpsr.Producer(address, spool=kept)
    elif what == "receiver":
        made = mpsr.Receiver(own)
    elif what == "journal":
        made = mpsr.Receiver(own, journal=kept)
    elif what == "queue":
        reader = mpsr.QueueReader(mpsr.Receiver(own, decode=bytes))
        writer = mpsr.queue(own)
        writer.put(b"before")
        assert reader.get(timeout=10) == b"before"
        return reader, writer
    elif what == "handler":
        made = mpsr.logging.Handler(address)
        made.emit(record("before"))
        made.flush()
        return made
    elif what == "reader":
        with mpsr.Receiver(own, journal=kept) as receiver:
            with mpsr.Producer(own) as producer:
                producer.send_many([b"%d" % n for n in range(100)])
                for _ in range(100):
                    receiver.receive(10)
        made = Reader(kept)
        assert made.read(0, max_bytes=1)
        return made
    elif what == "asyncio":
        async def begun():
            made = mpsr.AsyncProducer(address)
            await made.__aenter__()
            await made.send(b"before")
            await made.flush(10)
            return made
        loop = asyncio.new_event_loop()
        return loop, loop.run_until_complete(begun())
    if what in ("receiver", "journal"):
        with mpsr.Producer(own) as producer:
            for _ in range(3):
                producer.send(b"before")
                made.receive(10)
            made.acknowledge()
            producer.flush(10)
        with mpsr.Producer(own, framing="lines") as producer:
            producer.send_many([b"more"] * 10)
        made.receive(10)
        return made
    made.send(b"before")
    made.flush(10)
    made.send_many([b"burst"] * 10)
    return made

def use(what, made):
    if what in ("producer", "lines", "spool"):
        for _ in range(5):
            attempt(made.send, b"after")
        if what == "spool":
            if attempt(lambda: made.flush(10, spooled=True) or "flushed"):
                said.append("flushed to the spool")
        attempt(made.flush, 10)
    elif what in ("receiver", "journal"):
        attempt(made.receive, 1)
    elif what == "queue":
        attempt(made[1].put, b"after")
        attempt(lambda: made[0].get(timeout=1))
    elif what == "handler":
        made.emit(record("after"))
        made.flush()
    elif what == "reader":
        print("read", sum(len(each.entry.payload) > 0 for each in made.read(50)))

def close(what, made):
    if what == "asyncio":
        made = made[1]
        made._release()
    elif what == "queue":
        for each in made:
            attempt(each.close)
    elif what == "files":
        attempt(lambda: made.close(timeout=0))
    else:
        attempt(made.close)

# -- what the program opens --------------------------------------------------------------

def opened(kind, number):
    path = f"{directory}/{number}.user"
    if kind in ("file", "append"):
        with open(path, "wb") as file:
            file.write(b"the user's %d" % number)
        flags = os.O_RDWR | (os.O_APPEND if kind == "append" else 0)
        return os.open(path, flags)
    if kind == "buffered":
        file = open(path, "wb")
        buffered.append(file)
        return file.fileno()
    if kind == "socket":
        one, other = socket.socketpair()
        other.send(b"for the user")
        keep.append(other.detach())
        return one.detach()
    if kind == "pipe":
        reader, writer = os.pipe()
        os.write(writer, b"for the user")
        keep.append(writer)
        return reader
    if kind == "epoll":
        made = select.epoll()
        made.register(spare, select.EPOLLIN)
        epolls.append(made)
        return made.fileno()
    if kind == "timer":
        made = libc.timerfd_create(1, 0)
        libc.timerfd_settime(made, 0, struct.pack("4l", 5, 0, 100000, 0), None)
        return made
    if kind == "eventfd":
        return os.eventfd(number)
    return os.memfd_create("user")

def told(number):
    lines = open(f"/proc/self/fdinfo/{number}").read().splitlines()
    lines = [line for line in lines if not line.startswith("it_value")]
    return os.readlink(f"/proc/self/fd/{number}"), lines

said_by = Logged()
logging.getLogger("mpsr").addHandler(said_by)
made = {what: begin(what) for what in objects.split(",")}
most = max(map(int, os.listdir("/proc/self/fd")))
if kind == "mixed":
    order = kinds
else:
    order = [kind]
os.closerange(3, 4096)
keep, epolls, buffered = [], [], []
spare = None
numbers = {}
if "epoll" in order:
    spare = os.eventfd(7)
    keep.append(spare)
count = 0
while not numbers or max(numbers) < most + 2:
    number = opened(order[count % len(order)], count)
    numbers[number] = order[count % len(order)]
    count += 1
before = {number: told(number) for number in [*numbers, *keep]}
names = [name for name in os.listdir(directory) if name.endswith(".user")]
contents = {name: open(f"{directory}/{name}", "rb").read() for name in names}

if how in ("use", "use and exit"):
    for what in made:
        use(what, made[what])
if how in ("use", "close"):
    for what in made:
        close(what, made[what])
if how != "use and exit" and how != "exit":
    del made
    gc.collect()

def check():
    after = {}
    for number in before:
        try:
            after[number] = told(number)
        except OSError as error:
            after[number] = error
    for number, then in before.items():
        if after[number] != then:
            print("CHANGED", number, numbers.get(number), then, after[number])
    for name, then in contents.items():
        if open(f"{directory}/{name}", "rb").read() != then:
            print("WRITTEN", name)
    for number, kind in numbers.items():
        if kind in ("socket", "pipe"):
            os.set_blocking(number, False)
            try:
                found = os.read(number, 100)
            except OSError as error:
                found = error
            if found != b"for the user":
                print("READ", number, kind, found)
    print("checked")
    for each in said:
        print(each)

if how in ("exit", "use and exit"):
    print("checked")
    logging.getLogger("mpsr").removeHandler(said_by)  # it refers to this module's names
    for file in buffered:
        file.write(b"to the end")  # the interpreter's end writes it
    del file
else:
    check()
""".replace("KINDS", repr(KINDS))


def ran(objects: list[str], kind: str, how: str, address: str, directory: Path) -> Outcome:
    with receiving(address):
        outcome = run(PROGRAM, ",".join(objects), kind, how, address, str(directory))
    assert outcome.status == 0, outcome.complaint
    lines = outcome.output.splitlines()
    assert "checked" in lines
    for path in directory.glob("*.user"):
        if kind == "buffered":
            assert path.read_bytes() == b"to the end"
    assert "Bad file descriptor" not in outcome.complaint
    assert not [line for line in lines if line.startswith(("CHANGED", "WRITTEN", "READ"))], lines
    return outcome


@pytest.mark.parametrize("objects", GROUPS)
@pytest.mark.parametrize("how", ["use", "close", "collect"])
def test_files_of_the_program_are_left_untouched(
    objects: list[str], how: str, address: str, tmp_path: Path
) -> None:
    """The files that get the numbers of mpsr's descriptors stay open and unchanged."""
    ran(objects, "mixed", how, address, tmp_path)


@pytest.mark.parametrize("objects", GROUPS)
@pytest.mark.parametrize("how", ["exit", "use and exit"])
def test_files_that_are_written_at_the_exit_are_complete(
    objects: list[str], how: str, address: str, tmp_path: Path
) -> None:
    """The end of the interpreter, which collects all objects, closes no file of the program."""
    ran(objects, "buffered", how, address, tmp_path)


def test_spool_whose_descriptors_were_closed_claims_no_more_than_it_holds(
    address: str, tmp_path: Path
) -> None:
    """``flush(spooled=True)`` raises; the next producer sends the messages that were spooled."""
    outcome = ran(["spool"], "mixed", "use", address, tmp_path)
    assert "flushed to the spool" not in outcome.output
    reasons = [line for line in outcome.output.splitlines() if line.startswith("JournalError: ")]
    assert reasons
    for reason in reasons:
        assert "the program has closed the descriptors of mpsr, which has unlocked it" in reason
    last = int(reasons[0].partition("up to position ")[2].split()[0])
    with (
        receiving(address) as received,
        mpsr.Producer(address, spool=tmp_path / "spool") as producer,
    ):
        producer.flush(10)
    spooled = [b"before", *[b"burst"] * 10][:last]
    assert received in (spooled, spooled[1:])  # the first was accepted


@pytest.mark.soak
@pytest.mark.parametrize("what", [*SENDING, *RECEIVING])
@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.parametrize("how", ["use", "close", "collect"])
def test_files_of_every_kind_are_left_untouched(
    what: str, kind: str, how: str, address: str, tmp_path: Path
) -> None:
    """The same with one object, and with each kind of file at each number."""
    ran([what], kind, how, address, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("what", [*SENDING, *RECEIVING])
@pytest.mark.parametrize("how", ["exit", "use and exit"])
def test_files_that_are_written_at_the_exit_with_one_object_are_complete(
    what: str, how: str, address: str, tmp_path: Path
) -> None:
    """The same with one object, whose threads the end of the interpreter meets earlier."""
    ran([what], "buffered", how, address, tmp_path)
