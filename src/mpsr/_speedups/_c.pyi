# Types the parts of the extension that have no twin: ring.c and timer.c.

from collections.abc import Sequence
from typing import Final, final

from typing_extensions import Buffer

# -- the ring: a counter of the other end that cannot be true is a ValueError ----------------

CONTROL: Final[int]  # bytes before the data: a page of this system

# The producer's end, and the receiver's. Both map a ring with ``size`` bytes of data, which begins
# behind one page; ``page`` is how many bytes that has, and the system's own unless a test says
# another. ``close`` unmaps the ring once no call is under way.

@final
class Writer:
    def __new__(cls, descriptor: int, size: int, page: int = ..., /) -> Writer: ...
    # Writes what there is room for, behind the first ``skip`` bytes; returns how many went. It may
    # be fewer than there is room for, where the receiver is to be woken first.
    def write(self, buffers: Sequence[Buffer], skip: int, /) -> int: ...
    # Tells, behind a write, whether the receiver sleeps, so that its doorbell has to be rung.
    def reader_sleeps(self) -> bool: ...
    # Asks the receiver to announce room over the socket; False if there is room already.
    def announce_room(self) -> bool: ...
    # Waits for room; tells whether there is any. Other threads and signal handlers run meanwhile.
    def wait_for_room(self, seconds: float, /) -> bool: ...
    # Ends the ``wait_for_room`` of another thread.
    def interrupt(self) -> None: ...
    def close(self) -> None: ...

@final
class Reader:
    def __new__(cls, descriptor: int, size: int, page: int = ..., /) -> Reader: ...
    # Takes at most so many bytes; BlockingIOError where there are none. Then, and only then, the
    # producer will ring the doorbell once there are some.
    def recv(self, size: int, /) -> bytes: ...
    # The same, into writable buffers; returns how many bytes.
    def recv_into(self, rooms: Sequence[Buffer], /) -> int: ...
    # Wakes, behind a read, a producer that waits for room; True: the socket has to.
    def wake_writer(self) -> bool: ...
    def filled(self) -> int: ...
    def close(self) -> None: ...

# -- the timer: times are seconds on the monotonic clock ---------------------------------------

# Makes a timer; returns its descriptor, which is readable once its time has come. The mark is its
# interval (ns): no other timer has it.
def make_timer(mark: int, /) -> int: ...

# Tells whether a descriptor is the timer that has this mark.
def is_timer(descriptor: int, mark: int, /) -> bool: ...

# Sets its time, or, with 0, to never. Raises ValueError for an invalid time, and OSError if the
# descriptor is not the timer that has this mark.
def arm_timer(descriptor: int, mark: int, when: float, /) -> None: ...
