"""The threads that work in the background."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpsr.system.threads import Thread, start_thread
from mpsr.system.waiting import Waiter

if TYPE_CHECKING:
    from types import FrameType


def test_thread_gets_no_signals_but_faults() -> None:
    masks: list[set[int]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    thread = start_thread(
        lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())), name=""
    )
    assert thread.join(30)
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD} <= masks[0]
    assert signal.SIGSEGV not in masks[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_what_ends_a_thread_is_kept_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    error = SystemExit("enough")

    def fail() -> None:
        raise error

    thread = start_thread(fail, name="failing")
    assert thread.join(30)
    assert thread.failure is error
    assert repr(thread) == "<Thread 'failing' ended>"
    assert capfd.readouterr() == ("", "")


def test_join_returns_false_while_the_thread_works() -> None:
    end = Waiter()
    thread = start_thread(lambda: end.wait(30), name="waiting")
    assert not thread.join(0)
    assert thread.alive
    assert repr(thread) == "<Thread 'waiting'>"
    end.wake()
    joining = [threading.Thread(target=thread.join) for _ in range(3)]
    for each in joining:
        each.start()
    for each in joining:
        each.join()
    assert thread.join(30)
    assert thread.join()
    assert thread.failure is None


def test_thread_starts_where_a_thread_of_python_is_being_started() -> None:
    """As in a signal handler that has interrupted threading.Thread.start()."""
    done = Waiter()
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        start_thread(done.wake, name="")
        assert done.wait(30)


def test_thread_that_cannot_start_is_an_error_and_leaves_the_signals() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    thread = Thread(lambda: None, name="")
    size = _thread.stack_size(1 << 46)  # more than there are addresses
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            thread.start()
    finally:
        _thread.stack_size(size)
    assert not thread.alive
    assert thread.join(0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_debuggers_and_profilers_see_what_a_thread_does() -> None:
    seen: set[str] = set()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        del event, arg
        seen.add(frame.f_code.co_name)

    def work_traced() -> None:
        pass

    tracing, profiling = threading.gettrace(), threading.getprofile()
    threading.settrace(note)
    threading.setprofile(note)
    try:
        assert start_thread(work_traced, name="").join(30)
    finally:
        threading.settrace(tracing)
        threading.setprofile(profiling)
    assert "work_traced" in seen
    assert sys.gettrace() is not note
