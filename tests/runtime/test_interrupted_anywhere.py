"""Ctrl-C at any instruction of an answer: the next one is right, in any thread.

Python delivers a signal between two of its instructions. Here KeyboardInterrupt is raised before
each one of this package's in turn, also where a real signal would not come.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import llama_cpp
import pytest
from random_hybrid import write_lfm2

import dflash_local
from dflash_local import Llama
from dflash_local.files.gguf_header import GGUFHeader

PACKAGE = str(Path(dflash_local.__file__).parent)
PROMPT = [5, 40, 99, 7, 61, 62, 63]
OTHER = [5, 40, 99, 200, 3]
N_TOKENS = 6
#: Of so many instructions one is interrupted; each run begins with another one.
STRIDE = 23
OPTIONS: dict[str, Any] = {
    "n_ctx": 128,
    "n_batch": 6,
    "n_threads": 1,
    "n_threads_batch": 1,
    "type_k": llama_cpp.GGML_TYPE_F32,
    "type_v": llama_cpp.GGML_TYPE_F32,
}


class Interrupter:
    """Counts the instructions of this package, and raises KeyboardInterrupt before one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0
        self.where = ""

    def run(self, work: Callable[[], Any]) -> Any:
        """What the work returned, or the interrupt that came into it."""
        sys.settrace(self._call)
        try:
            return work()
        except KeyboardInterrupt as interrupt:
            return interrupt.with_traceback(None)
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, _event: str, _arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                code = frame.f_code
                self.where = f"{code.co_name}, line {frame.f_lineno}, {frame.f_lasti}"
                raise KeyboardInterrupt
        return self._opcode


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory, tiny_verifier: Path) -> Path:
    path = tmp_path_factory.mktemp("hybrid") / "lfm2.gguf"
    write_lfm2(path, GGUFHeader(tiny_verifier))
    return path


def tokens(llm: Any, prompt: list[int]) -> list[int]:
    return list(islice(llm.generate(prompt, temp=0.0), N_TOKENS))


def by_row(llm: Any) -> list[int]:
    processor = llama_cpp.LogitsProcessorList([lambda _, scores: scores])
    answer = llm.generate(PROMPT, temp=0.0, logits_processor=processor)
    return list(islice(answer, N_TOKENS))


def completion(llm: Any) -> str:
    text: str = llm.create_completion(PROMPT, temperature=0.0, max_tokens=3)["choices"][0]["text"]
    return text


def given_up(llm: Any) -> list[int]:
    """An answer that is left while it runs, and a longer timeline that becomes shorter."""
    tokens(llm, [*PROMPT, 70, 71, 72])
    return tokens(llm, PROMPT)


WORK: dict[str, Callable[[Any], Any]] = {
    "by step": lambda llm: tokens(llm, PROMPT),
    "by row": by_row,
    "completion": completion,
    "given up": given_up,
}


# Python itself drops what is raised while a generator is freed.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("kind", ["plain", "drafter", "hybrid"])
def test_after_an_interrupt_everything_is_as_before(
    kind: str, work: str, tiny_verifier: Path, hybrid: Path, tiny_drafters: dict[str, Path]
) -> None:
    verifier = hybrid if kind == "hybrid" else tiny_verifier
    drafter = None if kind == "plain" else tiny_drafters["dflash-b8"]
    with Llama(verifier, drafter=drafter, width=3, turn_timeout=20, **OPTIONS) as llm:
        expected, expected_other = tokens(llm, PROMPT), tokens(llm, OTHER)
        counting = Interrupter()
        counting.run(lambda: WORK[work](llm))
        first = 1 + sum(map(ord, kind + work)) % STRIDE
        for at in range(first, counting.count, STRIDE):
            interrupter = Interrupter(at)
            interrupter.run(lambda: WORK[work](llm))
            found = in_a_thread(lambda: (tokens(llm, OTHER), tokens(llm, PROMPT)))
            assert found == (expected_other, expected), interrupter.where


def in_a_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]
