"""`dflash-convert migrate`: drafters in the dialects of llama.cpp's forks become upstream's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dialect_samples as samples
import pytest
from conftest import MakeLlama, check_drafts
from dflash_local.convert import cli, compare, inspect, migrate
from gguf import GGMLQuantizationType, GGUFValueType

from dflash_local import DFlashError, Llama, ModelError
from dflash_local.files.gguf_header import GGUFHeader

ARRAY, I32, U32 = GGUFValueType.ARRAY, GGUFValueType.INT32, GGUFValueType.UINT32
F64, BOOL = GGUFValueType.FLOAT64, GGUFValueType.BOOL


@pytest.fixture
def good(tiny_drafters: dict[str, Path]) -> Path:
    return tiny_drafters["dflash-b8"]


@pytest.fixture
def old(good: Path, tmp_path: Path) -> Callable[..., Path]:
    """old(**changes): a `dflash-draft` file with changed keys."""
    return lambda **changes: samples.buun(good, tmp_path / "old.gguf", **changes)


def refused(old: Path, tmp_path: Path, **options: Any) -> str:
    """The error of a migration that must leave nothing behind."""
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ModelError) as caught:
        migrate(old, tmp_path / "new.gguf", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return str(caught.value)


def only_origin_differs(a: Path, b: Path, *more: str) -> None:
    found = compare(a, b)
    assert found.tensors == ()
    assert {key.name for key in found.keys} == {"dflash_local.migrated_from", *more}


# ---- dialects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dflash-b8", "dflash-b8-d2t", "dspark-b8", "dflash2-b8"])
def test_a_buun_file_becomes_the_file_upstream_would_have_written(
    name: str, tiny_drafters: dict[str, Path], tmp_path: Path
) -> None:
    old = samples.buun(tiny_drafters[name], tmp_path / "old.gguf")
    report = migrate(old, tmp_path / "new.gguf")
    assert report.architecture == "dflash-draft"
    only_origin_differs(tiny_drafters[name], report.output)
    assert inspect(report.output).problems == ()
    assert report.n_bytes == report.output.stat().st_size


def test_a_lucebox_file_gets_the_verifiers_tokenizer(
    good: Path, tiny_verifier: Path, tmp_path: Path
) -> None:
    old = samples.lucebox(good, tmp_path / "old.gguf")
    assert "no tokenizer: name the verifier's GGUF with --verifier" in refused(old, tmp_path)
    report = migrate(old, tmp_path / "new.gguf", tiny_verifier)
    only_origin_differs(good, report.output, "tokenizer.chat_template")
    ours, theirs = GGUFHeader(report.output), GGUFHeader(tiny_verifier)
    names = [key for key in theirs if key.startswith("tokenizer.")]
    assert len(names) > 5
    assert all(ours.raw(key) == theirs.raw(key) for key in names)


def test_an_early_file_gets_its_mask_token_moved(good: Path, tmp_path: Path) -> None:
    old = samples.early(good, tmp_path / "old.gguf")
    (problem,) = inspect(old).problems
    assert "dflash-convert migrate" in problem
    only_origin_differs(good, migrate(old, tmp_path / "new.gguf").output)


def test_a_migrated_file_drafts_like_the_original(
    good: Path, tiny_verifier: Path, tmp_path: Path, make_llama: MakeLlama
) -> None:
    old = samples.buun(good, tmp_path / "old.gguf")
    new = migrate(old, tmp_path / "new.gguf", tiny_verifier).output
    counts = []
    for drafter in (good, new):
        llm = make_llama(Llama, tiny_verifier, drafter=drafter)
        text = llm("the brown", max_tokens=40, temperature=0)["choices"][0]["text"]
        check_drafts(llm)
        counts.append((text, llm.stats.last.n_drafted, llm.stats.last.n_accepted))
    assert counts[0] == counts[1]


def test_numbers_of_other_types_get_upstreams(old: Callable[..., Path], tmp_path: Path) -> None:
    path = old(
        fork__rope__freq_base=(10000.0, [F64]),
        fork__block_count=(1, [GGUFValueType.UINT64]),
        fork__attention__sliding_window=(128, [U32]),
        fork__attention__sliding_window_pattern=([1], [ARRAY, I32]),
    )
    header = GGUFHeader(migrate(path, tmp_path / "new.gguf").output)
    types = {
        "dflash.rope.freq_base": GGUFValueType.FLOAT32,
        "dflash.block_count": U32,
        "dflash.attention.sliding_window": U32,
    }
    for key, kind in types.items():
        assert int.from_bytes(header.raw(key)[:4], "little") == kind, key
    pattern = header.raw("dflash.attention.sliding_window_pattern")
    assert [int.from_bytes(pattern[i : i + 4], "little") for i in (0, 4)] == [ARRAY, BOOL]


# ---- what a file leaves open ------------------------------------------------------------------


def test_published_layers_are_outputs_and_upstreams_are_inputs(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    path = old(fork__dflash__target_layer_ids=([0, 2, 1], [ARRAY, I32]))
    assert inspect(path).target_layers == (1, 3, 2)
    new = migrate(path, tmp_path / "new.gguf").output
    assert samples.values(new)["dflash.target_layers"] == [1, 3, 2]


def test_layers_that_contradict_each_other_are_refused(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    path = old(fork__target_layers=([0, 1, 2], [ARRAY, I32]))
    assert "contradict each other" in refused(path, tmp_path)


def test_an_early_files_layer_ids_are_a_question(good: Path, tmp_path: Path) -> None:
    ids = ([0, 1, 2], [ARRAY, I32])
    old = samples.early(
        good, tmp_path / "old.gguf", dflash__target_layer_ids=ids, dflash__target_layers=None
    )
    assert inspect(old).target_layers is None
    assert "inputs of layers to some and outputs to others" in refused(old, tmp_path)
    new = migrate(old, tmp_path / "new.gguf", target_layer_ids=[0, 1, 2]).output
    only_origin_differs(good, new)


def test_layers_named_against_the_file_are_refused(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    text = refused(old(), tmp_path, target_layer_ids=[1, 2, 3])
    assert "target layer ids [1, 2, 3]: the file says [0, 1, 2]" in text


def test_a_missing_mask_token_is_asked_for(
    good: Path, old: Callable[..., Path], tmp_path: Path
) -> None:
    path = old(fork__dflash__mask_token_id=None)
    assert "say `--mask-token`" in refused(path, tmp_path)
    assert "mask token 384: expected an id below 384" in refused(path, tmp_path, mask_token=384)
    only_origin_differs(good, migrate(path, tmp_path / "new.gguf", mask_token=3).output)
    assert "mask token 5: the file says 3" in refused(old(), tmp_path, mask_token=5)


def test_two_mask_tokens_are_a_contradiction(old: Callable[..., Path], tmp_path: Path) -> None:
    path = old(tokenizer__ggml__mask_token_id=(7, [U32]))
    assert "dflash-draft.dflash.mask_token_id" in refused(path, tmp_path)
    assert migrate(old(tokenizer__ggml__mask_token_id=(3, [U32])), tmp_path / "new.gguf")


def test_a_mask_token_said_twice_is_no_dialect(good: Path, tmp_path: Path) -> None:
    keys, tensors = samples.read(good)
    twice = {"dflash.mask_token_id": (3, [U32]), **keys}  # in front, so that it is read first
    path = samples.write(tmp_path / "twice.gguf", "dflash", twice, tensors)
    assert inspect(path).problems == ()


def test_sliding_layers_are_causal_in_the_forks_graph(
    old: Callable[..., Path], tmp_path: Path
) -> None:
    path = old(
        fork__attention__sliding_window=(128, [U32]),
        fork__attention__sliding_window_pattern=([True], [ARRAY, BOOL]),
    )
    assert samples.values(migrate(path, tmp_path / "a.gguf").output)["dflash.attention.causal"]
    chosen = migrate(path, tmp_path / "b.gguf", attention="bidirectional").output
    assert samples.values(chosen)["dflash.attention.causal"] is False


def test_a_window_of_no_layer_is_left_out(
    good: Path, old: Callable[..., Path], tmp_path: Path
) -> None:
    path = old(
        fork__attention__sliding_window=(128, [U32]),
        fork__attention__sliding_window_pattern=([False], [ARRAY, BOOL]),
    )
    only_origin_differs(good, migrate(path, tmp_path / "new.gguf").output)


def test_a_mixture_of_masks_is_the_users_choice(good: Path, tmp_path: Path) -> None:
    keys, tensors = samples.read(good)
    layer = {name: tensor for name, tensor in tensors.items() if name.startswith("blk.0.")}
    tensors |= samples.renamed(layer, lambda name: name.replace("blk.0.", "blk.1."))
    keys["dflash.block_count"] = (2, [U32])
    two = samples.write(tmp_path / "two.gguf", "dflash", keys, tensors)
    window = {
        "fork__attention__sliding_window": (128, [U32]),
        "fork__attention__sliding_window_pattern": ([True, False], [ARRAY, BOOL]),
    }
    old = samples.buun(two, tmp_path / "old.gguf", **window)
    assert "choose `--attention causal` or `--attention bidirectional`" in refused(old, tmp_path)
    for attention, causal in (("causal", True), ("bidirectional", False)):
        new = migrate(old, tmp_path / f"{attention}.gguf", attention=attention).output
        assert inspect(new).causal is causal
        assert inspect(new).sliding_layers == (0,)


def test_an_m_rope_verifier_adds_rope_sections(
    good: Path, tiny_verifier: Path, tmp_path: Path
) -> None:
    keys, tensors = samples.read(tiny_verifier)
    keys["llama.rope.dimension_sections"] = ([4, 2, 2, 0], [ARRAY, I32])
    verifier = samples.write(tmp_path / "v.gguf", "llama", keys, tensors)
    old = samples.buun(good, tmp_path / "old.gguf")
    assert "if the verifier uses M-RoPE" in migrate(old, tmp_path / "a.gguf").warnings[0]
    for path in (old, good):  # also where nothing else is missing
        report = migrate(path, tmp_path / "b.gguf", verifier)
        assert samples.values(report.output)["dflash.rope.dimension_sections"] == [8, 0, 0, 0]
        assert report.warnings == ()


# ---- refusals ---------------------------------------------------------------------------------


def test_what_upstream_has_no_name_for_is_refused_all_at_once(good: Path, tmp_path: Path) -> None:
    samples.buun(good, tmp_path / "first.gguf")
    keys, tensors = samples.read(tmp_path / "first.gguf")
    keys["dflash-draft.dflash.laguna"] = (True, [BOOL])
    keys["dflash-draft.dflash.dspark.enabled"] = (1, [U32])
    tensors["blk.0.attn_gate.weight"] = tensors["blk.0.attn_q.weight"]
    old = samples.write(tmp_path / "old.gguf", "dflash-draft", keys, tensors)
    text = refused(old, tmp_path)
    for part in ("Laguna", "dspark.enabled = 1", "tensor blk.0.attn_gate.weight", "3 problems"):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fork__dflash__backbone_rotary_base": (5e6, [F64])}, "context and block alike"),
        ({"fork__target_hidden_size": (128, [U32])}, "the drafter's own hidden size, 64"),
        ({"fork__attention__sliding_window": (128, [U32])}, "expected a flag for each"),
        ({"split__count": (2, [U32])}, "one part of a split file"),
        ({"fork__rope__freq_base": ("much", [GGUFValueType.STRING])}, "found 'much'"),
        ({"fork__dflash__block_size": None}, "dflash.block_size: found None"),
        ({"fork__dflash__target_layer_ids": ([0, 1], [ARRAY, I32])}, "tensor fc.weight: found"),
    ],
)
def test_what_libllama_would_draft_otherwise_is_refused(
    changes: dict[str, Any], message: str, old: Callable[..., Path], tmp_path: Path
) -> None:
    assert message in refused(old(**changes), tmp_path)


def test_an_embedding_without_a_head_needs_a_verifier_that_has_none(
    good: Path, tiny_verifier: Path, tmp_path: Path
) -> None:
    keys, tensors = samples.read(good)
    target = samples.read(tiny_verifier)[1]
    tensors["token_embd.weight"] = target["token_embd.weight"]
    samples.write(tmp_path / "first.gguf", "dflash", keys, tensors)
    old = samples.buun(tmp_path / "first.gguf", tmp_path / "old.gguf")
    assert "name the verifier with --verifier" in refused(old, tmp_path)
    tied = {name: data for name, data in target.items() if name != "output.weight"}
    untied = tied | {"output.weight": target["token_embd.weight"]}
    verifier_keys = samples.read(tiny_verifier)[0]
    for name, weights in (("tied", tied), ("untied", untied)):
        samples.write(tmp_path / f"{name}.gguf", "llama", verifier_keys, weights)
    assert "the verifier's head is another" in refused(
        old, tmp_path, verifier=tmp_path / "untied.gguf"
    )
    assert migrate(old, tmp_path / "new.gguf", tmp_path / "tied.gguf").n_tensors == 15


def test_types_that_only_a_fork_knows_are_refused(good: Path, tmp_path: Path) -> None:
    old = samples.buun(good, tmp_path / "old.gguf")
    data = bytearray(old.read_bytes())
    name = b"blk.0.ffn_down.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8  # behind the name: dimensions, then the type
    assert int.from_bytes(data[at : at + 4], "little") == GGMLQuantizationType.F16
    data[at : at + 4] = (144).to_bytes(4, "little")
    old.write_bytes(data)
    assert "tensor blk.0.ffn_down.weight: type 144 is a fork's own" in refused(old, tmp_path)


def test_another_models_verifier_is_refused(
    old: Callable[..., Path], tiny_verifier: Path, tmp_path: Path
) -> None:
    keys, tensors = samples.read(tiny_verifier)
    tokens = list(keys["tokenizer.ggml.tokens"][0])
    tokens[200] += "!"
    keys["tokenizer.ggml.tokens"] = (tokens, keys["tokenizer.ggml.tokens"][1])
    verifier = samples.write(tmp_path / "v.gguf", "llama", keys, tensors)
    assert "1 tokens differ, the first is token 200" in refused(old(), tmp_path, verifier=verifier)


def test_a_name_of_its_own_for_the_mask_is_no_difference(
    old: Callable[..., Path], tiny_verifier: Path, tmp_path: Path
) -> None:
    keys, _ = samples.read(old())
    tokens, types = keys["tokenizer.ggml.tokens"]
    renamed = [*tokens[:3], "<|MASK|>", *tokens[4:]]
    path = old(tokenizer__ggml__tokens=(renamed, types))
    new = migrate(path, tmp_path / "new.gguf", tiny_verifier).output
    assert inspect(new).mask_text == "<|mask|>"


def test_nothing_to_do_and_wrong_places_are_told(
    good: Path, old: Callable[..., Path], tiny_verifier: Path, tmp_path: Path
) -> None:
    path = old()
    with pytest.raises(DFlashError, match="nothing to migrate"):
        migrate(good, tmp_path / "new.gguf")
    with pytest.raises(DFlashError, match="choose another -o"):
        migrate(path, path)
    with pytest.raises(DFlashError, match="does not exist"):
        migrate(path, tmp_path / "none" / "new.gguf")
    with pytest.raises(ModelError, match="found architecture 'llama'"):
        migrate(tiny_verifier, tmp_path / "new.gguf")


# ---- the command ------------------------------------------------------------------------------


def test_the_command_says_what_it_changed(
    old: Callable[..., Path], tiny_verifier: Path, tmp_path: Path, capsys: Any
) -> None:
    new = tmp_path / "new.gguf"
    arguments = ["migrate", str(old()), "-o", str(new), "--verifier", str(tiny_verifier)]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "architecture 'dflash-draft' is 'dflash' now" in captured.out
    assert f"{new}: 14 tensors, 0.1 MB" in captured.out
    assert captured.err == ""
    assert cli.main(["check", str(new), "--verifier", str(tiny_verifier)]) == 0


def test_the_command_takes_what_a_file_leaves_open(good: Path, tmp_path: Path, capsys: Any) -> None:
    old = samples.buun(
        good, tmp_path / "o.gguf", fork__dflash__target_layer_ids=None, tokenizer__ggml__pre=None
    )
    new = str(tmp_path / "new.gguf")
    assert cli.main(["migrate", str(old), "-o", new]) == 1
    assert "error: " in capsys.readouterr().err
    assert cli.main(["migrate", str(old), "-o", new, "--target-layer-ids", "0,1,2"]) == 0
    with pytest.raises(SystemExit) as caught:
        cli.main(["migrate", str(old), "-o", new, "--target-layer-ids", "0,one"])
    assert caught.value.code == 2
    assert "found '0,one', expected numbers" in capsys.readouterr().err
