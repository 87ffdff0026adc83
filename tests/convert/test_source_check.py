"""A drafter's file against its checkpoint: right files pass, wrong ones are told, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from dflash_local.convert import convert
from dflash_local.convert.checking.draft_agreement import DraftAgreement, compare_drafts
from dflash_local.convert.checking.forward_source import open_drafter
from dflash_local.convert.checking.forward_weights import CannotCheck, gguf_weight, with_borrowed
from dflash_local.convert.checking.source_check import TOLERANCE, TOLERANCES, compare_with_source
from dflash_local.convert.checking.source_weights import token_ids
from dflash_local.convert.reading.source import open_source
from dflash_local.convert.verifiers.verifier import read_verifier
from dflash_local.convert.writing.encode import OUT_TYPES
from layout_configs import FULL, LLAMA3, N_LAYER, SLIDING, vocabulary
from layout_files import Checkpoint, rounded, values, write_checkpoint
from layout_samples import SAMPLES, _a
from random_verifier import write_runnable

from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader

MODELS = Path(__file__).parents[1] / "models"
TINY = MODELS / "dflash-b8"
#: In F32 nothing but the order of sums differs, and GELU, which ggml looks up in a table of F16.
EXACT, GELU = 1e-5, 1e-3


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runnable(tmp_path_factory.mktemp("verifier") / "v.gguf")


def _agreement(source: Path, drafter: Path, verifier: Path) -> DraftAgreement:
    """Of what is drafted alone, whatever the file's keys and tensors."""
    reference, _ = open_drafter(open_source(source), read_verifier(verifier))
    return compare_drafts(reference, drafter, verifier, token_ids(GGUFHeader(drafter)))


# ---- right files ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_libllama_drafts_what_every_layouts_checkpoint_says(name: str, tmp_path: Path) -> None:
    checkpoint = SAMPLES[name]
    verifier = write_runnable(tmp_path / "v.gguf", checkpoint.target)
    source = write_checkpoint(tmp_path / "c", checkpoint)
    drafter = convert(source, verifier, tmp_path / "d.gguf", outtype="f32").output
    found = compare_with_source(source, drafter, verifier)
    assert found.problems == ()
    assert found.drafts is not None
    assert found.drafts.error < (GELU if "gelu" in name or "gemma" in name else EXACT)
    assert found.drafts.n_same == found.drafts.n_rows > 20
    confidence = found.drafts.confidence_error
    assert confidence is None or confidence < (GELU if "gemma" in name else EXACT)


@pytest.mark.parametrize("outtype", OUT_TYPES)
def test_every_output_type_is_within_its_tolerance(
    outtype: str, tiny_verifier: Path, tmp_path: Path
) -> None:
    drafter = convert(TINY, tiny_verifier, tmp_path / "d.gguf", outtype=outtype).output
    found = compare_with_source(TINY, drafter, tiny_verifier)
    assert found.problems == ()
    assert found.drafts is not None
    assert found.drafts.error < TOLERANCES.get(outtype.upper(), TOLERANCE) / 2
    assert f"{found.drafts.n_same} of {found.drafts.n_rows}" in found.sentence


def _reduced(verifier: Path, folder: Path) -> Path:
    counts = folder / "counts.json"
    counts.write_text(json.dumps({str(token): 1000 - token for token in range(384)}))
    options: dict[str, Any] = {"draft_vocab": 200, "frequencies": counts, "outtype": "q8_0"}
    return convert(TINY, verifier, folder / "d.gguf", **options).output


def test_a_reduced_draft_vocabulary_is_still_the_checkpoints(
    tiny_verifier: Path, tmp_path: Path
) -> None:
    drafter = _reduced(tiny_verifier, tmp_path)
    found = compare_with_source(TINY, drafter, tiny_verifier)
    assert found.problems == ()
    assert found.drafts is not None


def test_a_mixture_of_masks_is_checked_as_the_user_had_it_written(
    verifier: Path, tmp_path: Path
) -> None:
    layers = {"use_sliding_window": True, "sliding_window": 32, "layer_types": [SLIDING, FULL]}
    source = write_checkpoint(tmp_path / "c", _a(**layers))
    for attention in ("causal", "bidirectional"):
        file = tmp_path / f"{attention}.gguf"
        convert(source, verifier, file, outtype="f32", attention=attention)
        assert compare_with_source(source, file, verifier).fits


# ---- wrong files ---------------------------------------------------------------------------


def _tiny(folder: Path, **changes: Any) -> Path:
    """The tiny checkpoint with another config."""
    folder.mkdir()
    config = json.loads((TINY / "config.json").read_text())
    nested = {**config["dflash_config"], **changes.pop("dflash_config", {})}
    text = json.dumps({**config, **changes, "dflash_config": nested})
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes())
    return folder


#: What a wrong file was made with, and the key that tells.
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "causal": ({"is_causal": True}, "attention.causal: found True, the checkpoint says False"),
    "rope": ({"rope_theta": 5e5}, "rope.freq_base: found 500000.0, the checkpoint says 10000.0"),
    "scaled": ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope.scaling.factor"),
    "layers": (
        {"dflash_config": {"target_layer_ids": [-1, 0, 1]}},
        "target_layers: found [0, 1, 2]",
    ),
    "mask": ({"dflash_config": {"mask_token_id": 7}}, "mask_token_id: found 7"),
    "gelu": ({"hidden_act": "gelu_pytorch_tanh"}, "hidden_activation: found gelu_pytorch_tanh"),
    "epsilon": ({"rms_norm_eps": 0.5}, "layer_norm_rms_epsilon: found 0.5"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_is_told_by_its_key(name: str, tiny_verifier: Path, tmp_path: Path) -> None:
    settings, expected = SETTINGS[name]
    wrong = _tiny(tmp_path / "wrong", **settings)
    drafter = convert(wrong, tiny_verifier, tmp_path / "d.gguf").output
    found = compare_with_source(TINY, drafter, tiny_verifier)
    assert not found.fits
    assert expected in "\n".join(found.problems)
    assert expected in found.sentence


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("outtype", ["f32", "bf16"])
def test_a_wrong_setting_shows_in_the_drafts_too(
    name: str, outtype: str, tiny_verifier: Path, tmp_path: Path
) -> None:
    wrong = _tiny(tmp_path / "wrong", **SETTINGS[name][0])
    drafter = convert(wrong, tiny_verifier, tmp_path / "d.gguf", outtype=outtype).output
    error = _agreement(TINY, drafter, tiny_verifier).error
    assert error > 1.2 * TOLERANCES[outtype.upper()]
    right = convert(TINY, tiny_verifier, tmp_path / "r.gguf", outtype=outtype).output
    assert _agreement(TINY, right, tiny_verifier).error < TOLERANCES[outtype.upper()] / 2


@pytest.mark.parametrize("name", ["b-dflash2", "c-reduced", "e-dspark", "f-gemma4", "j-mimo"])
def test_a_wrong_mask_shows_in_the_drafts_of_every_kind(name: str, tmp_path: Path) -> None:
    right = SAMPLES[name]
    wrong = replace(right, config={**right.config, "is_causal": True})
    verifier = write_runnable(tmp_path / "v.gguf", right.target)
    source = write_checkpoint(tmp_path / "right", right)
    other = write_checkpoint(tmp_path / "wrong", wrong)
    drafter = convert(other, verifier, tmp_path / "d.gguf", outtype="f32").output
    assert "attention.causal: found True" in compare_with_source(source, drafter, verifier).sentence
    assert _agreement(source, drafter, verifier).error > 1.2 * TOLERANCES["F32"]


def _damaged(name: str) -> Checkpoint:
    """Layout A's checkpoint with weights that are not its own."""
    right = SAMPLES["a-zlab"]
    tables = {key: rounded(values(key, shape), "BF16") for key, shape in right.shapes.items()}
    first, second = (f"layers.{i}.mlp.up_proj.weight" for i in range(N_LAYER))
    changed = {
        "permuted": {first: tables[first][::-1].copy()},
        "swapped": {first: tables[second], second: tables[first]},
        "norm": {"norm.weight": rounded(tables["norm.weight"] + 1, "BF16")},
        "transposed": {
            "layers.0.self_attn.q_proj.weight": tables["layers.0.self_attn.q_proj.weight"].T
        },
    }
    return replace(right, shapes={}, tables={**tables, **changed[name]})


DAMAGED = {
    "permuted": ["blk.0.ffn_up.weight"],
    "swapped": ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight"],
    "norm": ["output_norm.weight"],
    "transposed": ["blk.0.attn_q.weight"],
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("outtype", ["f32", "q4_0"])
def test_a_wrong_tensor_is_told_by_its_name(
    name: str, outtype: str, verifier: Path, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "right", SAMPLES["a-zlab"])
    wrong = write_checkpoint(tmp_path / "wrong", _damaged(name))
    drafter = convert(wrong, verifier, tmp_path / "d.gguf", outtype=outtype).output
    found = compare_with_source(source, drafter, verifier)
    assert [problem.split(":")[0] for problem in found.problems] == [
        f"tensor {tensor}" for tensor in DAMAGED[name]
    ]
    if name != "norm":  # libllama's answer to it is what the numbers say
        assert _agreement(source, drafter, verifier).error > 0.1


def test_a_scaling_that_was_lost_is_told(verifier: Path, tmp_path: Path) -> None:
    """Upstream's converter writes nothing for llama3; so do drafts of 256 tokens hardly show it."""
    source = write_checkpoint(tmp_path / "right", _a(rope_scaling=LLAMA3))
    plain = write_checkpoint(tmp_path / "plain", _a())
    drafter = convert(plain, verifier, tmp_path / "d.gguf").output
    assert compare_with_source(source, drafter, verifier).problems == (
        "tensor rope_freqs.weight: missing, the checkpoint has it",
    )
    scaled = convert(source, verifier, tmp_path / "s.gguf").output
    assert compare_with_source(plain, scaled, verifier).problems == (
        "tensor rope_freqs.weight: the checkpoint has no such tensor",
    )


def test_a_head_that_was_lost_is_told(verifier: Path, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "right", SAMPLES["a-own-vocabulary"])
    config = {**SAMPLES["a-own-vocabulary"].config, "tie_word_embeddings": True}
    embedding = {k: v for k, v in vocabulary().items() if k.startswith("embed")}
    shapes = {**SAMPLES["a-zlab"].shapes, **embedding}
    wrong = write_checkpoint(tmp_path / "wrong", Checkpoint(config, shapes))
    drafter = convert(wrong, verifier, tmp_path / "d.gguf").output
    assert compare_with_source(source, drafter, verifier).problems == (
        "tensor output.weight: missing, the checkpoint has it",
    )
    assert _agreement(source, drafter, verifier).error > 0.5


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda ids: ids[::-1].copy(), "tensor output.weight: differs"),
        (lambda ids: np.where(ids == ids[0], 383, ids), "tensor output.weight: differs"),
    ],
)
def test_a_wrong_map_of_a_reduced_vocabulary_is_told(
    edit: Callable[[Any], Any], expected: str, tiny_verifier: Path, tmp_path: Path
) -> None:
    drafter = _reduced(tiny_verifier, tmp_path)
    _edit_ids(drafter, edit)
    (problem,) = compare_with_source(TINY, drafter, tiny_verifier).problems
    assert expected in problem


def test_a_token_that_the_checkpoint_does_not_propose_is_told(
    verifier: Path, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "c", SAMPLES["c-reduced"])
    drafter = convert(source, verifier, tmp_path / "d.gguf").output
    known = set(GGUFHeader(drafter).i64("d2t").tolist())
    other = next(token for token in range(96) if token not in known)
    _edit_ids(drafter, lambda ids: np.where(ids == ids[3], other, ids))
    problems = compare_with_source(source, drafter, verifier).problems
    assert f"tensor d2t: token {other} is none that the checkpoint proposes" in problems


def _edit_ids(drafter: Path, edit: Callable[[Any], Any]) -> None:
    header = GGUFHeader(drafter)
    ids, offset = np.array(header.i64("d2t")), header.tensors["d2t"].offset
    data = bytearray(drafter.read_bytes())
    data[offset : offset + ids.nbytes] = edit(ids).astype("<i8").tobytes()
    drafter.write_bytes(data)


def test_the_anchors_row_is_told_from_the_first_masks(verifier: Path, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "c", SAMPLES["e-dspark"])
    wrong = write_checkpoint(tmp_path / "w", SAMPLES["e-anchor"])
    drafter = convert(wrong, verifier, tmp_path / "d.gguf", outtype="f32").output
    problems = compare_with_source(source, drafter, verifier).problems
    assert any("sample_from_anchor: found True" in problem for problem in problems)


# ---- what cannot be compared ---------------------------------------------------------------


def test_a_checkpoint_of_another_verifier_is_refused(verifier: Path) -> None:
    with pytest.raises(ModelError, match="vocabulary: the drafter has 384 tokens"):
        compare_with_source(TINY, MODELS / "dflash-b8.gguf", verifier)


def test_a_markov_head_on_scaled_logits_is_not_known(verifier: Path, tmp_path: Path) -> None:
    right = SAMPLES["g-lfm2"]
    scaled = replace(right, config={**right.config, "final_logit_softcapping": 30.0})
    source = write_checkpoint(tmp_path / "c", scaled)
    drafter = convert(source, verifier, tmp_path / "d.gguf").output
    with pytest.raises(CannotCheck, match="Markov head's bias"):
        compare_with_source(source, drafter, verifier)


def test_weights_that_only_libllama_reads_say_nothing_about_the_file(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    kind = gguf.GGMLQuantizationType.Q8_K
    data = np.zeros((2, 292), np.uint8)
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CannotCheck, match=r"token_embd.weight is stored as Q8_K, which only"):
        with_borrowed({}, [path])


def test_a_head_in_a_part_that_is_not_at_hand_says_nothing_about_the_file(
    tiny_verifier: Path,
) -> None:
    part = MODELS / "dflash-b8.gguf"  # any file without an embedding
    with pytest.raises(CannotCheck, match=r"token_embd.weight is missing"):
        with_borrowed({}, [part])
    whole = with_borrowed({}, [part, tiny_verifier])
    assert whole["output.weight"].shape == (384, 64)


def test_rows_of_a_weight_are_those_of_the_whole(tiny_verifier: Path) -> None:
    weight = gguf_weight(GGUFHeader(tiny_verifier), "token_embd.weight")
    ids = [5, 380, 5, 0]
    assert np.array_equal(weight.rows(ids), weight.read()[ids])
    assert np.array_equal(weight.picked(ids).read(), weight.read()[ids])
    assert np.array_equal(weight.picked(ids).rows([1, 0]), weight.read()[[380, 5]])
