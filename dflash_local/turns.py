"""Whose turn it is: one thread works with a model at a time, and one answer until it ends."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator

from ._api import _core
from .errors import BackendError, Cancelled, DFlashError


class _Thread(threading.local):
    """Who one is. The system gives the numbers of threads that ended to others."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self._numbers)


_thread = _Thread()


class Turn:
    """One request: an answer, from its prompt to its last token, or a single call."""

    def __init__(self) -> None:
        self.cancelled = False


class Turns:
    """Lets one thread in at a time, in the order in which they came.

    An answer keeps its turn between its tokens, while the caller holds its generator. Calls from
    other threads wait until it ends. A call from the thread that took the last token can only mean
    that the answer is given up: it takes over, since waiting would be waiting for itself.

    Args:
        stop: ends the work inside ``_core`` and libllama.
        timeout: seconds that a call waits for its turn; None: as long as it takes.
    """

    def __init__(self, stop: _core.Stop, timeout: float | None = None) -> None:
        self.timeout = timeout
        self.current = Turn()
        self._stop = stop
        # Signal handlers come here too, and Ctrl-C at any moment: it leaves a lock of C's locked or
        # not, but a Condition's own `with` may be left between the two.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[object] = deque()
        self._worker: int | None = None  # the thread that is inside, so many calls deep
        self._depth = 0
        self._answer: Turn | None = None  # begun, and not ended
        self._answer_thread: int | None = None  # that went on with it last
        self._visit = 0  # counts the times that a thread came in
        self._cancellable = False  # the call that is inside
        self._closed = False
        self._holds: Counter[int] = Counter()  # by thread; see holding()
        self._when_free: Callable[[], None] | None = None

    # ---- inside --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self, turn: Turn | None = None, *, reading: bool = False) -> Iterator[None]:
        """The caller's thread has the model for itself, after those who came before.

        Args:
            turn: goes on with this answer.
            reading: does not disturb an answer, so it comes in between two of its tokens.

        Raises:
            Cancelled: the answer was cancelled.
            BackendError: the answer's turn is over, the model was closed, or the time is up.
        """
        me = _thread.number
        depth = self._depth_of(me)
        try:
            with self._lock:
                self._check(turn)
                self._wait(turn, reading)
                self._check(turn)
                if self._depth == 0:
                    self._cancellable = not reading
                    if turn is None and self._answer is None:
                        self._stop.clear()  # what was cancelled has ended
                if turn is not None:
                    self._answer_thread = _thread.number
                self._enter()
                self._check(turn)  # a signal handler may have closed before it was inside
            yield
        except RuntimeError as error:
            if "un-acquired lock" in str(error):  # Ctrl-C came into the middle of a wait for it
                raise KeyboardInterrupt from error
            # A decode of llama_cpp's own that was cut short is told by its number only.
            if isinstance(error, DFlashError) or not self.current.cancelled:
                raise
            raise Cancelled("the call was cancelled") from error
        finally:
            try:
                self._leave_to(me, depth)
            finally:
                self._leave_to(me, depth)  # again: Ctrl-C may have come into the first

    def check_cancelled(self) -> None:
        """Raises ``Cancelled`` where what is at work was cancelled; called inside."""
        if self.current.cancelled:
            raise Cancelled("the call was cancelled")

    def begin(self, answer: Turn | None = None) -> None:
        """Ends the turn of whatever ran before; called inside.

        Args:
            answer: it keeps its turn until ``end``, also while nobody is inside.
        """
        self.current = answer or Turn()
        self._stop.clear()
        self._answer = answer
        self._answer_thread = _thread.number

    def end(self, turn: Turn) -> None:
        """The answer has ended; others may come in."""
        with self._lock:
            if self._answer is turn:
                self._answer = None
                self._changed.notify_all()

    @contextlib.contextmanager
    def if_still(self, turn: Turn) -> Iterator[bool]:
        """Whether the turn is not over and no other thread is at work, while inside."""
        me = _thread.number
        depth = self._depth_of(me)
        try:
            with self._lock:
                mine = self.current is turn and self._worker in (None, _thread.number)
                mine = mine and not self._closed
                if mine:
                    self._enter()
            yield mine
        finally:
            try:
                self._leave_to(me, depth)
            finally:
                self._leave_to(me, depth)  # again: Ctrl-C may have come into the first

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """The model is not freed meanwhile. Others may be at work: it is not waited for.

        Raises:
            BackendError: the model was closed.
        """
        me = _thread.number
        n_holds = self._holds[me]
        try:
            with self._lock:
                was_inside = self._is_inside(me)
                self._holds[me] += 1  # before the check: a signal handler may close in between
                if not was_inside:
                    self._check(None)
            yield
        finally:
            if self._holds[me] > n_holds:
                self._let_go(me)

    # ---- from outside --------------------------------------------------------------------------

    def cancel(self) -> int:
        """Ends the answer, or the call that is inside; does not wait. For any thread.

        Returns:
            Which visit it ends, or ended last; for ``wait_for_end``.
        """
        with self._lock:
            inside = self._worker is not None and self._cancellable
            if inside or self._answer is not None:
                self.current.cancelled = True
                self._answer = None
                self._changed.notify_all()
            if inside:
                self._stop.request()
            return self._visit

    def wait_for_end(self, visit: int, timeout: float | None = None) -> bool:
        """Waits until the thread of this visit has left; gives whether it did within the time.

        Others may have come in since. A caller who is inside itself does not wait.
        """
        me = _thread.number
        with self._lock:
            return self._changed.wait_for(
                lambda: self._worker in (None, me) or self._visit != visit, timeout
            )

    def close(self, free: Callable[[], None], *, wait: bool = True) -> None:
        """Lets nobody in any more, ends what is at work, and calls ``free`` when that has ended.

        Where the caller itself is inside, in a hook or a signal handler, that is when it has left.
        """
        with self._lock:
            self._closed = True
            self._answer = None
            if self._worker is not None:
                self.current.cancelled = True
                self._stop.request()
            self._changed.notify_all()
            if wait and self._is_inside(_thread.number):
                self._when_free = free
                return
            self._changed.wait_for(lambda: not wait or (self._worker is None and not self._holds))
            self._enter()
        try:
            free()
        finally:
            self._leave()

    # ---- under the lock ------------------------------------------------------------------------

    def _check(self, turn: Turn | None) -> None:
        if self._closed:
            raise BackendError("the model is closed")
        if turn is None:
            return
        if turn.cancelled:
            raise Cancelled("the answer was cancelled")
        if turn is not self.current:
            raise BackendError(
                "the model was used for something else while this generator was running: "
                "finish or close a generator before the next call"
            )

    def _wait(self, turn: Turn | None, reading: bool) -> None:
        ticket = object()
        try:
            self._waiting.append(ticket)
            free = self._changed.wait_for(
                lambda: self._closed or self._is_free(ticket, turn, reading), self.timeout
            )
        finally:
            try:
                self._leave_queue(ticket)
            finally:
                self._leave_queue(ticket)  # again: Ctrl-C may have come into the first
        if not free:
            raise BackendError(
                f"the model is at work in another thread, and was for {self.timeout:g} s: wait "
                "longer (turn_timeout), or stop it with cancel()"
            )

    def _is_free(self, ticket: object, turn: Turn | None, reading: bool) -> bool:
        me = _thread.number
        if self._worker is not None:
            return self._worker == me
        if turn is not None or reading:
            return True
        if self._answer is not None:
            return self._answer_thread == me
        return self._waiting[0] is ticket

    def _enter(self) -> None:
        self._visit += self._depth == 0
        self._worker = _thread.number
        self._depth += 1

    def _depth_of(self, thread: int) -> int:
        """How many calls deep it is inside; 0 if another one is."""
        return self._depth if self._worker == thread else 0

    def _is_inside(self, thread: int) -> bool:
        return self._worker == thread or thread in self._holds

    def _let_go(self, thread: int) -> None:
        with self._lock:
            self._holds[thread] -= 1
            if self._holds[thread] == 0:
                del self._holds[thread]
                self._changed.notify_all()
            if self._worker is not None or self._holds or self._when_free is None:
                return
            self._enter()
        self._leave()

    def _leave_queue(self, ticket: object) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        self._changed.notify_all()

    def _leave_to(self, thread: int, depth: int) -> None:
        if self._depth_of(thread) > depth:
            self._leave()
        elif depth == 0:
            with self._lock:
                self._changed.notify_all()

    def _leave(self) -> None:
        free = None
        with self._lock:
            if self._depth == 1 and not self._holds:
                free, self._when_free = self._when_free, None
            if free is None:
                self._step_out()
        if free is not None:
            try:
                free()
            finally:
                self._step_out()

    def _step_out(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._worker = None
                self._changed.notify_all()
