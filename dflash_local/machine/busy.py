"""On a machine on which others work too, OpenMP's threads sleep when they wait for each other.

The threads of a decode meet after each operation. Who comes first spins, with libgomp for
milliseconds: where all have a processor nothing is quicker, and where they do not nothing is
slower. But as soon as libgomp holds more threads than there are processors, those that wait spin a
hundred turns and then sleep (its manual says so under GOMP_SPINCOUNT). So while others work, it is
given threads to hold that do nothing but sleep. See docs/busy.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from types import TracebackType
from typing import Any

import llama_cpp

from .openmp import users_choice
from .other_work import OtherWork

_INTERVAL = 0.5  # seconds between two looks
_WANTED = 0.5  # processors that decoding has and others want: threads are to sleep
_LEFT = 0.25  # fewer are wanted: they may spin again, ...
_CALM = 4  # ... after so many looks


class BusyWatch:
    """Until it is closed, decodes of this process share the processors with whoever works there.

    What is computed stays as it is. A thread looks twice a second how busy others are, and a second
    one holds libgomp's sleeping threads while they are. One watch serves the whole process, stock
    ``llama_cpp.Llama`` as well. It is of use where llama.cpp was built with GNU's OpenMP, as on
    Linux; elsewhere, and where the environment says how threads wait, it does nothing.

    Args:
        n_threads: that decode at once.

    Attributes:
        possible: whether it does anything here.
    """

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._parallel = None if users_choice() else _gnus_parallel()
        self.possible = self._parallel is not None
        self._crowd: _Crowd | None = None
        self._n_calm = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="busy-watch", daemon=True)
        if self.possible:
            self._thread.start()

    @property
    def sharing(self) -> bool:
        """Whether others work at present, so that threads sleep when they wait."""
        return self._crowd is not None

    def close(self) -> None:
        """Threads wait as they did before. A second time it does nothing."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> BusyWatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _watch(self) -> None:
        # Where the load cannot be read, or no thread be made, threads wait as they did before.
        with contextlib.suppress(Exception):
            others = OtherWork()
            while not self._ended.wait(_INTERVAL):
                self._look(others.n_cpus, others.processors())
                others.begin()
        self._leave()

    def _look(self, n_cpus: int, others: float) -> None:
        n_spare = n_cpus - self._n_threads
        self._n_calm = self._n_calm + 1 if others - n_spare < _LEFT else 0
        if others - n_spare > _WANTED and self._crowd is None:
            self._crowd = _Crowd(self._parallel, max(1, n_spare + 1))
        elif self._n_calm >= _CALM:
            self._leave()

    def _leave(self) -> None:
        if self._crowd is not None:
            self._crowd.close()
            self._crowd = None


class _Crowd:
    """``n`` threads of libgomp's that sleep, until the thread that they belong to has ended."""

    def __init__(self, parallel: Any, n: int) -> None:
        self._ended = threading.Event()
        begun = threading.Event()

        def hold() -> None:
            # They, and this one, call free(NULL), which does nothing.
            nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
            parallel(nothing, None, n + 1, 0)
            begun.set()
            self._ended.wait()

        self._thread = threading.Thread(target=hold, name="busy-crowd", daemon=True)
        self._thread.start()
        begun.wait()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


def _gnus_parallel() -> Any:
    """``GOMP_parallel`` of the libgomp that libllama uses; None where it uses none."""
    library = llama_cpp.llama_cpp._lib
    with contextlib.suppress(AttributeError):
        # LLVM's OpenMP answers to GNU's names too, but its threads wait in another way.
        _ = library["__kmpc_fork_call"]
        return None
    with contextlib.suppress(AttributeError):
        parallel = library["GOMP_parallel"]
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        return parallel
    return None
