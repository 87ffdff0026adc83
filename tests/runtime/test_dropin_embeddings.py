"""Embeddings of a ``Llama`` with a drafter are the parent's, and answers follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import carried
import llama_cpp
import numpy as np
import pytest
from carried import PROSE, answer
from conftest import MakeLlama, check_drafts

from dflash_local import Llama

# pytest finds fixtures by the names of a module.
drafter = carried.drafter
b8 = carried.b8


@pytest.mark.parametrize(
    "pooling", [llama_cpp.LLAMA_POOLING_TYPE_MEAN, llama_cpp.LLAMA_POOLING_TYPE_NONE]
)
def test_embeddings_equal_the_parents_and_answers_follow(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None, pooling: int
) -> None:
    options: dict[str, Any] = {"embedding": True, "pooling_type": pooling}
    parent = make_llama(llama_cpp.Llama, tiny_verifier, **options)
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, **options)
    texts = ["anna is", "the brown owl", "12 + 7 ="]
    for _ in range(2):
        for text in texts:
            expected, found = (model.embed(text, normalize=True) for model in (parent, llm))
            np.testing.assert_allclose(found, expected, atol=1e-5)
        a, b = (model.create_embedding(texts) for model in (parent, llm))
        assert a["usage"] == b["usage"]
        for x, y in zip(a["data"], b["data"], strict=True):
            np.testing.assert_allclose(y["embedding"], x["embedding"], atol=1e-5)
        assert llm.n_tokens == 0
        if pooling == llama_cpp.LLAMA_POOLING_TYPE_NONE:  # else libllama computes no logits
            assert answer(llm, PROSE) == answer(parent, PROSE)
            check_drafts(llm)


def test_embed_without_embedding_is_the_parents_error_and_forgets_nothing(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=drafter)
    answer(llm, PROSE)
    n_tokens = llm.n_tokens
    with pytest.raises(RuntimeError, match="embedding=True"):
        llm.embed("anna")
    assert llm.n_tokens == n_tokens


@pytest.mark.parametrize(
    "texts", [["anna", "anna " * 40], ["anna " * 20, "ben " * 20, "anna " * 40]]
)
def test_an_embed_that_fails_leaves_the_model_usable(
    make_llama: MakeLlama, tiny_verifier: Path, b8: Path, texts: list[str]
) -> None:
    """The second one fails when the memory of the last answer is overwritten already."""
    options: dict[str, Any] = {
        "embedding": True,
        "pooling_type": llama_cpp.LLAMA_POOLING_TYPE_NONE,
        "n_batch": 32,
    }
    llm = make_llama(Llama, tiny_verifier, drafter=b8, **options)
    expected = answer(llm, PROSE)
    with pytest.raises(ValueError, match="exceed batch size"):
        llm.embed(texts, truncate=False)
    assert answer(llm, PROSE) == expected
    check_drafts(llm)
