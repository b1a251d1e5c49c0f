# Types what _sigmask.c gives.

from typing import final

# Holds back, from the thread that enters it, the signals that come until it is left. It nests.
@final
class SignalMask:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
