"""Drafters and prompts of the tests of what a ``Llama`` carries from here to there."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest

PROSE = "the brown"

TURN_1 = "<|im_start|>user\nWho is anna?<|im_end|>\n<|im_start|>assistant\n"

DRAFTERS = ("plain", "dflash-b8", "dflash2-b8", "dspark-b8")


@pytest.fixture(params=DRAFTERS)
def drafter(request: pytest.FixtureRequest, tiny_drafters: dict[str, Path]) -> Path | None:
    return tiny_drafters.get(request.param)


@pytest.fixture
def b8(tiny_drafters: dict[str, Path]) -> Path:
    return tiny_drafters["dflash-b8"]


def answer(llm: llama_cpp.Llama, prompt: str, n: int = 60) -> str:
    return str(llm(prompt, max_tokens=n, temperature=0)["choices"][0]["text"])
