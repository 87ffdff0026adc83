"""Features by the callback tap are the inputs of layers, whatever the architecture."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import tiny_architectures
import tiny_to_gguf
import torch
from conftest import MakeLlama
from exactness import assert_mixed, counts, greedy, random_prompts, tiny_prompts
from random_experts import write_experts
from random_hybrid import write_lfm2

from dflash_local import BackendError, Llama, ModelError
from dflash_local._api import _core
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.requantize import requantize
from dflash_local.files.taps import TAPS, Tap
from dflash_local.machine import ggml
from dflash_local.runtime import observing, seam
from dflash_local.runtime.drafter import address
from dflash_local.train.capture import Capturer, context_params, load_model
from dflash_local.train.verifiers.verifier_file import INTERLEAVED

MODELS = Path(__file__).parents[1] / "models"
TEXT = [(7 * i + i * i) % 380 + 4 for i in range(40)]


@contextmanager
def tapped(
    path: Path, layers: list[int], node: str | None, *, sequence: int = 0, **params: Any
) -> Iterator[Any]:
    """A verifier with F32 K/V whose features come from nodes of that name; None: natively."""
    with ExitStack() as stack:
        model = load_model(path, 0)
        stack.callback(llama_cpp.llama_model_free, model)
        options = context_params(1)
        options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
        options.n_ctx = options.n_batch = 256
        for name, value in params.items():
            setattr(options, name, value)
        watch = observing.node_watch()
        observing.observe(options, watch)
        context = llama_cpp.llama_init_from_model(model, options)
        stack.callback(llama_cpp.llama_free, context)
        yield _core.Verifier(
            address(context),
            max_rows=options.n_batch,
            feature_layers=layers,
            sequence=sequence,
            watch=None if node is None else watch,
            node=node or "",
        )


@pytest.fixture(scope="module", params=sorted(tiny_architectures.TINY))
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Any]:
    """An architecture, its GGUF, and transformers' model."""
    architecture = request.param
    model = tiny_architectures.make(architecture)
    path = tmp_path_factory.mktemp("tiny") / f"{architecture}.gguf"
    return architecture, tiny_to_gguf.write(path, architecture, model), model


@pytest.mark.slow
def test_features_are_the_inputs_of_layers_in_transformers(tiny: tuple[str, Path, Any]) -> None:
    architecture, path, model = tiny
    tap = TAPS[architecture]
    layers = list(tap.layers(tiny_architectures.N_LAYER))
    assert layers[-3:] == [1, 2, 3]
    with torch.no_grad():
        found = model(torch.tensor([TEXT]), output_hidden_states=True)
    # Micro-batches of 7: the rows of a decode come in six parts.
    with tapped(path, layers, tap.node, n_ubatch=7) as verifier:
        features, ids, _ = _core.read(verifier, np.array(TEXT, np.int32), 1)
    for i, layer in enumerate(layers):
        ours = features[:, i * 64 : (i + 1) * 64]
        theirs = found.hidden_states[layer][0].numpy()
        assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max(), f"layer {layer}"
    assert np.array_equal(ids[:, 0], found.logits[0].argmax(-1).numpy())


def test_training_knows_whose_rows_of_q_and_k_rotate_neighbours(
    tiny: tuple[str, Path, Any],
) -> None:
    architecture, path, _ = tiny
    model = load_model(path, 0)
    kind = llama_cpp.llama_model_rope_type(model)
    llama_cpp.llama_model_free(model)
    assert (kind == llama_cpp.LLAMA_ROPE_TYPE_NORM) == (architecture in INTERLEAVED)


# ---- beside the native tap -----------------------------------------------------------------

PAIRS: dict[str, dict[str, Any]] = {
    "one batch": {},
    "micro-batches": {"n_ubatch": 7},
    "single rows": {"n_ubatch": 1},
    "flash attention": {"n_ubatch": 16, "flash_attn_type": 1},
    "a sequence of several": {"n_ubatch": 7, "n_seq_max": 3, "kv_unified": False},
    "a sequence of several in one memory": {"n_ubatch": 7, "n_seq_max": 3, "kv_unified": True},
}


@pytest.mark.parametrize("params", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("kind", ["llama", "experts", "hybrid"])
def test_both_taps_agree_bit_for_bit(
    kind: str, params: dict[str, Any], tiny_verifier: Path, tmp_path: Path
) -> None:
    """The last sequence is read: the others are there to be sorted with it."""
    makers = {"experts": write_experts, "hybrid": write_lfm2}
    path = tmp_path / "verifier.gguf" if kind in makers else tiny_verifier
    if kind in makers:
        makers[kind](path, GGUFHeader(tiny_verifier))
    if kind == "hybrid" and params.get("n_ubatch", 0) != 1:  # n_ubatch holds them and two tokens
        params = {**params, "n_rs_seq": 4}
    layers, sequence = [3, 1, 2], params.get("n_seq_max", 1) - 1
    found = []
    for node in (None, "l_out"):
        with tapped(path, layers, node, sequence=sequence, **params) as verifier:
            found.append(_core.read(verifier, np.array(TEXT, np.int32), 1))
    for native, callback in zip(*found, strict=True):
        assert np.array_equal(native, callback)
    assert np.abs(found[0][0]).min(axis=1).max() > 0


# ---- sessions ------------------------------------------------------------------------------


@pytest.fixture
def drafter(tiny_drafters: dict[str, Path]) -> Path:
    return tiny_drafters["dflash-b8"]


def prompts(llm: Any) -> list[list[int]]:
    return random_prompts(llm, 3, seed=2)


@pytest.mark.slow
def test_greedy_answers_with_a_drafter_equal_plain_decoding(
    tiny: tuple[str, Path, Any], drafter: Path, make_llama: MakeLlama
) -> None:
    _, path, _ = tiny
    plain = make_llama(llama_cpp.Llama, path)
    drafted = make_llama(Llama, path, drafter=drafter, width=3)
    for prompt in prompts(plain):
        assert greedy(drafted, prompt, 24) == greedy(plain, prompt, 24)
    assert drafted.stats.total.n_drafted > 0
    assert not drafted.session.features_missing


@pytest.mark.parametrize("placement", ["both"], indirect=True)
def test_features_come_from_another_machine(
    drafter: Path, make_llama: MakeLlama, placement: dict[str, Any]
) -> None:
    assert placement
    path = MODELS / "verifier-nolayerinp.gguf"
    there = make_llama(Llama, path, drafter=drafter)
    with tapped(path, [1, 2, 3], "l_out") as verifier:
        here, _, _ = _core.read(verifier, np.array(TEXT, np.int32), 0)
    assert np.array_equal(seam.read_features(there, TEXT, [1, 2, 3]), here)
    assert greedy(there, TEXT, 24) == greedy(make_llama(llama_cpp.Llama, path), TEXT, 24)


def test_drafts_are_those_of_the_native_tap(
    drafter: Path, tiny_verifier: Path, make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same drafts are accepted, whatever is read again, dropped or read without a tap."""
    found = []
    for tap in (TAPS["llama"], Tap("l_out")):
        monkeypatch.setitem(TAPS, "llama", tap)
        llm = make_llama(Llama, tiny_verifier, drafter=drafter, n_ubatch=16)
        answers = [greedy(llm, prompt, 48) for prompt in tiny_prompts(llm, 4, seed=3)]
        llm.width = 0
        answers.append(greedy(llm, tiny_prompts(llm, 1, seed=4)[0], 16))
        llm.width = 7
        answers += [greedy(llm, prompt, 48) for prompt in tiny_prompts(llm, 2, seed=5)]
        found.append((answers, counts(llm)))
    assert found[0] == found[1]
    assert_mixed((0, 0), found[0][1])


@pytest.mark.parametrize("width", [None, 3])
def test_exact_widths_are_found_with_the_tap_on(
    width: int | None, drafter: Path, make_llama: MakeLlama, tmp_path: Path
) -> None:
    path = tmp_path / "gemma3-q4_0.gguf"
    requantize(MODELS / "verifier-nolayerinp.gguf", path, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)
    try:
        llm = make_llama(Llama, path, drafter=drafter, exact=True, width=width)
    except ModelError as error:
        pytest.skip(f"no width is exact on this processor: {error}")
    assert llm.exact_widths.widths
    plain = make_llama(llama_cpp.Llama, path, flash_attn=True)
    for prompt in prompts(plain):
        assert greedy(llm, prompt, 24) == greedy(plain, prompt, 24)


@pytest.mark.parametrize("layer", [0, 4])
def test_layers_that_no_output_leads_to_are_refused(layer: int) -> None:
    with (
        pytest.raises(ValueError, match=rf"feature layer {layer} is not .* 4: layers 1 to 3"),
        tapped(MODELS / "verifier-f32.gguf", [layer], "l_out"),
    ):
        pass


def test_a_watch_lives_as_long_as_a_verifier_that_reads_it(tiny_verifier: Path) -> None:
    with tapped(tiny_verifier, [1], "l_out") as verifier:
        gc.collect()  # nobody else holds the watch
        assert len(_core.read(verifier, np.array(TEXT, np.int32), 1)[0]) == len(TEXT)


def test_a_build_that_hides_a_function_of_ggml_is_told(
    drafter: Path, make_llama: MakeLlama, tiny_verifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(name: str, *_: Any) -> Any:
        raise AttributeError(f"this llama-cpp-python lacks {name}")

    monkeypatch.setattr(ggml, "function", hidden)
    for load in (
        lambda: make_llama(Llama, MODELS / "verifier-nolayerinp.gguf", drafter=drafter),
        lambda: Capturer(MODELS / "verifier-nolayerinp.gguf", [1], n_ctx=64, n_threads=1),
    ):
        with pytest.raises(BackendError, match=r"read from its graph, .* lacks ggml_get_name; use"):
            load()
    make_llama(Llama, tiny_verifier, drafter=drafter)


def test_training_reads_the_same_features() -> None:
    path = MODELS / "verifier-nolayerinp.gguf"
    kept = dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F16)
    with (
        Capturer(path, [3, 1], n_ctx=256, n_threads=1) as capturer,
        tapped(path, [3, 1], "l_out", n_ubatch=256, **kept) as verifier,
    ):
        found = capturer.read(TEXT, 2)
        features, ids, _ = _core.read(verifier, np.array(TEXT, np.int32), 2)
    assert found.features.shape == (len(TEXT), 2 * 64)
    assert np.array_equal(found.features, features)
    assert np.array_equal(found.ids, ids)
