"""Let many processes wait for one word."""

from __future__ import annotations

import os


class Gate:
    """Shut until one process opens it, for all that wait or will wait.

    It is a pipe: its end of file is the word, so that it needs no count of who waits.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def fileno(self) -> int:
        """Return the descriptor that reads as ended once the gate is open."""
        return self._reader

    def join(self) -> None:
        """Become one of those who wait: to be called in each forked child."""
        os.close(self._writer)

    def wait(self) -> None:
        """Return once the gate is open."""
        os.read(self._reader, 1)

    def open(self) -> None:
        """Let everybody through."""
        os.close(self._writer)


class Gates:
    """The three words that the receiver gives the producers."""

    def __init__(self) -> None:
        self.connect = Gate()  # I am listening
        self.start = Gate()  # I have had a message from each of you; the clock runs
        self.done = Gate()  # I have had everything

    def join(self) -> None:
        """Become a producer."""
        for gate in (self.connect, self.start, self.done):
            gate.join()
