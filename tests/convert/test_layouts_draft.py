"""Every kind of checkpoint, converted, drafts: in our session and in upstream's own loop.

The tiny drafters are published again in every layout that has their mathematics. Whatever the
layout, the file must draft and accept as many tokens as the one the weights come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import upstream
from dflash_local.convert import convert
from exactness import ONE_THREAD, assert_mixed, counts, greedy, tiny_prompts
from layout_files import write_checkpoint
from republished import publications
from tiny_weights import f32_edition
from upstream_counts import kind, our_answer

import dflash_local
from dflash_local.files.drafter_file import read_drafter

MakeLlama = Callable[..., Any]
N_PROMPTS, N_TOKENS = 5, 32
PUBLISHED = publications()
WITH_ORIGINAL = sorted(name for name, item in PUBLISHED.items() if item.original is not None)
#: Random weights: what they draft is never right.
RANDOM = ("f-gemma4",)


@dataclass(frozen=True)
class Plain:
    """The verifier's own greedy answers."""

    prompts: list[list[int]]
    answers: list[list[int]]


@pytest.fixture(scope="module")
def plain(make_module_llama: MakeLlama, tiny_verifier: Path) -> Plain:
    llm = make_module_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    prompts = tiny_prompts(llm, N_PROMPTS, seed=6)
    return Plain(prompts, [greedy(llm, prompt, N_TOKENS) for prompt in prompts])


@dataclass
class Pairs:
    """Drafters over the tiny verifier, at full width."""

    make: MakeLlama
    verifier: Path
    prompts: list[list[int]]

    def load(self, drafter: Path) -> Any:
        width = min(7, read_drafter(drafter).max_width)
        return self.make(
            dflash_local.Llama, self.verifier, drafter=drafter, width=width, **ONE_THREAD
        )

    def counts(self, llm: Any) -> list[upstream.Answer]:
        """Texts, and the tokens drafted and accepted for each."""
        return [our_answer(llm, llm.session, prompt, N_TOKENS).answer for prompt in self.prompts]


@pytest.fixture
def pairs(make_llama: MakeLlama, tiny_verifier: Path, plain: Plain) -> Pairs:
    return Pairs(make_llama, tiny_verifier, plain.prompts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("republished")


def _convert(name: str, folder: Path, verifier: Path, outtype: str = "f32") -> Path:
    source = folder / name
    if not source.exists():
        write_checkpoint(source, PUBLISHED[name].checkpoint)
    output = folder / f"{name}-{outtype}.gguf"
    return output if output.exists() else convert(source, verifier, output, outtype=outtype).output


def _check_exact(pairs: Pairs, plain: Plain, name: str, drafter: Path) -> None:
    """Answers are the verifier's own, with accepted and rejected drafts in them."""
    llm = pairs.load(drafter)
    before = counts(llm)
    assert [greedy(llm, prompt, N_TOKENS) for prompt in plain.prompts] == plain.answers
    if name in RANDOM:
        assert counts(llm)[0] > before[0]
    else:
        assert_mixed(before, counts(llm))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_greedy_output_equals_plain_decoding(
    name: str, folder: Path, tiny_verifier: Path, pairs: Pairs, plain: Plain
) -> None:
    _check_exact(pairs, plain, name, _convert(name, folder, tiny_verifier))


@pytest.mark.slow
@pytest.mark.parametrize("outtype", ["q8_0", "q5_1", "q4_k"])
@pytest.mark.parametrize("name", ["b", "c-reduced", "e", "f-dflash", "j"])
def test_quantised_drafters_change_nothing_about_the_answer(
    name: str, outtype: str, folder: Path, tiny_verifier: Path, pairs: Pairs, plain: Plain
) -> None:
    _check_exact(pairs, plain, name, _convert(name, folder, tiny_verifier, outtype))


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_ORIGINAL)
def test_as_many_drafts_are_accepted_as_with_the_file_the_weights_come_from(
    name: str, folder: Path, tiny_verifier: Path, pairs: Pairs
) -> None:
    item = PUBLISHED[name]
    original = f32_edition(str(item.original), folder / f"{name}-original.gguf", item.without)
    ours = pairs.counts(pairs.load(_convert(name, folder, tiny_verifier)))
    assert ours == pairs.counts(pairs.load(original))
    assert 0 < sum(a.n_accepted for a in ours) < sum(a.n_drafted for a in ours)


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="xllamacpp, llama.cpp's server as a wheel, is missing"
)
@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_drafts_are_accepted_as_in_upstreams_loop(
    name: str, folder: Path, tiny_verifier: Path, pairs: Pairs
) -> None:
    drafter = _convert(name, folder, tiny_verifier)
    llm = pairs.load(drafter)
    request = upstream.Request(
        str(tiny_verifier), str(drafter), kind(drafter), llm.width, pairs.prompts, N_TOKENS
    )
    ours = pairs.counts(llm)
    assert ours == upstream.answers(request)
    assert sum(a.n_drafted for a in ours) > 0
