"""Ctrl-C and other requests to stop: an exception that unwinds and cleans up, also out of a compiled graph.

While a graph runs or compiles, MindSpore 2.10 handles SIGINT itself: it sends the process a SIGTERM, which ends a program
without cleaning up and a notebook's kernel with it. `interruptible` turns that SIGTERM into KeyboardInterrupt. A program
of ours keeps both signals from MindSpore altogether (`run_program`) and so can tell them apart.
"""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WAKE = signal.SIGURG  # ends a system call that the main thread waits in; ignored by default, and by MindSpore
_raised = threading.Event()  # the main thread has had its exception


class Stopped(BaseException):
    """The process was asked to stop by a signal other than SIGINT. No Exception, so that nothing goes on regardless."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Around a graph's call: Ctrl-C raises KeyboardInterrupt as soon as the call returns, and the process lives on.

    Nothing changes outside of the main thread, where Python delivers no signals, and for a program that has a handler
    of its own for SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_program(main: Callable[[], int]) -> int:
    """Run a program's main function. A signal to stop unwinds it; a second one ends the process at once.

    Call it first in the main thread: threads inherit which signals are blocked, and MindSpore's are to block them.

    Returns:
        main's exit status, or 128 + the signal's number.
    """
    wanted = {number for number in _STOPPING if signal.getsignal(number) != signal.SIG_IGN}  # nohup ignores SIGHUP
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    for number in wanted:
        signal.signal(number, _interrupt if number == signal.SIGINT else _stop)
    signal.signal(_WAKE, _nothing)
    _raised.clear()
    threading.Thread(target=_watch, args=(wanted,), daemon=True, name="signals").start()
    try:
        return main()
    except KeyboardInterrupt:
        number = signal.SIGINT
    except Stopped as stopped:
        number = stopped.number
    print(f"mindsora: stopped by {signal.Signals(number).name}", file=sys.stderr)
    return 128 + number


def _watch(wanted: set[int]) -> None:
    """Pass the first signal on to the main thread as an exception."""
    number = signal.sigwait(wanted)
    _thread.interrupt_main(number)
    second = None
    while second is None and not _raised.is_set():
        # Again after a while: the first may come just before the system call that it is to end.
        signal.pthread_kill(threading.main_thread().ident, _WAKE)
        second = signal.sigtimedwait(wanted, 0.5)
    number = second.si_signo if second else signal.sigwait(wanted)
    os._exit(128 + number)  # the second: the main thread may be in a long compilation


def _interrupt(number: int, frame) -> None:
    _raised.set()
    raise KeyboardInterrupt


def _stop(number: int, frame) -> None:
    _raised.set()
    raise Stopped(number)


def _nothing(number: int, frame) -> None:
    """The signal has done its work by arriving."""
