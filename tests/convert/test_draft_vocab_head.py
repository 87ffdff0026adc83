"""A drafter with a smaller vocabulary: where its head comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convert_samples as samples
import llama_cpp
import numpy as np
import pytest
from dflash_local.convert import convert
from test_draft_vocab import CHECKPOINT, kept_ids, rows

from dflash_local.errors import DFlashError
from dflash_local.files.requantize import requantize

COUNTS = "257 1\n97 9\n101 8\n256 7\n"  # end of text, "a" and "e" as bytes, "th"


def small(folder: Path, verifier: Path, n: int = 4, outtype: str = "f32", **heads: Any) -> Path:
    """Convert a random checkpoint of the samples, with n tokens kept."""
    weights = samples.tensors(1, **heads)
    config = samples.config(vocab_size=len(samples.vocabulary()))
    source = samples.checkpoint(folder / "drafter", config, weights)
    (folder / "counts").write_text(COUNTS)
    return convert(
        source,
        verifier,
        folder / "out.gguf",
        outtype=outtype,
        draft_vocab=n,
        frequencies=folder / "counts",
    ).output


@pytest.mark.parametrize("name", ["lm_head.weight", "embed_tokens.weight"])
def test_a_drafters_own_head_is_kept_and_so_is_its_embedding(tmp_path: Path, name: str) -> None:
    shape = (len(samples.vocabulary()), samples.N_EMBD)
    heads = {name.replace(".", "__"): shape}
    out = small(tmp_path, samples.verifier(tmp_path / "v.gguf"), **heads)
    published = samples.tensors(1, **heads)[name]
    assert kept_ids(out) == [97, 101, 256, 257]
    assert np.array_equal(rows(out, "output.weight"), published[[97, 101, 256, 257]])
    if name == "embed_tokens.weight":
        assert np.array_equal(rows(out, "token_embd.weight"), published)


def quantized(tmp_path: Path, tiny_verifier: Path) -> Path:
    path = tmp_path / "q8.gguf"
    requantize(tiny_verifier, path, llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0)
    return path


@pytest.mark.parametrize(
    ("outtype", "head"), [("bf16", "Q8_0"), ("q8_0", "Q8_0"), ("q4_0", "Q4_0")]
)
def test_the_verifiers_rows_are_stored_in_the_smaller_of_two_types(
    tmp_path: Path, tiny_verifier: Path, outtype: str, head: str
) -> None:
    verifier = quantized(tmp_path, tiny_verifier)
    (tmp_path / "counts").write_text(COUNTS)
    out = convert(
        CHECKPOINT,
        verifier,
        tmp_path / "d.gguf",
        outtype=outtype,
        draft_vocab=100,
        frequencies=tmp_path / "counts",
    ).output
    tensor = samples.read(out)[1]["output.weight"]
    assert tensor.tensor_type.name == head
    name = "token_embd.weight"
    if head == "Q8_0":
        expected = samples.read(verifier)[1][name].data[kept_ids(out)]
        assert np.array_equal(tensor.data, expected)
    else:
        expected = rows(verifier, name)[kept_ids(out)]
        assert np.abs(rows(out, "output.weight") - expected).max() <= np.abs(expected).max() / 8


def test_an_untied_verifiers_head_is_taken_from_any_part_of_a_split_file(tmp_path: Path) -> None:
    samples.verifier(tmp_path / "v.gguf", head=True, split=1)
    parts = sorted(tmp_path.glob("v-*.gguf"))
    assert len(parts) > 1
    out = small(tmp_path, parts[0])
    assert rows(out, "output.weight").shape == (4, samples.N_EMBD)
    parts[-1].unlink()
    with pytest.raises(DFlashError, match=f"found {len(parts) - 1} of its {len(parts)} parts"):
        small(tmp_path, parts[0])


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"draft_vocab": 8}, "neither of frequencies and corpus"),
        ({"draft_vocab": 8, "frequencies": "c", "corpus": "c"}, "both of frequencies and corpus"),
        ({"corpus": "c"}, "say how many tokens to keep"),
        ({"draft_vocab": 0, "frequencies": "c"}, "found 0 tokens, expected from 1 to the 260"),
        ({"draft_vocab": 261, "frequencies": "c"}, "found 261 tokens, expected from 1 to the 260"),
        ({"draft_vocab": 8, "frequencies": "missing"}, "cannot be read"),
    ],
)
def test_options_that_cannot_be_met_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c").write_text(COUNTS)
    source, verifier = samples.checkpoint(tmp_path / "s"), samples.verifier(tmp_path / "v.gguf")
    with pytest.raises(DFlashError, match=part):
        convert(source, verifier, "out.gguf", **options)
    assert samples.names(tmp_path) == ["c", "s", "v.gguf"]


def test_too_few_tokens_are_filled_up_in_order_of_id_with_a_warning(tmp_path: Path) -> None:
    source, verifier = samples.checkpoint(tmp_path / "s"), samples.verifier(tmp_path / "v.gguf")
    (tmp_path / "counts").write_text(COUNTS)
    report = convert(source, verifier, draft_vocab=7, frequencies=tmp_path / "counts")
    assert kept_ids(report.output) == [0, 1, 2, 97, 101, 256, 257]
    (warning,) = (text for text in report.warnings if "draft vocabulary" in text)
    assert "the 3 lowest ids" in warning
    assert report.coverage == 1.0
