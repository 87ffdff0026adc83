"""No step drafts or verifies more than what is wanted still of an answer."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama

from dflash_local import Llama

PROMPT = "[" + '{"name": "june", "age": 9'
TOO_LONG = [5] * 600  # tokens, in a context of 512


@pytest.fixture(scope="module")
def parents_answers(make_module_llama: MakeLlama, tiny_verifier: Path) -> dict[int, str]:
    parent = make_module_llama(llama_cpp.Llama, tiny_verifier)
    return {
        n: text_of(parent.create_completion(PROMPT, max_tokens=n, temperature=0))
        for n in range(1, 13)
    }


# Whole steps, and row by row.
@pytest.fixture(scope="module", params=[False, True], ids=["by step", "by row"])
def llm(
    request: pytest.FixtureRequest,
    make_module_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> Llama:
    drafter = tiny_drafters["dflash-b8"]
    return make_module_llama(Llama, tiny_verifier, drafter=drafter, logits_all=request.param)


def text_of(response: Any) -> str:
    if isinstance(response, dict):
        return str(response["choices"][0]["text"])
    return "".join(chunk["choices"][0]["text"] for chunk in response)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("width", [7, None], ids=["widest", "adaptive"])
def test_an_answer_is_drafted_to_its_last_token_and_no_further(
    width: int | None, stream: bool, llm: Llama, parents_answers: dict[int, str]
) -> None:
    llm.width = width
    for n, text in parents_answers.items():
        assert (
            text_of(llm.create_completion(PROMPT, max_tokens=n, temperature=0, stream=stream))
            == text
        )
        stats = llm.stats.last
        assert stats.n_tokens == n
        assert len(stats.verified_per_width) <= max(0, n - 1)
    assert width is None or llm.stats.total.n_accepted > 20


def n_drafted(llm: Llama) -> int:
    """By an answer that is taken token by token, whose length nobody said."""
    list(islice(llm.generate(llm.tokenize(PROMPT.encode()), temp=0), 12))
    return int(llm.stats.last.n_drafted)


def test_a_limit_is_that_of_one_answer(llm: Llama) -> None:
    llm.width = 7
    llm.reset()
    without = n_drafted(llm)
    assert without > 7
    llm.create_completion(PROMPT, max_tokens=2)
    assert n_drafted(llm) == without
    with pytest.raises(ValueError, match="exceed context window"):
        llm.create_completion(TOO_LONG, max_tokens=2)
    assert n_drafted(llm) == without
    stream = llm.create_completion(PROMPT, max_tokens=3, stream=True)
    next(stream)
    assert n_drafted(llm) == without


def test_no_limit_goes_to_the_end_of_the_context(llm: Llama) -> None:
    llm.width = 7
    for unlimited in (None, 0, -1):
        answer = llm.create_completion(PROMPT, max_tokens=unlimited, temperature=0)
        assert answer["usage"]["completion_tokens"] > 16
