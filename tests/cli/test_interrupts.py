"""Ctrl-C at any moment of ``dflash-local chat -p``: it ends with 130 and says nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeLlama
from waiting import PATIENCE

from dflash_local import Cancelled, Llama
from dflash_local.cli.interrupts import Interrupts

TESTS = Path(__file__).parents[1]
TINY = ["--verifier", str(TESTS / "models" / "verifier-f32.gguf")]
TINY += ["--drafter", str(TESTS / "models" / "dflash-b8.gguf"), "--threads", "1", "--width", "4"]


def one_answer(moment: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The tiny model's, with a Ctrl-C at that moment of it."""
    command = [sys.executable, str(TESTS / "support" / "interrupted.py"), moment]
    command += ["chat", *TINY, "-p", "Who is anna?", "--max-tokens", "24", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_without_an_interrupt_the_answer_ends_as_always() -> None:
    """A test of the test."""
    done = one_answer("*0")
    assert done.returncode == 0
    assert "anna" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "llama_cpp:<module>",  # it is imported
        "dflash_local.cli.chat:_one_shot_text",
        "dflash_local.llama_log:_receive",  # C calls it while it loads the verifier
        "dflash_local.runtime.drafter:__init__",
        "dflash_local.runtime.timeline:_read_chunk",
        "dflash_local.cli.screen:piece",
        "dflash_local.cli.report:write_json",
        "dflash_local.runtime.session_llama:close",
        "dflash_local.cli.interrupts:leave",
    ],
)
def test_an_interrupt_at_any_moment_of_one_answer_exits_with_130(
    moment: str, tmp_path: Path
) -> None:
    done = one_answer(moment, "--stats-json", str(tmp_path / "s.json"))
    assert (done.returncode, done.stderr) == (130, "")


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupts]:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = Interrupts()
    begun.begin()
    yield begun
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_is_lost_in_a_callback_of_c_is_remembered(
    interrupts: Interrupts, capfd: pytest.CaptureFixture[str]
) -> None:
    @ctypes.CFUNCTYPE(None)
    def callback() -> None:
        signal.raise_signal(signal.SIGINT)

    callback()
    assert capfd.readouterr().err == ""
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    interrupts.forget()
    interrupts.check()


def test_what_is_being_loaded_is_not_left_half_made(interrupts: Interrupts) -> None:
    made: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        _load(interrupts, 1, made)
    assert made == [1]


def test_a_second_interrupt_does_not_wait_for_what_is_being_loaded(
    interrupts: Interrupts,
) -> None:
    made: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        _load(interrupts, 2, made)
    assert made == []


def _load(interrupts: Interrupts, n_interrupts: int, made: list[int]) -> None:
    with interrupts.held():
        for _ in range(n_interrupts):
            signal.raise_signal(signal.SIGINT)
        made.append(n_interrupts)


def test_an_interrupt_cuts_a_decode_short(
    interrupts: Interrupts, make_llama: MakeLlama, tiny_verifier: Path
) -> None:
    """The whole prompt is one decode, in which Python's own handler cannot run."""
    size = {"n_ctx": 8192, "n_batch": 8192, "n_ubatch": 8192}
    llm = make_llama(Llama, tiny_verifier, **size)
    interrupter = threading.Thread(target=lambda: (at_work(llm), os.kill(os.getpid(), 2)))
    interrupter.start()
    with interrupts.stopping(llm.cancel), pytest.raises((KeyboardInterrupt, Cancelled)):
        llm.eval(list(range(20, 380)) * 22)
    interrupter.join()
    assert interrupts.came
    assert llm.n_tokens == 0


def at_work(llm: Llama) -> None:
    while not llm._turns.at_work:
        time.sleep(0.001)
    time.sleep(0.05)  # it has begun to decode, which takes seconds


def test_a_process_that_ignores_interrupts_goes_on_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Interrupts().begin()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
