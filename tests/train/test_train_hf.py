"""A Hugging Face model as the verifier: its readings and weights are those of libllama."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

import hf_verifiers  # noqa: E402
import training  # noqa: E402
from hf_verifiers import changed  # noqa: E402
from training import MASK, N_CTX, TARGET_LAYER_IDS  # noqa: E402
from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from dflash_local import DFlashError, ModelError  # noqa: E402
from dflash_local.train.conversations import Conversation  # noqa: E402
from dflash_local.train.examples import anchors_of, make_batch  # noqa: E402
from dflash_local.train.model import DrafterModel, Vocabulary, drafter_config  # noqa: E402
from dflash_local.train.verifiers.hf_verifier import HfVerifier  # noqa: E402
from dflash_local.train.verifiers.verifier import Verifier, Weights  # noqa: E402
from dflash_local.train.warm_start import calibrate, can_warm_start, warm_start  # noqa: E402

torch.set_num_threads(1)

# pytest finds fixtures by the names of a module.
folder = hf_verifiers.folder
verifier = hf_verifiers.verifier
gguf = hf_verifiers.gguf
texts = hf_verifiers.texts


LAYERS = [layer + 1 for layer in TARGET_LAYER_IDS]


def test_readings_are_those_of_the_same_weights_in_libllama(
    verifier: Verifier, texts: list[Any]
) -> None:
    """F32 on both sides but for libllama's K/V cache, which is F16: features agree to a
    thousandth of their largest, probabilities to 0.003."""
    expected, reader = training.readings(texts), verifier.reader(LAYERS, n_ctx=N_CTX)
    assert reader.n_features == len(LAYERS) * 64
    for text in texts:
        ours, theirs = reader.read(text.tokens, 4), expected[text]
        assert ours.features.shape == theirs.features.shape
        for ours_, theirs_ in zip(
            np.split(ours.features, len(LAYERS), axis=1),
            np.split(theirs.features, len(LAYERS), axis=1),
            strict=True,
        ):
            assert np.abs(ours_ - theirs_).max() < 1e-3 * np.abs(theirs_).max()
        assert (ours.ids == theirs.ids).mean() > 0.98
        assert np.allclose(np.exp(ours.log_probs), np.exp(theirs.log_probs), rtol=0, atol=0.003)


def test_a_closed_reader_is_told(verifier: Verifier) -> None:
    reader = verifier.reader(LAYERS, n_ctx=N_CTX)
    reader.close()
    with pytest.raises(DFlashError, match="closed"):
        reader.read([5], 1)


def started(weights: Weights, texts: list[Any]) -> DrafterModel:
    read = training.readings(texts)
    model = DrafterModel(drafter_config(training.fields(weights.sizes, n_layer=2)))
    warm_start(model, weights)
    embedding, head = torch.from_numpy(weights.embedding), torch.from_numpy(weights.head)
    anchors = [anchors_of(text, 0, None)[:6] for text in texts]
    batch = make_batch(texts, [read[text] for text in texts], anchors, 5)
    calibrate(model, Vocabulary(embedding, head, MASK), batch, weights)
    return model


def test_the_warm_start_is_that_of_the_same_weights_as_gguf(
    verifier: Verifier, gguf: Verifier, texts: list[Any]
) -> None:
    assert can_warm_start(verifier.weights, 2)
    assert can_warm_start(gguf.weights, 2)
    ours, theirs = (started(v.weights, texts[:3]).state_dict() for v in (verifier, gguf))
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_a_mask_token_is_one_that_no_text_holds(
    verifier: Verifier, texts: list[Any], folder: Path, tmp_path: Path
) -> None:
    every = [Conversation((1, 3, 5), 1)]
    with pytest.raises(ModelError, match=r"no special token left over: name one \(--mask-token"):
        verifier.weights.mask_token([*texts, *every])
    wider = HfVerifier(changed(folder, tmp_path / "wider", vocab_size=400))
    assert wider.weights.mask_token(every) == 384, "a row behind the vocabulary"


def test_sizes_and_mask_token_are_those_of_the_gguf(
    verifier: Verifier, gguf: Verifier, texts: list[Any]
) -> None:
    ours, theirs = vars(verifier.weights.sizes), vars(gguf.weights.sizes)
    assert ours == theirs | {"rms_eps": pytest.approx(theirs["rms_eps"])}
    assert verifier.weights.mask_token(texts) == gguf.weights.mask_token(texts) == MASK


def qwen3(folder: Path, target: Path, **changes: Any) -> Path:
    """A random Qwen3 with the tiny verifier's tokenizer and sizes."""
    torch.manual_seed(1)
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 384}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    model = Qwen3ForCausalLM(Qwen3Config(**{**sizes, **heads, **changes}))
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_norm.weight)
    shutil.copytree(folder, target)
    model.save_pretrained(target)
    return target


def test_norms_of_q_and_k_are_taken_over_where_the_verifier_has_them(
    folder: Path, texts: list[Any], tmp_path: Path
) -> None:
    weights = HfVerifier(qwen3(folder, tmp_path / "qwen3")).weights
    model = started(weights, texts[:1])
    for index, layer in enumerate(model.layers):
        own = weights.part(index, "attn_q_norm")
        assert own.std() > 0.1, "at ones a wrong name would not show"
        assert np.array_equal(layer.self_attn.q_norm.weight.detach().numpy(), own)
    assert not np.array_equal(weights.head, weights.embedding), "not tied in this one"


def test_layers_that_a_drafter_cannot_be_are_not_taken_over(folder: Path) -> None:
    model = HfVerifier(folder)
    config, last = model._files.config, model._files.model.model.layers[-1]
    config.quantization_config = {"quant_method": "fp8"}
    assert not can_warm_start(model.weights, 1)
    del config.quantization_config
    assert can_warm_start(model.weights, 4)
    last.self_attn.q_proj = torch.nn.Linear(64, 128, bias=False)  # with gates
    assert not can_warm_start(model.weights, 1)
    last.self_attn.q_proj = torch.nn.Linear(64, 64, bias=False)
    assert can_warm_start(model.weights, 1)
    model._files.model.model.layers[2].pre_feedforward_layernorm = torch.nn.LayerNorm(64)
    assert can_warm_start(model.weights, 1)
    assert not can_warm_start(model.weights, 2), "every layer that is taken over counts"
