"""Acceptance by width, as training computes it in torch, held against the real loop."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

from exactness import greedy  # noqa: E402
from training import MODELS, N_CTX, VERIFIER, answers  # noqa: E402

import dflash_local  # noqa: E402
from dflash_local.train.acceptance import (  # noqa: E402
    Acceptance,
    blocks_of,
    counts_of_model,
    of_model,
    of_ngram,
    widths_of,
)
from dflash_local.train.capture import Capturer  # noqa: E402
from dflash_local.train.checkpoint import load_weights  # noqa: E402
from dflash_local.train.model import DrafterModel, Vocabulary, drafter_config  # noqa: E402
from dflash_local.train.verifiers.verifier_file import VerifierFile  # noqa: E402

CHECKPOINT = MODELS / "dflash-b8"
FIELDS = json.loads((CHECKPOINT / "config.json").read_text())


@pytest.fixture(scope="module")
def model() -> DrafterModel:
    drafter = DrafterModel(drafter_config(FIELDS)).eval()
    load_weights(drafter, CHECKPOINT)
    return drafter


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    embedding = torch.from_numpy(VerifierFile(VERIFIER).embedding)
    return Vocabulary(embedding, embedding, FIELDS["dflash_config"]["mask_token_id"])


@pytest.fixture(scope="module")
def anchored() -> list[Any]:
    layers = [layer + 1 for layer in FIELDS["dflash_config"]["target_layer_ids"]]
    with Capturer(VERIFIER, layers, n_ctx=N_CTX, n_threads=1) as capturer:
        return [
            (text, capturer.read(text.tokens, 1), range(text.start, len(text.tokens) - 1))
            for text in answers(12)
        ]


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_walk_over_an_answer_takes_the_steps_of_the_real_loop(
    model: DrafterModel, vocabulary: Vocabulary, anchored: list[Any], make_llama: Any, width: int
) -> None:
    drafter = str(MODELS / "dflash-b8.gguf")
    llm = make_llama(dflash_local.Llama, VERIFIER, drafter=drafter, width=width)
    found = list(counts_of_model(model, vocabulary, anchored, [width]))
    for (text, _, _), counts in zip(anchored, found, strict=True):
        emitted = greedy(llm, text.prompt, len(text.tokens) - text.start)
        assert emitted == list(text.tokens[text.start :])
        assert llm.stats.last.n_blocks == len(blocks_of(counts[width]))
    counts = np.concatenate([one[width] for one in found])
    assert 0 < counts.mean() < width


def test_blocks_follow_each_other() -> None:
    counts = np.array([2, 0, 0, 1, 5, 0, 0])  # a block at 0, at 3, at 5 and at 6
    assert blocks_of(counts).tolist() == [2, 1, 0, 0]
    assert blocks_of(counts[:0]).tolist() == []


def test_shares_reached_add_up_to_what_is_accepted(
    model: DrafterModel, vocabulary: Vocabulary, anchored: list[Any]
) -> None:
    ours = of_model(model, vocabulary, anchored, [2, 7])
    assert ours[1].accepted > ours[0].accepted
    for found in (ours, of_ngram(anchored, [2, 7])):
        assert [one.width for one in found] == [2, 7]
        for one in found:
            assert len(one.reached) == one.width
            assert one.accepted == pytest.approx(sum(one.reached))
        assert found[1].accepted >= found[0].accepted > 0
    assert Acceptance.of(np.array([0, 1, 2, 2]), 2).reached == [0.75, 0.5]


def test_widths_worth_a_look() -> None:
    assert widths_of(2) == [1]
    assert widths_of(8) == [1, 2, 3, 4, 5, 6, 7]
    assert widths_of(16) == [1, 2, 3, 4, 5, 6, 7, 11, 15]
