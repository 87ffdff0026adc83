"""Readings, and the store that keeps them; an interruption changes nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from layer_inputs import LayerInputs
from training import TARGET_LAYER_IDS, VERIFIER, answers, readings

from dflash_local import BackendError, ContextError, ModelError
from dflash_local.files.taps import TAPS
from dflash_local.train.answerer import Answerer, Question, Sampling
from dflash_local.train.capture import Capturer, Reading
from dflash_local.train.store import Store, to_bf16

LAYERS = [layer + 1 for layer in TARGET_LAYER_IDS]

# ---- readings ------------------------------------------------------------------------------


def test_readings_are_what_stock_libllama_computes(make_llama: Any) -> None:
    """Features bit for bit, at equal batch shapes; tokens and probabilities from its logits."""
    text = answers(1)[0].tokens
    llm = make_llama(llama_cpp.Llama, VERIFIER, logits_all=True, type_k=None, type_v=None)
    states = [state.numpy()[0] for state in LayerInputs(llm).states(list(text))]
    with Capturer(VERIFIER, LAYERS, n_ctx=512, n_threads=1) as capturer:
        reading = capturer.read(text, 4)
        again = capturer.read(text, 4)
    assert np.array_equal(reading.features, np.concatenate([states[i] for i in LAYERS], axis=1))
    logits = llm.scores[: len(text)].astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logits, axis=1, kind="stable")[:, :4]
    assert np.array_equal(reading.ids, order)
    expected = np.take_along_axis(log_probs, order, 1)
    assert np.allclose(reading.log_probs, expected, atol=1e-4)
    assert np.array_equal(reading.features, again.features), "a text leaves nothing behind"


def test_a_text_in_several_batches_reads_as_in_one() -> None:
    tokens = [int(t) for t in np.random.default_rng(3).integers(4, 380, 900)]
    with Capturer(VERIFIER, LAYERS, n_ctx=1024, n_threads=1) as capturer:
        long, head = capturer.read(tokens, 2), capturer.read(tokens[:512], 2)
    assert long.features.shape == (900, len(LAYERS) * 64)
    assert np.array_equal(long.features[:512], head.features)
    assert np.array_equal(long.ids[:512], head.ids)


def test_a_text_longer_than_the_context_is_refused() -> None:
    with Capturer(VERIFIER, LAYERS, n_ctx=64, n_threads=1) as capturer:
        n_ctx = 256  # libllama rounds up
        with pytest.raises(ContextError, match="do not fit a context of"):
            capturer.read([5] * (n_ctx + 1), 1)
        with pytest.raises(ValueError, match="not in the vocabulary"):
            capturer.read([5, 384], 1)


def test_a_verifier_without_a_tap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TAPS, "gemma3")
    with pytest.raises(ModelError, match="no drafter can read verifiers of architecture 'gemma3'"):
        Capturer(VERIFIER.parent / "verifier-nolayerinp.gguf", LAYERS, n_ctx=64, n_threads=1)


def test_a_closed_verifier_is_told() -> None:
    capturer = Capturer(VERIFIER, LAYERS, n_ctx=64, n_threads=1)
    answerer = Answerer(VERIFIER, n_slots=1, n_ctx=64, n_threads=1)
    for model in (capturer, answerer):
        model.close()
        model.close()
    with pytest.raises(BackendError, match="closed"):
        capturer.read([5], 1)
    with pytest.raises(BackendError, match="closed"):
        answerer.answer([Question([5], Sampling(), 4)])


def test_reading_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    readings(answers(2))
    assert capfd.readouterr() == ("", "")


def test_reading_lets_other_threads_run() -> None:
    ticks, stop = [0], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks[0] += 1

    tokens = [7] * 512
    with Capturer(VERIFIER, LAYERS, n_ctx=512, n_threads=1) as capturer:
        thread = threading.Thread(target=tick)
        thread.start()
        before = ticks[0]
        capturer.read(tokens, 1)
        during = ticks[0] - before
        stop.set()
        thread.join()
    assert during > 1000


# ---- the store -----------------------------------------------------------------------------


def _reading(n: int, seed: int) -> Reading:
    random = np.random.default_rng(seed)
    features = random.normal(0, 30, (n, 6)).astype(np.float32)
    ids = random.integers(0, 99, (n, 2)).astype(np.int32)
    return Reading(features, ids, random.normal(-1, 1, (n, 2)).astype(np.float32))


def _same(a: Reading, b: Reading) -> bool:
    rounded = (to_bf16(b.features).astype(np.uint32) << 16).view(np.float32)
    return (
        np.array_equal(a.features, rounded)
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.log_probs, b.log_probs)
    )


def test_what_is_kept_comes_back_in_another_process_too(tmp_path: Path) -> None:
    first, second = _reading(5, 1), _reading(3, 2)
    store = Store(tmp_path, 6, 2, 10**6)
    store.put("a", first)
    store.put("b", second)
    for again in (store, Store(tmp_path, 6, 2, 10**6)):
        assert len(again) == 2
        assert _same(again.get("a"), first)
        assert _same(again.get("b"), second)
        assert "c" not in again


@pytest.mark.parametrize("name", ["features", "ids", "log_probs", "index"])
def test_what_an_interruption_left_half_written_is_written_over(tmp_path: Path, name: str) -> None:
    first, second = _reading(5, 1), _reading(3, 2)
    Store(tmp_path, 6, 2, 10**6).put("a", first)
    file = tmp_path / ("index.jsonl" if name == "index" else f"{name}.bin")
    with file.open("ab") as torn:
        torn.write(b'["b", 5')
    store = Store(tmp_path, 6, 2, 10**6)
    assert "b" not in store
    store.put("b", second)
    again = Store(tmp_path, 6, 2, 10**6)
    assert _same(again.get("a"), first)
    assert _same(again.get("b"), second)


def test_the_store_knows_when_it_is_full(tmp_path: Path) -> None:
    store = Store(tmp_path, 6, 2, max_bytes=5 * (2 * 6 + 8 * 2))
    assert store.has_room(5)
    store.put("a", _reading(4, 1))
    assert store.has_room(1)
    assert not store.has_room(2)


def test_bf16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, 1e30], np.float32)
    torch = pytest.importorskip("torch")
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    assert to_bf16(values).tolist() == theirs.tolist()
