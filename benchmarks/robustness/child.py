"""The process that does it all: ``python -m robustness.child SETUP``. It reports on stdout.

A line of JSON for each finding ("wrong", "error", "hang"), a beat with the counts at every tick of
the watch, and at the end what was left behind.
"""

from __future__ import annotations

import faulthandler
import json
import math
import random
import signal
import sys
import threading
import time
import warnings
from typing import Any

from . import asking, disturbing, interrupting, traces
from .setup import Setup
from .watch import Watch
from .worker import Shared, Worker, report_what_python_ignores

OPERATIONS = {
    asking.ask: 8.0,
    asking.abandon: 4.0,
    asking.hand_over: 1.0,
    asking.give_up: 1.0,
    asking.ask_at_once: 1.0,
    asking.go_on_from_a_state: 1.0,
    disturbing.cancel: 4.0,
    disturbing.cancel_own: 1.0,
    disturbing.close: 1.0,
    disturbing.close_under_a_generator: 0.5,
    disturbing.close_from_a_criterion: 0.5,
    disturbing.load: 0.5,
    disturbing.load_two: 0.5,
    disturbing.load_what_does_not_fit: 0.2,
    disturbing.set_width: 1.0,
    disturbing.read_statistics: 1.0,
    disturbing.save_state: 1.0,
    disturbing.call_the_pieces: 1.0,
}

_sending = threading.Lock()


def send(**fields: Any) -> None:
    line = json.dumps(fields) + "\n"
    with _sending:
        sys.stdout.write(line)
        sys.stdout.flush()


def main(setup: Setup) -> None:
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)
    warnings.simplefilter("ignore", RuntimeWarning)  # widths that no block gives, lost features
    watch = Watch(lambda text: send(hang=text), lambda: send(counts=shared.counts))
    shared = Shared(setup, watch, lambda kind, text: send(**{kind: text}))
    report_what_python_ignores(shared)
    watch.start()
    work(setup, shared, setup.warm_up, "warm-up")
    before = traces.look()
    n_loads = shared.counts["load"]
    work(setup, shared, setup.seconds, "work")
    after = traces.settled(before)
    changes = traces.changes(before, after)
    if changes["descriptors"]:
        send(left_open=", ".join(traces.new_files(before, after)))
    send(counts=shared.counts, left=changes, loads=shared.counts["load"] - n_loads)
    watch.stop()
    leave_at_work(setup, shared)


def leave_at_work(setup: Setup, shared: Shared) -> None:
    """Answers and loads are at work when the process ends. Nobody may write to its streams then."""
    shared.tell = lambda *_: None
    sys.unraisablehook = threading.excepthook = lambda *_: None
    shared.ends = math.inf
    rng = random.Random(f"{setup.seed} exit")
    for _ in range(setup.threads):
        worker = Worker(shared, random.Random(rng.random()))
        operations = {asking.ask: 4.0, disturbing.load: 1.0}
        threading.Thread(target=worker.run, args=(operations,), daemon=True).start()
    time.sleep(0.4 * rng.random())


def work(setup: Setup, shared: Shared, seconds: float, name: str) -> None:
    """All threads for so long; all models are closed afterwards."""
    shared.ends = time.monotonic() + seconds
    workers = [
        Worker(shared, random.Random(f"{setup.seed} {name} {i}")) for i in range(setup.threads)
    ]
    threads = [threading.Thread(target=worker.run, args=(OPERATIONS,)) for worker in workers]
    for thread in threads:
        thread.start()
    if interrupting.POSSIBLE and setup.interrupts:
        main_thread = Worker(shared, random.Random(f"{setup.seed} {name} main"))
        main_thread.run({interrupting.interrupt: 1.0})
    for thread in threads:
        thread.join()
    for i, model in enumerate(shared.models):
        if model is not None:
            workers[0].close(model)
        shared.models[i] = None


if __name__ == "__main__":
    main(Setup.from_json(sys.argv[1]))
