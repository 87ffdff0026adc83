"""A drafter with a smaller vocabulary: the right rows are kept, and it drafts here and upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import convert_samples as samples
import gguf
import llama_cpp
import numpy as np
import pytest
import upstream
from dflash_local.convert import convert
from dflash_local.convert.converter import ConvertReport
from dflash_local.convert.draft_vocab import reduce_vocabulary, vocabulary_choice
from dflash_local.convert.drafter import DrafterConfig, Selector
from dflash_local.convert.encode import out_type
from dflash_local.convert.layouts import detect
from dflash_local.convert.source import open_source
from dflash_local.convert.verifier import read_verifier
from dflash_local.convert.writer import OutputTensor, write_gguf
from exactness import END, ONE_THREAD, assert_mixed, counts, greedy, session_on, tiny_prompts
from test_upstream_parity import _answer, _compare, _kind

import dflash_local
from dflash_local import hub
from dflash_local.errors import DFlashError
from dflash_local.gguf_header import GGUFHeader

MakeLlama = Callable[..., Any]
MODELS = Path(__file__).parent / "models"
CHECKPOINT = MODELS / "dflash-b8"
N_KEPT, N_TOKENS = 112, 48


# ---- a drafter with 112 of the tiny verifier's 384 tokens ----------------------------------


@pytest.fixture(scope="module")
def stock(make_module_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    return make_module_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)


@pytest.fixture(scope="module")
def said(stock: llama_cpp.Llama) -> Counter[int]:
    """The tokens of greedy answers."""
    answers = [greedy(stock, prompt, N_TOKENS) for prompt in tiny_prompts(stock, 24, seed=11)]
    return Counter(token for answer in answers for token in answer)


@pytest.fixture(scope="module")
def frequencies(said: Counter[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counts") / "counts.txt"
    path.write_text("".join(f"{token} {count}\n" for token, count in said.items()))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_verifier: Path) -> Path:
    """The tiny drafter with the verifier's vocabulary, in F32."""
    output = tmp_path_factory.mktemp("whole") / "whole.gguf"
    return convert(CHECKPOINT, tiny_verifier, output, outtype="f32").output


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory, tiny_verifier: Path, frequencies: Path
) -> ConvertReport:
    """The tiny drafter with N_KEPT tokens, in F32."""
    output = tmp_path_factory.mktemp("reduced") / "reduced.gguf"
    return convert(
        CHECKPOINT,
        tiny_verifier,
        output,
        outtype="f32",
        draft_vocab=N_KEPT,
        frequencies=frequencies,
    )


def kept_ids(path: Path) -> list[int]:
    return [int(token) for token in GGUFHeader(path).i64("d2t")]


def rows(path: Path, name: str) -> np.ndarray:
    tensor = samples.read(path)[1][name]
    values: np.ndarray = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return values


def test_the_most_frequent_tokens_and_every_end_are_kept(
    report: ConvertReport, said: Counter[int]
) -> None:
    kept = kept_ids(report.output)
    assert kept == sorted(set(kept))
    assert len(kept) == N_KEPT
    assert set(END) <= set(kept)
    ranked = sorted(range(384), key=lambda token: (token not in END, -said[token], token))
    assert kept == sorted(ranked[:N_KEPT])
    assert report.coverage == pytest.approx(sum(said[token] for token in kept) / sum(said.values()))


def test_the_head_is_the_verifiers_rows_to_the_bit(
    report: ConvertReport, tiny_verifier: Path
) -> None:
    head = samples.read(report.output)[1]["output.weight"]
    assert head.tensor_type.name == "F32"
    whole = samples.read(tiny_verifier)[1]["token_embd.weight"].data
    assert np.array_equal(head.data, whole[kept_ids(report.output)])


def test_all_else_is_as_in_the_whole_drafter(report: ConvertReport, whole: Path) -> None:
    keys, tensors = samples.read(report.output)
    whole_keys, whole_tensors = samples.read(whole)
    assert set(tensors) - set(whole_tensors) == {"output.weight", "d2t"}
    for name, tensor in whole_tensors.items():
        assert np.array_equal(tensor.data, tensors[name].data), name
    differing = {name for name in keys if keys[name] != whole_keys.get(name)}
    assert all(name.startswith("general.") for name in differing)


def test_greedy_tokens_equal_plain_decoding(
    report: ConvertReport, make_llama: MakeLlama, tiny_verifier: Path, stock: llama_cpp.Llama
) -> None:
    llm = make_llama(dflash_local.Llama, tiny_verifier, drafter=report.output, **ONE_THREAD)
    before = counts(llm)
    for prompt in tiny_prompts(stock, 16, seed=12):
        assert greedy(llm, prompt, N_TOKENS) == greedy(stock, prompt, N_TOKENS)
    assert_mixed(before, counts(llm))


def draft_logits(llm: llama_cpp.Llama, drafter: Path, prompts: list[list[int]]) -> np.ndarray:
    """The logits of the first draft after each prompt, [rows, n_vocab]."""
    blocks = []
    with session_on(llm, drafter) as session:
        for prompt in prompts:
            session.sync(prompt)
            session.step()
            drafts = session.propose().tokens
            blocks += [session.draft_logits(row) for row in range(len(drafts))]
            session.discard()
    return np.array(blocks)


def test_logits_of_kept_tokens_are_those_of_the_whole_drafter(
    report: ConvertReport, whole: Path, stock: llama_cpp.Llama
) -> None:
    prompts = tiny_prompts(stock, 8, seed=13)
    kept = kept_ids(report.output)
    full = draft_logits(stock, whole, prompts)
    reduced = draft_logits(stock, report.output, prompts)
    assert len(full) == 56
    assert np.abs(full[:, kept] - reduced[:, kept]).max() <= 1e-5 * np.abs(full).max()
    assert np.all(np.delete(reduced, kept, axis=1) == -np.inf)


# ---- in upstream's loop --------------------------------------------------------------------


def reduced_file(
    drafter: Path, verifier: Path, frequencies: Path, n_kept: int, output: Path
) -> Path:
    """One of the tiny GGUF drafters with `n_kept` tokens, its head in F16 at most."""
    header, stored = GGUFHeader(drafter), samples.read(drafter)[1]
    tensors = [
        OutputTensor(name, info.shape[::-1], stored[name].tensor_type, pieces(stored[name].data))
        for name, info in header.tensors.items()
    ]
    choice = vocabulary_choice(n_kept, frequencies, None)
    assert choice is not None
    config = tiny_config(header.get("dflash.selector_top_k"))
    reduced = reduce_vocabulary(
        choice, config, tensors, read_verifier(verifier), out_type("f16")
    ).tensors
    keys = {key: header.raw(key) for key in header if key != "general.architecture"}
    write_gguf(output, [], keys, reduced)
    return output


def pieces(data: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """A tensor as it is stored, in two pieces."""
    raw = data if data.dtype in (np.float32, np.int64) else data.view(np.uint8)
    return lambda: [piece for piece in (raw[:1], raw[1:]) if len(piece)]


def tiny_config(top_k: int | None = None) -> DrafterConfig:
    source = open_source(CHECKPOINT)
    config = detect(source).parse_config(source)
    return config if top_k is None else replace(config, selector=Selector(3, 16, 12, top_k))


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is missing")
@pytest.mark.parametrize("name", ["dflash-b8", "dflash2-b8", "dspark-b8", "dspark-b7-anchor"])
def test_every_kind_drafts_as_in_upstreams_loop(
    name: str,
    tmp_path: Path,
    tiny_drafters: dict[str, Path],
    tiny_verifier: Path,
    frequencies: Path,
    make_llama: MakeLlama,
    stock: llama_cpp.Llama,
) -> None:
    output = tmp_path / f"{name}.gguf"
    drafter = reduced_file(tiny_drafters[name], tiny_verifier, frequencies, N_KEPT, output)
    llm = make_llama(dflash_local.Llama, tiny_verifier, drafter=drafter, width=5, **ONE_THREAD)
    prompts = tiny_prompts(llm, 12, seed=14)
    request = upstream.Request(
        str(tiny_verifier), str(drafter), _kind(drafter), llm.width, prompts, N_TOKENS
    )
    ours = [_answer(llm, llm.session, prompt, N_TOKENS) for prompt in prompts]
    _compare(ours, upstream.answers(request), least_equal=0.9)
    for prompt in prompts[:4]:
        assert greedy(llm, prompt, N_TOKENS) == greedy(stock, prompt, N_TOKENS)


def test_a_smaller_vocabulary_is_made_smaller_still(
    tmp_path: Path,
    tiny_drafters: dict[str, Path],
    tiny_verifier: Path,
    said: Counter[int],
    frequencies: Path,
) -> None:
    before = tiny_drafters["dflash-b8-d2t"]
    after = reduced_file(before, tiny_verifier, frequencies, 60, tmp_path / "d.gguf")
    proposed, kept = kept_ids(before), kept_ids(after)
    assert len(kept) == 60
    ranked = sorted(proposed, key=lambda token: (token not in END, -said[token], token))
    assert kept == sorted(ranked[:60])
    places = [proposed.index(token) for token in kept]
    assert np.array_equal(rows(after, "output.weight"), rows(before, "output.weight")[places])
    with pytest.raises(DFlashError, match=r"found 113 tokens, expected from .* to the 112 that"):
        reduced_file(before, tiny_verifier, frequencies, 113, tmp_path / "e.gguf")


def test_only_what_has_a_row_for_each_draft_token_shrinks(
    tmp_path: Path, tiny_drafters: dict[str, Path], tiny_verifier: Path, frequencies: Path
) -> None:
    before = tiny_drafters["dspark-b8"]
    after = reduced_file(before, tiny_verifier, frequencies, N_KEPT, tmp_path / "d.gguf")
    kept = kept_ids(after)
    assert np.array_equal(rows(after, "markov_w2.weight"), rows(before, "markov_w2.weight")[kept])
    assert np.array_equal(rows(after, "markov_w1.weight"), rows(before, "markov_w1.weight"))


def test_a_selector_needs_its_number_of_candidates(
    tmp_path: Path, tiny_drafters: dict[str, Path], tiny_verifier: Path, frequencies: Path
) -> None:
    drafter = tiny_drafters["dflash2-b8"]
    with pytest.raises(DFlashError, match="found 3 tokens, expected from 4"):
        reduced_file(drafter, tiny_verifier, frequencies, 3, tmp_path / "d.gguf")


# ---- where the head comes from -------------------------------------------------------------

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
    hub.requantize(tiny_verifier, path, llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0)
    return path


@pytest.mark.parametrize(
    ("outtype", "head"), [("bf16", "Q8_0"), ("q8_0", "Q8_0"), ("q4_0", "Q4_0")]
)
def test_the_verifiers_rows_are_stored_in_the_smaller_of_two_types(
    tmp_path: Path, tiny_verifier: Path, frequencies: Path, outtype: str, head: str
) -> None:
    verifier = quantized(tmp_path, tiny_verifier)
    out = convert(
        CHECKPOINT,
        verifier,
        tmp_path / "d.gguf",
        outtype=outtype,
        draft_vocab=N_KEPT,
        frequencies=frequencies,
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
    with pytest.raises(DFlashError, match=r"output.weight|could not load"):
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
