"""Models whose generators are left early, and how one sees that they are still right."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama, check_drafts

from dflash_local import Llama

PROSE = "the brown"
OTHER = "12 + 7 ="

DRAFTERS = ["dflash-b8", "dflash2-b8", "dspark-b7-anchor"]


@pytest.fixture(scope="module", params=["plain", *DRAFTERS])
def drafter(request: pytest.FixtureRequest, tiny_drafters: dict[str, Path]) -> Path | None:
    return tiny_drafters.get(request.param)


@pytest.fixture(scope="module")
def expected(make_module_llama: MakeLlama, tiny_verifier: Path) -> dict[str, list[int]]:
    """Sixty greedy tokens after each prompt, from the parent."""
    parent = make_module_llama(llama_cpp.Llama, tiny_verifier)
    out = {}
    for prompt in (PROSE, OTHER):
        parent.reset()
        out[prompt] = generated(parent, prompt, 60)
    return out


@pytest.fixture(scope="module", params=["by step", "by row"])
def shared(
    request: pytest.FixtureRequest,
    make_module_llama: MakeLlama,
    tiny_verifier: Path,
    drafter: Path | None,
) -> Llama:
    by_row = request.param == "by row"
    llm: Llama = make_module_llama(Llama, tiny_verifier, drafter=drafter, logits_all=by_row)
    return llm


@pytest.fixture
def llm(shared: Llama) -> Llama:
    shared.reset()
    return shared


def start(llm: llama_cpp.Llama, prompt: str, **options: Any) -> Any:
    return llm.generate(llm.tokenize(prompt.encode()), temp=0.0, **options)


def generated(llm: llama_cpp.Llama, prompt: str, n: int, **options: Any) -> list[int]:
    return list(itertools.islice(start(llm, prompt, **options), n))


def check_agreement(llm: Llama) -> None:
    """The parent's count, the session's and both memories say the same."""
    memory = llama_cpp.llama_get_memory(llm.ctx)
    assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == llm.n_tokens - 1
    assert llm.session.n_past == llm.n_tokens
    assert llm.session.n_features == (llm.n_tokens if llm.session.drafter else 0)
    assert llm.session.tokens == llm.input_ids[: llm.n_tokens].tolist()


def check_usable(llm: Llama, expected: dict[str, list[int]]) -> None:
    for prompt, tokens in expected.items():
        assert generated(llm, prompt, 40) == tokens[:40]
        check_drafts(llm)
        check_agreement(llm)
