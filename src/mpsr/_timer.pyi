# Types what _timer.c gives. Times are seconds on the monotonic clock.

# Makes a timer; returns its descriptor, which is readable once its time has come.
def make() -> int: ...

# Sets its time anew, or, with 0, to never; raises ValueError for what is no time.
def arm(descriptor: int, when: float, /) -> None: ...
