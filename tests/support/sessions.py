"""A session over the tiny pair, and the plain answer that it has to give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama
from exactness import END, ONE_THREAD, greedy, tokenize
from rpc_servers import PLACEMENTS, placed

import dflash_local
from dflash_local import Finish, Session

STORY = (
    "<|im_start|>user\nTell a story of 5 lines about the owl.<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module", params=PLACEMENTS)
def placement(request: pytest.FixtureRequest) -> dict[str, Any]:
    """All of these tests run with both models at home, and with either or both on a server."""
    return placed(request, request.param)


@pytest.fixture(scope="module")
def stock(make_module_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    llm: llama_cpp.Llama = make_module_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    return llm


@pytest.fixture(scope="module")
def prompt(stock: llama_cpp.Llama) -> list[int]:
    return tokenize(stock, STORY)


@pytest.fixture(scope="module")
def plain(stock: llama_cpp.Llama, prompt: list[int]) -> list[int]:
    """The stock greedy answer to the prompt; it ends by itself."""
    answer = greedy(stock, prompt, 200)
    assert answer[-1] in END
    return answer


@pytest.fixture
def llm(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> dflash_local.Llama:
    drafter = tiny_drafters["dflash-b8"]
    llm: dflash_local.Llama = make_llama(
        dflash_local.Llama, tiny_verifier, drafter=drafter, **ONE_THREAD
    )
    return llm


@pytest.fixture
def session(llm: dflash_local.Llama) -> Session:
    assert llm.session is not None
    return llm.session


def rest_of_answer(session: Session, sampler: Any = None) -> list[int]:
    """The rest of an answer."""
    tokens: list[int] = []
    while True:
        step = session.step(sampler)
        tokens += step.tokens
        if step.finish != Finish.none:
            return tokens
