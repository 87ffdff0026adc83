"""The prompts as token ids: every engine gets the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import llama_cpp

from dflash_local.bench.rendering import render
from dflash_local.bench.suite import Prompt, categories
from dflash_local.llama_log import captured_log


@dataclass(frozen=True)
class Vocabulary:
    """What the prompts became.

    Attributes:
        prompts: token ids of each.
        end_tokens: the ids that end an answer.
    """

    prompts: list[list[int]]
    end_tokens: list[int]


def in_turn(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first of each category, then the second of each, and so on."""
    groups = [[p for p in prompts if p.category == name] for name in categories(prompts)]
    return [prompt for prompt in chain(*zip_longest(*groups)) if prompt is not None]


def tokenize(verifier: Path, prompts: Sequence[Prompt]) -> Vocabulary:
    """The prompts through the verifier's own chat template and tokenizer."""
    with captured_log():  # it warns of a context that nobody uses
        llm = llama_cpp.Llama(str(verifier), vocab_only=True, verbose=False)
    try:
        vocab = llama_cpp.llama_model_get_vocab(llm.model)
        is_end = llama_cpp.llama_vocab_is_eog
        ends = [token for token in range(llm.n_vocab()) if is_end(vocab, token)]
        return Vocabulary([render(llm, prompt) for prompt in prompts], ends)
    finally:
        llm.close()
