# Types _ring.c, and says what its methods do. A counter that cannot be true is a ValueError.

from collections.abc import Sequence
from typing import Final, final

from typing_extensions import Buffer

CONTROL: Final[int]  # bytes before the data

@final
class Writer:
    """The producer's end."""

    def __new__(cls, descriptor: int, size: int, /) -> Writer:
        """Map a ring with ``size`` bytes of data."""

    def write(self, buffers: Sequence[Buffer], skip: int, /) -> int:
        """Write what there is room for, behind the first ``skip`` bytes; return how many went.

        It may be less than there is room for, where the receiver is to be woken first.
        """

    def rouses(self) -> bool:
        """Tell, behind a write, whether the receiver sleeps, and has to hear a bell."""

    def sleeps(self) -> bool:
        """Have the receiver tell over the socket when there is room; False if there is already."""

    def sleep(self, seconds: float, /) -> bool:
        """Wait for room; tell whether there is any. It lets other threads run, and signals."""

    def interrupt(self) -> None:
        """End the ``sleep`` of another thread."""

    def close(self) -> None:
        """Unmap it, once no call is under way."""

@final
class Reader:
    """The receiver's end."""

    def __new__(cls, descriptor: int, size: int, /) -> Reader:
        """Map a ring with ``size`` bytes of data."""

    def recv(self, size: int, /) -> bytes:
        """Take at most so many bytes; BlockingIOError where there are none.

        Then, and only then, the producer will ring a bell once there are some.
        """

    def recv_into(self, rooms: Sequence[Buffer], /) -> int:
        """Take bytes into writable buffers; return how many. See ``recv``."""

    def rouses(self) -> bool:
        """Wake, behind a read, a producer that waits for room; True: by the socket, that is."""

    def filled(self) -> int:
        """Return how many bytes there are."""

    def close(self) -> None:
        """Unmap it, once no call is under way."""
