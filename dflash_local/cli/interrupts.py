"""Ctrl-C, remembered: a command that it ended exits with 130, whenever it came."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

#: The exit status of what Ctrl-C ended, as a shell reports it.
INTERRUPTED = 130


class Interrupts:
    """Raises KeyboardInterrupt as Python does, and remembers that it did.

    The exception alone can be lost: where C calls back into Python (libllama's log, a finalizer)
    nobody can catch it, and in Python's own shutdown nobody is left to.
    """

    def __init__(self) -> None:
        self.came = False
        self._held = False

    def begin(self) -> None:
        """Takes Ctrl-C over from Python, unless the process was started to ignore it."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            sys.unraisablehook = self._unraisable

    def check(self) -> None:
        """Raises KeyboardInterrupt again if one has come: it may have been lost."""
        if self.came:
            raise KeyboardInterrupt

    def forget(self) -> None:
        """What came was dealt with."""
        self.came = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, Ctrl-C waits: what is made there is not left half-made. A second one does not."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Inside, Ctrl-C also calls ``stop`` at once, in a thread.

        Python's own handler runs when the main thread comes back from C++, which may take a while.
        """
        ours, pythons = socket.socketpair()
        pythons.setblocking(False)
        thread = threading.Thread(target=_listen, args=(ours, stop), daemon=True)
        thread.start()
        before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            pythons.close()
            thread.join()
            ours.close()

    def leave(self, status: int) -> NoReturn:
        """Ends the process now.

        Nothing is left to do in Python's own shutdown, where an interrupt would be lost.
        """
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        os._exit(INTERRUPTED if self.came else status)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        again, self.came = self.came, True
        if again or not self._held:
            raise KeyboardInterrupt

    def _unraisable(self, lost: UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(lost)


def _listen(signals: socket.socket, stop: Callable[[], object]) -> None:
    while numbers := signals.recv(64):  # Python writes the number of each signal that came
        if signal.SIGINT in numbers:
            stop()


#: A process has one Ctrl-C.
interrupts = Interrupts()
