"""While others work, OpenMP's threads are to sleep when they wait, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import llama_cpp
import psutil
import pytest
from conftest import F32
from waiting import PATIENCE, wait_until

from dflash_local.cli import chat
from dflash_local.machine import busy
from dflash_local.machine.busy import BusyWatch
from dflash_local.machine.openmp import SPINS

N_CPUS = 16


class Machine:
    """Of 16 processors, some of which others have."""

    n_cpus = N_CPUS
    others = 0.0
    n_looks = 0

    def processors(self) -> float:
        type(self).n_looks += 1
        return self.others

    def begin(self) -> None:
        pass


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Machine]]:
    monkeypatch.setattr(busy, "OtherWork", Machine)
    monkeypatch.setattr(busy, "_INTERVAL", 0.01)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    yield Machine
    Machine.others, Machine.n_looks = 0.0, 0


pytestmark = pytest.mark.skipif(
    busy._gnus_parallel() is None, reason="llama.cpp was built with another OpenMP, or without"
)


def n_threads() -> int:
    return psutil.Process().num_threads()


def look_at(watch: BusyWatch, machine: type[Machine], others: float) -> bool:
    """Whether it shares when it has looked at such a machine for a while."""
    machine.others = others
    seen = machine.n_looks + 10
    wait_until(lambda: machine.n_looks > seen, "it looks")
    return watch.sharing


def test_threads_that_sleep_are_held_while_others_want_what_decoding_has(
    machine: type[Machine],
) -> None:
    before = n_threads()
    with BusyWatch(n_threads=8) as watch:
        assert watch.possible
        for others in (0.0, 3.0, 7.9):
            assert not look_at(watch, machine, others)
            assert n_threads() == before + 1
        assert look_at(watch, machine, 9.0)
        # More than processors: 7 that decode beside their first, these, and whoever holds them.
        assert n_threads() == before + 2 + N_CPUS - 8 + 1
        assert look_at(watch, machine, 8.4), "it wavers a little"
        assert not look_at(watch, machine, 7.0)
        wait_until(lambda: n_threads() == before + 1, "they end")
        assert look_at(watch, machine, 12.0)
    assert not watch.sharing
    wait_until(lambda: n_threads() == before, "all end with the watch")
    watch.close()


def test_work_that_is_over_soon_is_no_reason(machine: type[Machine]) -> None:
    with BusyWatch(N_CPUS) as watch:
        assert look_at(watch, machine, 1.0)
        n_looks, machine.others = machine.n_looks, 0.0
        wait_until(lambda: not watch.sharing, "it is calm again")
        assert machine.n_looks >= n_looks + busy._CALM


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("name", "value", "possible"),
    [
        ("OMP_WAIT_POLICY", "active", False),
        ("GOMP_SPINCOUNT", "infinite", False),
        ("GOMP_SPINCOUNT", str(SPINS), True),
    ],
)
def test_what_a_user_says_of_waiting_stands(
    name: str, value: str, possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with BusyWatch(N_CPUS) as watch:
        assert watch.possible == possible


def test_a_process_that_works_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with BusyWatch(os.cpu_count() or 1) as watch:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        try:
            wait_until(lambda: watch.sharing, "others work")
        finally:
            for process in others:
                process.kill()
                process.wait()


def test_answers_stay_as_they_are(machine: type[Machine], tiny_verifier: Path) -> None:
    texts = []
    for threads in (1, 2):
        options = {**F32, "n_threads": threads, "n_threads_batch": threads}
        with (
            BusyWatch(threads) as watch,
            closing(llama_cpp.Llama(str(tiny_verifier), verbose=False, **options)) as llm,
        ):
            assert look_at(watch, machine, float(N_CPUS))
            answer = llm.create_completion("the brown", max_tokens=16, temperature=0)
            texts.append(answer["choices"][0]["text"])
    assert texts[0] == texts[1] != ""


@pytest.mark.usefixtures("machine")
def test_a_chat_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(*_: object) -> int:
        return [thread.name for thread in threading.enumerate()].count("busy-watch")

    monkeypatch.setattr(chat, "_chat", threads)
    assert chat.main(["-p", "Hello"]) == 1
    assert threads() == 0


def test_without_gnus_openmp_it_does_nothing(
    monkeypatch: pytest.MonkeyPatch, machine: type[Machine]
) -> None:
    monkeypatch.setattr(busy, "_gnus_parallel", lambda: None)
    machine.others = float(N_CPUS)
    before = n_threads()
    with BusyWatch(N_CPUS) as watch:
        assert not watch.possible
        assert n_threads() == before


def test_a_load_that_cannot_be_read_is_none(
    monkeypatch: pytest.MonkeyPatch, machine: type[Machine]
) -> None:
    def refuse(_: Machine) -> float:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(machine, "processors", refuse)
    before = n_threads()
    with BusyWatch(N_CPUS) as watch:
        wait_until(lambda: n_threads() == before, "it gives up")
        assert not watch.sharing


def test_a_program_that_ends_need_not_close_it() -> None:
    code = (
        "import time\n"
        "from dflash_local.machine import busy\n"
        "busy._INTERVAL = 0.01\n"
        "busy.OtherWork.processors = lambda self: float(self.n_cpus)\n"
        "watch = busy.BusyWatch(1)\n"
        "while not watch.sharing: time.sleep(0.01)\n"
    )
    free = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=free, capture_output=True, check=False, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
