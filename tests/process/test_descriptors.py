"""What a producer does when its program closes descriptors that are not its own."""

from __future__ import annotations

import os
import resource
from typing import Any

import pytest

import mpsr
from tests.process.programs import receiving, run

# A daemon closes all that it has inherited, and then opens files and sockets of its own, which
# get the same numbers. What they hold in the end is printed.
DAEMON = """
import os, socket, sys, time, mpsr

address, directory, when = sys.argv[1:]
producer = mpsr.Producer(address)
if when != "not connected":
    producer.send(b"before")
    producer.flush(10)
if when == "double fork":
    if os.fork():
        os.wait()
        os._exit(0)
    os.setsid()
    if os.fork():
        os.wait()
        os._exit(0)
if when == "in a burst":
    producer.send_many([b"burst"] * 100)
os.closerange(3, 256)
files = [open(os.path.join(directory, str(number)), "w+b") for number in range(8)]
pairs = [socket.socketpair() for _ in range(8)]
for number in range(20):
    producer.send(b"%d" % number)
producer.flush(10)
producer.send(b"last")
producer.close(10)
for file in files:
    print(os.fstat(file.fileno()).st_size)
for end in sum(pairs, ()):
    end.setblocking(False)
    try:
        print(end.recv(100))
    except BlockingIOError:
        print(0)
"""


@pytest.mark.parametrize("when", ["not connected", "idle", "in a burst", "double fork"])
def test_daemon_that_closes_all_descriptors_gets_nothing_of_ours_into_its_own(
    address: str, tmp_path: object, when: str
) -> None:
    """The producer notices, connects anew and goes on; what is the program's stays untouched."""
    with receiving(address) as received:
        outcome = run(DAEMON, address, str(tmp_path), when)
    assert (outcome.status, outcome.complaint) == (0, "")
    assert outcome.output.split() == ["0"] * 24
    expected = [b"%d" % number for number in range(20)] + [b"last"]
    assert received[-len(expected) :] == expected
    assert len(received) == len(expected) + {"not connected": 0, "in a burst": 101}.get(when, 1)


@pytest.mark.parametrize("kind", [mpsr.Producer, mpsr.Receiver])
@pytest.mark.parametrize("spare", range(1, 12))
def test_too_many_open_files_are_an_error_of_ours(
    address: str, kind: type[Any], spare: int
) -> None:
    """Whichever descriptor cannot be had, it says what is wrong, and leaves none open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kind(f"{address}.first").close()  # all that is imported is, by now
    before = set(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + spare, hard))
    holes = [os.dup(0) for _ in range(max(map(int, before)) + 1 - len(before))]
    try:
        made = kind(address)
    except mpsr.AddressError as error:
        assert "Too many open files" in str(error)  # noqa: PT017 - there may be enough
        assert len(os.listdir("/proc/self/fd")) == len(before) + len(holes)
    else:
        made.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for hole in holes:
            os.close(hole)


RECEIVING_DAEMON = """
import os, socket, sys, mpsr

receiver = mpsr.Receiver(sys.argv[1])
with mpsr.Producer(sys.argv[1], framing="lines") as producer:
    producer.send(b"before")
print(receiver.receive(10))
os.closerange(3, 256)
pairs = [socket.socketpair() for _ in range(20)]
for end, _ in pairs:
    end.send(b"untouched")
if sys.argv[2] == "used":
    try:
        receiver.receive(1)
    except mpsr.MpsrError as error:
        print(type(error).__name__, error)
receiver.close()
del receiver
print({end.recv(100) for _, end in pairs})
"""


@pytest.mark.parametrize("how", ["used", "closed"])
def test_receiver_whose_descriptors_were_closed_touches_none_that_has_its_number(
    address: str, how: str
) -> None:
    """It says once what has happened, and closes nothing of the program's."""
    outcome = run(RECEIVING_DAEMON, address, how)
    assert (outcome.status, outcome.complaint) == (0, "")
    first, *said, last = outcome.output.splitlines()
    assert (first, last) == ("b'before'", "{b'untouched'}")
    if how == "used":
        assert said[0].startswith(f"MpsrError the receiver at {address} has lost its descriptors")
