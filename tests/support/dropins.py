"""The parent and ours, over the same files, and how their answers are compared.

Weights and K/V are F32, so that equal means equal: whole responses are compared.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama
from rpc_servers import placed

from dflash_local import Llama

PROSE = "the brown"
PERSON = "anna is"
GRAMMAR = 'root ::= " 13 years old and lives in " ("paris" | "rome") ". anna likes " [a-z ]+ "."'

Pair = tuple[llama_cpp.Llama, Llama]


def load_pair(make: MakeLlama, verifier: Path, drafter: Path | None, **options: Any) -> Pair:
    parent = make(llama_cpp.Llama, verifier, **options)
    return parent, make(Llama, verifier, drafter=drafter, **options)


@pytest.fixture(scope="module", params=["home", "verifier"])
def placement(request: pytest.FixtureRequest) -> dict[str, Any]:
    """All of these tests run at home, and with the verifier on a server."""
    return placed(request, request.param)


@pytest.fixture(scope="module", params=["plain", "dflash-b8"])
def drafter(request: pytest.FixtureRequest, tiny_drafters: dict[str, Path]) -> Path | None:
    return tiny_drafters.get(request.param)


@pytest.fixture(scope="module")
def shared_pair(make_module_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None) -> Pair:
    return load_pair(make_module_llama, tiny_verifier, drafter)


@pytest.fixture(scope="module")
def shared_pair_all(
    make_module_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> Pair:
    return load_pair(make_module_llama, tiny_verifier, drafter, logits_all=True)


def _clean(pair: Pair) -> Pair:
    for llm in pair:
        llm.reset()
        llm.set_seed(1)
        llm.set_cache(None)
    return pair


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    """Parent and ours, as if just loaded."""
    return _clean(shared_pair)


@pytest.fixture
def pair_all(shared_pair_all: Pair) -> Pair:
    """The same with logits_all=True."""
    return _clean(shared_pair_all)


def same(a: Any, b: Any) -> None:
    """Equal responses or lists of chunks, but for the id and the time."""
    assert _comparable(a) == _comparable(b)


def _comparable(response: Any) -> Any:
    if isinstance(response, dict):
        return {k: v for k, v in response.items() if k not in ("id", "created")}
    return [_comparable(chunk) for chunk in response]


def text_of(response: dict[str, Any]) -> str:
    return str(response["choices"][0]["text"])


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def greedy(llm: llama_cpp.Llama, tokens: list[int], n: int, **options: Any) -> list[int]:
    return list(itertools.islice(llm.generate(tokens, temp=0.0, **options), n))


def content_of(response: Any) -> str:
    if isinstance(response, list):
        return "".join(c["choices"][0]["delta"].get("content", "") for c in response)
    return str(response["choices"][0]["message"]["content"])
