"""The drafter in torch: z-lab's own, no peeking, and what it is trained for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training import MASK, VERIFIER, answers, fields, readings  # noqa: E402

from dflash_local.train.examples import anchors_of, make_batch  # noqa: E402
from dflash_local.train.loop import _Step  # noqa: E402
from dflash_local.train.loss import Targets, losses, pace_weights  # noqa: E402
from dflash_local.train.model import DrafterModel, Vocabulary, drafter_config, visible  # noqa: E402
from dflash_local.train.options import FitOptions  # noqa: E402
from dflash_local.train.verifiers.verifier_file import VerifierFile  # noqa: E402

torch.set_num_threads(1)
SIZE = 5


@pytest.fixture(scope="module")
def verifier() -> VerifierFile:
    return VerifierFile(VERIFIER)


@pytest.fixture(scope="module")
def texts() -> list[Any]:
    return answers(6)


@pytest.fixture(scope="module")
def read(texts: list[Any]) -> dict[Any, Any]:
    return readings(texts)


@pytest.fixture
def drafter(verifier: VerifierFile) -> DrafterModel:
    torch.manual_seed(0)
    model = DrafterModel(drafter_config(fields(verifier.sizes, n_layer=2)))
    for parameter in model.parameters():  # weights at which a wrong mask or position shows
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def vocabulary(verifier: VerifierFile) -> Vocabulary:
    embedding, head = torch.from_numpy(verifier.embedding), torch.from_numpy(verifier.head)
    return Vocabulary(embedding, head, MASK)


def hidden_of(
    drafter: DrafterModel, vocabulary: Vocabulary, features: Any, text: Any, anchors: Any
) -> Any:
    at = torch.as_tensor(anchors)[None]
    tokens = torch.tensor(text.tokens)[at]
    with torch.no_grad():
        return drafter(features, at, vocabulary.blocks(tokens, SIZE))


def test_the_model_is_zlabs(
    drafter: DrafterModel,
    vocabulary: Vocabulary,
    texts: list[Any],
    read: dict[Any, Any],
    verifier: Any,
) -> None:
    """Many blocks at once give what z-lab's model gives for each of them alone."""
    zlab = pytest.importorskip("dflash.model", reason="z-lab's reference is not installed")
    theirs = zlab.DFlashDraftModel(zlab.Qwen3Config(**fields(verifier.sizes, n_layer=2))).eval()
    theirs.load_state_dict(drafter.state_dict())
    text = texts[0]
    features = torch.from_numpy(read[text].features)[None]
    anchors = anchors_of(text, 0, None)[:8]
    ours = hidden_of(drafter, vocabulary, features, text, anchors)
    for index, anchor in enumerate(anchors.tolist()):
        block = torch.tensor([[text.tokens[anchor], *[MASK] * (SIZE - 1)]])
        with torch.no_grad():
            alone = theirs(
                target_hidden=features[:, :anchor],
                noise_embedding=torch.nn.functional.embedding(block, vocabulary.embedding),
                position_ids=torch.arange(anchor + SIZE)[None],
            )
        torch.testing.assert_close(ours[:, index], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("position", "seen"), [(-1, True), (0, False), (1, False)])
def test_a_block_sees_the_features_before_its_anchor_and_no_others(
    drafter: DrafterModel,
    vocabulary: Vocabulary,
    texts: list[Any],
    read: dict[Any, Any],
    position: int,
    seen: bool,
) -> None:
    """An off-by-one in the mask, either way, changes what a block depends on."""
    text = texts[0]
    features = torch.from_numpy(read[text].features)[None]
    anchor = text.start + 6
    before = hidden_of(drafter, vocabulary, features, text, [anchor])
    changed = features.clone()
    changed[0, anchor + position] += 1.0
    after = hidden_of(drafter, vocabulary, changed, text, [anchor])
    assert (not torch.equal(before, after)) == seen


def test_rows_see_their_own_block_in_both_directions_and_no_other() -> None:
    seen = visible(torch.tensor([[2, 3]]), 4, 2)[0]
    context, blocks = seen[:, :4], seen[:, 4:]
    assert context.tolist() == [[True, True, False, False]] * 2 + [[True, True, True, False]] * 2
    assert blocks.tolist() == [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2


def test_targets_are_the_verifiers_tokens_for_the_places_of_the_rows(
    texts: list[Any], read: dict[Any, Any]
) -> None:
    """Row k of a block stands at anchor + k; the token before it says what belongs there."""
    text = texts[0]
    reading = read[text]
    anchors = anchors_of(text, 0, None)
    batch = make_batch([text], [reading], [anchors], SIZE)
    for index, anchor in enumerate(anchors.tolist()):
        valid = batch.targets.valid[0, index]
        assert int(valid.sum()) == min(SIZE - 1, len(text.tokens) - 1 - anchor)
        for k in range(1, 1 + int(valid.sum())):
            # Greedy answers are their own targets.
            assert int(batch.targets.ids[0, index, k - 1, 0]) == text.tokens[anchor + k]
    assert batch.features.shape[1] == anchors[-1], "nothing behind the last anchor is needed"


def test_anchors_are_the_tokens_of_an_answer_that_have_a_successor(texts: list[Any]) -> None:
    text = texts[0]
    assert anchors_of(text, 0, None).tolist() == list(range(text.start, len(text.tokens) - 1))
    some = anchors_of(text, 3, np.random.default_rng(1)).tolist()
    assert some == sorted(set(some))
    assert set(some) <= set(range(text.start, len(text.tokens) - 1))


# ---- the loss ------------------------------------------------------------------------------


def _targets(ids: list[list[int]], valid: list[list[bool]] | None = None) -> Targets:
    rows = torch.tensor(ids)[..., None]
    known = torch.ones(rows.shape[:-1], dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Targets(rows, torch.ones(rows.shape), known)


def test_the_loss_is_cross_entropy_weighted_by_position() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))
    ids = [[1, 2, 3], [4, 5, 6]]
    sums = losses(logits, _targets(ids), soft=0.0, decay=2.0)
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(ids).flatten(), reduction="none"
    ).view(2, 3)
    weights = torch.exp(-torch.arange(3) / 2.0)
    torch.testing.assert_close(sums.loss, (each * weights).sum())
    torch.testing.assert_close(sums.weight, 2 * weights.sum())


def test_accepted_drafts_end_at_the_first_miss() -> None:
    logits = torch.full((3, 3, 7), -9.0)
    for block, drafts in enumerate(([1, 2, 3], [1, 0, 3], [0, 2, 3])):
        for row, token in enumerate(drafts):
            logits[block, row, token] = 9.0
    sums = losses(logits, _targets([[1, 2, 3]] * 3), soft=0.0, decay=None)
    assert int(sums.length) == 3 + 1 + 0
    assert sums.hits.tolist() == [2, 2, 3]
    assert int(sums.n_blocks) == 3


def test_what_is_not_valid_or_not_in_the_head_counts_for_nothing() -> None:
    logits = torch.randn(1, 3, 7)
    whole = losses(logits, _targets([[1, 2, 3]], [[True, True, False]]), soft=0.0, decay=2.0)
    unknown = losses(logits, _targets([[1, 2, -1]]), soft=0.0, decay=2.0)
    torch.testing.assert_close(whole.loss, unknown.loss)
    assert whole.n_valid.tolist() == unknown.n_valid.tolist() == [1, 1, 0]


def test_pace_weights_are_the_derivative_of_the_expected_length() -> None:
    log_hit = torch.log(torch.tensor([0.9, 0.5, 0.7, 0.2])).requires_grad_()
    smoothed = 0.9 * log_hit.exp() + 0.1
    length = smoothed.log().cumsum(0).exp().sum()
    (gradient,) = torch.autograd.grad(length, smoothed)
    weights = pace_weights(log_hit.detach().exp())
    torch.testing.assert_close(weights, gradient * smoothed.detach())


def test_the_soft_part_is_over_the_verifiers_probabilities() -> None:
    logits = torch.randn(1, 1, 5)
    ids, probs = torch.tensor([[[2, 4]]]), torch.tensor([[[0.6, 0.2]]])
    targets = Targets(ids, probs, torch.ones(1, 1, dtype=torch.bool))
    log = torch.log_softmax(logits[0, 0], -1)
    expected = -(0.75 * log[2] + 0.25 * log[4])
    torch.testing.assert_close(losses(logits, targets, soft=1.0, decay=1.0).loss, expected)


def test_it_overfits_one_batch(
    verifier: Any, texts: list[Any], read: dict[Any, Any], vocabulary: Any
) -> None:
    torch.manual_seed(0)
    model = DrafterModel(drafter_config(fields(verifier.sizes)))
    anchors = [anchors_of(text, 0, None)[:6] for text in texts[:2]]
    batch = make_batch(texts[:2], [read[text] for text in texts[:2]], anchors, SIZE)
    step = _Step(model, vocabulary, replace(FitOptions(), soft=0.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        sums = step(batch)
        (sums.loss / sums.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(sums.loss / sums.weight) < 0.05
    assert int(sums.length) > 0.98 * int(sums.n_valid.sum())


def test_the_vocabulary_may_be_a_part(verifier: Any) -> None:
    embedding = torch.from_numpy(verifier.embedding)
    kept = torch.tensor([3, 5, 100])
    whole, part = (
        Vocabulary(embedding, embedding, MASK),
        Vocabulary(embedding, embedding, MASK, kept),
    )
    hidden = torch.randn(2, 4, embedding.shape[1])
    torch.testing.assert_close(part.logits(hidden), whole.logits(hidden)[..., kept])
    targets = _targets([[5, 7, 100]])
    assert part.rows(targets).ids[..., 0].tolist() == [[1, -1, 2]]
