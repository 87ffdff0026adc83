"""Models at work, and threads that use them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MODELS, MakeLlama

from dflash_local import Llama

PROMPTS = ("the brown", "12 + 7 =", "anna is", "<|im_start|>user\nWho is anna?<|im_end|>\n")
LONG_PROMPT = list(range(20, 380)) * 22  # 7,920 tokens
#: So many seconds nothing may take that only has to end; a decode of the tiny models takes 1 ms.
SOON = 5.0


@pytest.fixture(scope="module", params=["plain", "dflash-b8"])
def drafter(request: pytest.FixtureRequest, tiny_drafters: dict[str, Path]) -> Path | None:
    return tiny_drafters.get(request.param)


@pytest.fixture(scope="module")
def expected(make_module_llama: MakeLlama, tiny_verifier: Path) -> dict[str, list[int]]:
    """Forty greedy tokens after each prompt, from the parent."""
    parent = make_module_llama(llama_cpp.Llama, tiny_verifier)
    out = {}
    for prompt in PROMPTS:
        parent.reset()
        out[prompt] = answer(parent, prompt, 40)
    return out


@pytest.fixture(scope="module")
def shared(make_module_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None) -> Llama:
    llm: Llama = make_module_llama(Llama, tiny_verifier, drafter=drafter)
    return llm


@pytest.fixture
def llm(shared: Llama, monkeypatch: pytest.MonkeyPatch) -> Llama:
    shared.reset()
    monkeypatch.setattr(shared, "turn_timeout", 60)  # a test that waits for ever tells nothing
    return shared


def start(llm: Any, prompt: str, **options: Any) -> Any:
    return llm.generate(llm.tokenize(prompt.encode(), special=True), temp=0.0, **options)


def answer(llm: Any, prompt: str, n: int = 40, **options: Any) -> list[int]:
    return list(itertools.islice(start(llm, prompt, **options), n))


class Worker(threading.Thread):
    """Runs a function; ``result`` is what it returned or raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.result = error

    def ended(self, seconds: float = 60.0) -> Any:
        self.join(seconds)
        assert not self.is_alive()
        return self.result


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_a_child(program: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a program that may end the process; VERIFIER and DRAFTER are its models."""
    head = (
        "import sys, threading\n"
        "from dflash_local import Llama\n"
        f"VERIFIER = {str(MODELS / 'verifier-f32.gguf')!r}\n"
        f"DRAFTER = {str(MODELS / 'dflash-b8.gguf')!r}\n"
        "OPTIONS = dict(n_ctx=256, n_threads=1, n_threads_batch=1, width=4)\n"
    )
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", head + program],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
