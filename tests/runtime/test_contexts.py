"""Contexts of other kinds: small micro-batches, flash attention, quantised K/V."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama
from exactness import assert_mixed, counts, first_difference, greedy, tiny_prompts, tokenize

from dflash_local import Llama
from dflash_local.files.taps import TAPS, Tap

NATIVE, CALLBACK = TAPS["llama"], Tap("l_out")
#: Blocks have 8 rows, prompts 20 and more.
CONTEXTS: dict[str, dict[str, Any]] = {
    "single rows": {"n_ubatch": 1},
    "half a block": {"n_ubatch": 4},
    "small batches": {"n_ubatch": 3, "n_batch": 11},
    "flash attention": {"flash_attn": True},
    "flash attention and micro-batches": {"flash_attn": True, "n_ubatch": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("tap", [NATIVE, CALLBACK], ids=["native", "callback"])
@pytest.mark.parametrize("options", CONTEXTS.values(), ids=CONTEXTS)
def test_the_context_changes_no_token_and_no_draft(
    options: dict[str, Any],
    tap: Tap,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    make_llama: MakeLlama,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = make_llama(llama_cpp.Llama, tiny_verifier)
    prompts = tiny_prompts(plain, 4, seed=8)
    expected = [greedy(plain, prompt, 40) for prompt in prompts]
    monkeypatch.setitem(TAPS, "llama", tap)
    found = []
    for one in ({}, options):
        llm = make_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **one)
        assert [greedy(llm, prompt, 40) for prompt in prompts] == expected
        found.append(counts(llm))
    assert found[0] == found[1]
    assert_mixed((0, 0), found[0])


#: What rounding moves a logit by where it decides how a value of the cache is stored.
MARGIN = 0.3
CHAT = "<|im_start|>user\nWrite a class for a point.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.slow
def test_quantised_caches_answer_as_plain_decoding_does_and_drafts_are_kept(
    smollm2_f32: Path, smollm2_drafter: Path, make_llama: MakeLlama
) -> None:
    """Of both contexts: the drafter's is of the verifier's kind."""
    kind = llama_cpp.GGML_TYPE_Q8_0
    options = {"type_k": kind, "type_v": kind, "flash_attn": True, "n_ctx": 256}
    plain = make_llama(llama_cpp.Llama, smollm2_f32, **options)
    llm = make_llama(Llama, smollm2_f32, drafter=smollm2_drafter, width=3, **options)
    prompt = tokenize(plain, CHAT)
    difference = first_difference(plain, prompt, greedy(plain, prompt, 32), greedy(llm, prompt, 32))
    assert difference is None or difference.explained(MARGIN), difference
    assert_mixed((0, 0), counts(llm))
