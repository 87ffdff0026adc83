"""A drafter with a smaller vocabulary: the right rows are kept, and it drafts here and upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
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
from exactness import END, ONE_THREAD, assert_mixed, counts, greedy, session_on, tiny_prompts
from layout_files import write_checkpoint
from republished import publications
from upstream_counts import kind, our_answer, same_text

import dflash_local
from dflash_local.errors import DFlashError
from dflash_local.files.gguf_header import GGUFHeader

MakeLlama = Callable[..., Any]
MODELS = Path(__file__).parents[1] / "models"
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


# ---- every layout, and upstream's loop -----------------------------------------------------

#: With the verifier's head or their own, DFlash2, DSpark, a vocabulary that is reduced already.
LAYOUTS = ("a", "a-own-vocabulary", "b", "c-reduced", "e", "f-dspark", "f-dflash", "j")
PUBLISHED = publications()


def convert_layout(
    name: str, folder: Path, verifier: Path, n: int | None, frequencies: Path | None
) -> Path:
    source = folder / name
    if not source.exists():
        write_checkpoint(source, PUBLISHED[name].checkpoint)
    output = folder / f"{name}-{n}.gguf"
    options: dict[str, Any] = {"draft_vocab": n, "frequencies": frequencies}
    return convert(source, verifier, output, outtype="f32", **options).output


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_only_what_has_a_row_for_each_draft_token_shrinks(
    name: str, tmp_path: Path, tiny_verifier: Path, said: Counter[int], frequencies: Path
) -> None:
    whole = convert_layout(name, tmp_path, tiny_verifier, None, None)
    reduced = convert_layout(name, tmp_path, tiny_verifier, 60, frequencies)
    tensors = samples.read(whole)[1]
    proposed = kept_ids(whole) if "d2t" in tensors else list(range(384))
    kept = kept_ids(reduced)
    ranked = sorted(proposed, key=lambda token: (token not in END, -said[token], token))
    assert kept == sorted(ranked[:60])
    places = [proposed.index(token) for token in kept]
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    head_file = whole if head in tensors else tiny_verifier
    assert np.array_equal(rows(reduced, "output.weight"), rows(head_file, head)[places])
    for other in tensors.keys() - {"output.weight", "d2t"}:
        before, after = rows(whole, other), rows(reduced, other)
        assert np.array_equal(after, before[places] if other == "markov_w2.weight" else before)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is missing")
@pytest.mark.parametrize("name", LAYOUTS)
def test_as_many_drafts_are_accepted_as_in_upstreams_loop(
    name: str,
    tmp_path: Path,
    tiny_verifier: Path,
    frequencies: Path,
    make_llama: MakeLlama,
    stock: llama_cpp.Llama,
) -> None:
    drafter = convert_layout(name, tmp_path, tiny_verifier, 100, frequencies)
    llm = make_llama(dflash_local.Llama, tiny_verifier, drafter=drafter, width=5, **ONE_THREAD)
    prompts = tiny_prompts(llm, 6, seed=14)
    request = upstream.Request(
        str(tiny_verifier), str(drafter), kind(drafter), llm.width, prompts, N_TOKENS
    )
    ours = [our_answer(llm, llm.session, prompt, N_TOKENS) for prompt in prompts]
    for a, b in same_text(ours, upstream.answers(request), least_equal=0.9):
        assert a.answer == b
    for prompt in prompts[:2]:
        assert greedy(llm, prompt, N_TOKENS) == greedy(stock, prompt, N_TOKENS)


def test_a_reduced_vocabulary_cannot_grow(
    tmp_path: Path, tiny_verifier: Path, frequencies: Path
) -> None:
    with pytest.raises(DFlashError, match=r"found 113 tokens, expected from 1 to the 112 that"):
        convert_layout("c-reduced", tmp_path, tiny_verifier, 113, frequencies)


def test_a_selector_needs_its_number_of_candidates(
    tmp_path: Path, tiny_verifier: Path, frequencies: Path
) -> None:
    with pytest.raises(DFlashError, match="found 3 tokens, expected from 4"):
        convert_layout("b", tmp_path, tiny_verifier, 3, frequencies)
