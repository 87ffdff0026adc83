"""Layouts C and D: speculators' nested config, the Open Spec Config, and reduced vocabularies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layout_configs import MASK, N_DRAFT_VOCAB, SLIDING_LAYERS
from layout_files import N_VOCAB, Checkpoint
from layout_results import Result, converted, sample, weights, with_tensors, within

from dflash_local.errors import ModelError

IDS = sorted(i * 37 % N_VOCAB for i in range(N_DRAFT_VOCAB))


def test_a_nested_config_becomes_the_keys_of_a_flat_one(tmp_path: Path) -> None:
    keys = converted(tmp_path, sample("c-reduced")).keys
    drafter = {
        "block_count": 2,
        "context_length": 4096,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.freq_base": 1000000.0,
        "block_size": 8,
        "target_layers": [2, 5, 9],
        "tokenizer.ggml.mask_token_id": MASK,
    }
    foreign = ("general.", "tokenizer.", "dflash_local.")
    assert drafter == {
        name: value for name, value in keys.items() if name in drafter or _ours(name, foreign)
    }


def _ours(name: str, foreign: tuple[str, ...]) -> bool:
    return not name.startswith(foreign)


def test_rows_of_a_reduced_head_are_mapped_to_absolute_ids(tmp_path: Path) -> None:
    checkpoint = sample("c-reduced")
    result = converted(tmp_path, checkpoint)
    assert result.tensors["d2t"].tolist() == IDS
    assert result.types["d2t"] == "I64"
    assert "t2d" not in result.tensors
    head, embedding = result.tensors["output.weight"], result.tensors["token_embd.weight"]
    np.testing.assert_array_equal(head, weights(checkpoint, "lm_head.weight"))
    np.testing.assert_array_equal(embedding, weights(checkpoint, "embed_tokens.weight"))
    assert (len(head), len(embedding)) == (N_DRAFT_VOCAB, N_VOCAB)


def test_an_untied_head_of_the_whole_vocabulary_is_kept(tmp_path: Path) -> None:
    checkpoint = sample("c-full")
    head = converted(tmp_path, checkpoint).tensors["output.weight"]
    np.testing.assert_array_equal(head, weights(checkpoint, "lm_head.weight"))


def _same(one: Result, other: Result) -> None:
    # Names of folders differ.
    hidden = ("general.", "dflash_local.")
    assert {k: v for k, v in one.keys.items() if not k.startswith(hidden)} == {
        k: v for k, v in other.keys.items() if not k.startswith(hidden)
    }
    assert one.types == other.types
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor, other.tensors[name], err_msg=name)


@pytest.mark.parametrize(
    "other",
    [
        sample("c-speculator"),
        sample("c-reduced", architectures=["DSparkSpeculator"]),
        sample("c-reduced", "t2d"),
        sample("d-start1"),
        sample("d-start0"),
        sample("d-start1", architectures=["DFlashDraftModel"]),
        sample("dprime-older"),
    ],
    ids=["speculator", "dspark-name", "no-t2d", "ids-from-1", "ids-from-0", "old-name", "older"],
)
def test_all_spellings_of_a_drafter_give_the_same_file(other: Checkpoint, tmp_path: Path) -> None:
    _same(converted(tmp_path, sample("c-reduced")), converted(tmp_path, other))


def test_a_block_holds_the_anchor_beside_the_speculative_tokens(tmp_path: Path) -> None:
    spec = "speculative_config"
    plain = converted(tmp_path, within("d-full", spec, speculative_tokens=5))
    assert plain.keys["block_size"] == 6
    assert "markov_w1.weight" not in plain.tensors
    anchored = within("d-full", spec, speculative_tokens=5, sample_from_anchor=True)
    result = converted(tmp_path, anchored)
    assert result.keys["block_size"] == 5
    assert result.keys["sample_from_anchor"] is True
    assert not result.tensors["markov_w1.weight"].any()


def _problem(tmp_path: Path, checkpoint: Checkpoint, *messages: str, **options: Any) -> None:
    with pytest.raises(ModelError) as caught:
        converted(tmp_path, checkpoint, **options)
    for message in messages:
        assert message in str(caught.value)


def test_what_an_open_spec_config_lacks_is_listed(tmp_path: Path) -> None:
    spec = "speculative_config"
    broken = within(
        "d-full",
        spec,
        method="eagle3",
        target_layer_start_idx=None,
        target_layer_ids=None,
        speculative_tokens=0,
    )
    _problem(
        tmp_path,
        broken,
        "4 problems",
        "`method`: found 'eagle3'",
        "`target_layer_start_idx`: found nothing, expected an integer from 0 to 1",
        "`target_layer_ids`: found nothing",
        "`speculative_tokens`: found 0",
    )


def test_what_a_speculators_config_lacks_is_listed(tmp_path: Path) -> None:
    lacking = sample("c-full", mask_token_id=None, block_size=None, speculators_model_type="eagle3")
    _problem(
        tmp_path,
        lacking,
        "3 problems",
        "`mask_token_id`: found nothing",
        "`block_size`: found nothing",
        "`speculators_model_type`: found 'eagle3'",
    )
    _problem(
        tmp_path,
        sample("c-full", target_layer_ids=[1, 4, 7]),
        "`target_layer_ids` [1, 4, 7] and `aux_hidden_state_layer_ids` [2, 5, 9] disagree",
    )
    _problem(
        tmp_path,
        sample("c-full", target_hidden_size=128),
        "`target_hidden_size`: found 128, expected the drafter's own 64",
    )


def test_the_embeddings_are_hidden_state_zero(tmp_path: Path) -> None:
    keys = converted(tmp_path, sample("c-full", aux_hidden_state_layer_ids=[0, 5, 9])).keys
    assert keys["target_layers"] == [0, 5, 9]


def test_the_last_hidden_state_is_refused(tmp_path: Path) -> None:
    last = sample("c-full", aux_hidden_state_layer_ids=[2, 5, 10])
    _problem(tmp_path, last, "target layer 9 is the verifier's last")


def _mapped(**tables: Any) -> Checkpoint:
    return with_tensors(sample("c-reduced"), **tables)


def test_maps_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    rows = np.arange(N_DRAFT_VOCAB)
    ids = np.array(IDS)
    cases = {
        "does not": (_mapped(d2t=ids), "maps to token"),  # absolute ids where offsets belong
        "below": (_mapped(d2t=ids - rows - IDS[0] - 1), "maps to token -1"),
        "twice": (_mapped(d2t=np.minimum(ids, IDS[-2]) - rows), "1 tokens occur twice"),
        "flags": (_mapped(d2t=(ids ^ 1) - rows), "do not name the same tokens"),
        "short": (_mapped(d2t=ids[:-1] - rows[:-1]), "tensor d2t: found shape (39,)"),
        "none": (sample("c-reduced", "d2t", "t2d"), "missing tensor d2t (40,)"),
        "type": (_mapped(d2t=(ids - rows).astype(np.float32)), "tensor d2t: found type"),
        "head": (sample("c-reduced", "lm_head.weight"), "missing tensor lm_head.weight (40, 64)"),
        "large": (sample("c-reduced", draft_vocab_size=97), "expected at most the vocabulary's 96"),
    }
    for checkpoint, message in cases.values():
        _problem(tmp_path, checkpoint, message)


# ---- the mask inside a block -----------------------------------------------------------------

MIXED = {**SLIDING_LAYERS, "layer_types": ["sliding_attention", "full_attention"]}


def _with_layers(layers: dict[str, Any], **config: Any) -> Checkpoint:
    nested = {**sample("c-full").config["transformer_layer_config"], **layers}
    return sample("c-full", transformer_layer_config=nested, **config)


def test_sliding_layers_are_causal_as_trained(tmp_path: Path) -> None:
    keys = converted(tmp_path, _with_layers(SLIDING_LAYERS)).keys
    assert keys["attention.causal"] is True
    assert keys["attention.sliding_window"] == 32
    assert keys["attention.sliding_window_pattern"] == [True, True]
    nested = within("d-full", "speculative_config", sliding_window_non_causal=False)
    flat = Checkpoint({**nested.config, **SLIDING_LAYERS}, nested.shapes)
    assert converted(tmp_path, flat).keys["attention.causal"] is True
    assert converted(tmp_path, sample("e-sliding")).keys["attention.causal"] is True


def test_sliding_layers_are_bidirectional_where_the_config_says_so(tmp_path: Path) -> None:
    for layers in (SLIDING_LAYERS, MIXED):
        checkpoint = _with_layers(layers, sliding_window_non_causal=True)
        result = converted(tmp_path, checkpoint)
        assert "attention.causal" not in result.keys
        assert result.keys["attention.sliding_window"] == 32


def test_a_window_that_no_layer_uses_is_not_written(tmp_path: Path) -> None:
    unused = {**SLIDING_LAYERS, "layer_types": ["full_attention"] * 2}
    for layers in (unused, {**SLIDING_LAYERS, "use_sliding_window": False}):
        keys = converted(tmp_path, _with_layers(layers)).keys
        assert not [name for name in keys if "sliding" in name or "causal" in name]


def test_mixed_masks_are_never_guessed(tmp_path: Path) -> None:
    _problem(
        tmp_path,
        _with_layers(MIXED),
        "causal in layers 0 and bidirectional in layers 1",
        "`--attention causal` or `--attention bidirectional`",
    )
    for choice, causal in (("causal", True), ("bidirectional", False)):
        result = converted(tmp_path, _with_layers(MIXED), attention=choice)
        assert result.keys["attention.causal"] is causal
        assert result.keys["attention.sliding_window_pattern"] == [True, False]
        assert not result.warnings
    _problem(tmp_path, _with_layers(MIXED), "found 'both', expected one of", attention="both")


def test_a_choice_against_the_checkpoint_is_obeyed_and_said(tmp_path: Path) -> None:
    result = converted(tmp_path, sample("c-full"), attention="causal")
    assert result.keys["attention.causal"] is True
    assert "was trained bidirectional" in result.warnings[0]
    assert not converted(tmp_path, sample("c-full"), attention="bidirectional").warnings
