"""A synthetic drafter in z-lab's layout, with a verifier for us and one for upstream."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

N_VOCAB = 512
N_VERIFIER_LAYERS = 32
TARGET_LAYER_IDS = [1, 11, 20, 29]
HEAD_DIM = 128
_TILE = 1 << 20  # random numbers, written over and over: what they are costs no time


@dataclass(frozen=True)
class Inputs:
    """The folders and files of one run.

    Attributes:
        drafter: config.json and model.safetensors in BF16.
        verifier: GGUF with a tokenizer, for us.
        target: config.json and a tokenizer, for upstream.
    """

    drafter: Path
    verifier: Path
    target: Path

    @property
    def n_bytes(self) -> int:
        """Size of the checkpoint's weights."""
        return (self.drafter / "model.safetensors").stat().st_size


def write_inputs(folder: Path, n_layer: int, n_embd: int) -> Inputs:
    """Write all three; tokenizers are tiny on both sides, so that weights are what is measured."""
    inputs = Inputs(folder / "drafter", folder / "verifier.gguf", folder / "target")
    _write_drafter(inputs.drafter, n_layer, n_embd)
    _write_verifier(inputs.verifier, n_embd)
    _write_target(inputs.target, n_embd)
    return inputs


def _write_drafter(folder: Path, n_layer: int, n_embd: int) -> None:
    folder.mkdir()
    config = {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "block_size": 16,
        "num_hidden_layers": n_layer,
        "num_target_layers": N_VERIFIER_LAYERS,
        "hidden_size": n_embd,
        "intermediate_size": 3 * n_embd,
        "num_attention_heads": n_embd // HEAD_DIM,
        "num_key_value_heads": n_embd // HEAD_DIM // 2,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 40960,
        "attention_bias": False,
        "vocab_size": N_VOCAB,
        "tie_word_embeddings": True,
        "dflash_config": {"mask_token_id": N_VOCAB - 1, "target_layer_ids": TARGET_LAYER_IDS},
    }
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in _shapes(n_layer, n_embd):
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    values = np.random.default_rng(0).normal(0, 0.05, _TILE).astype(np.float32)
    tile = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, end, len(tile)):
            file.write(tile[: end - start])


def _shapes(n_layer: int, n_embd: int) -> Iterator[tuple[str, list[int]]]:
    n_kv, n_ff = n_embd // 2, 3 * n_embd
    yield "fc.weight", [n_embd, len(TARGET_LAYER_IDS) * n_embd]
    yield "hidden_norm.weight", [n_embd]
    yield "norm.weight", [n_embd]
    layer = {
        "input_layernorm": [n_embd],
        "post_attention_layernorm": [n_embd],
        "self_attn.q_proj": [n_embd, n_embd],
        "self_attn.k_proj": [n_kv, n_embd],
        "self_attn.v_proj": [n_kv, n_embd],
        "self_attn.o_proj": [n_embd, n_embd],
        "self_attn.q_norm": [HEAD_DIM],
        "self_attn.k_norm": [HEAD_DIM],
        "mlp.gate_proj": [n_ff, n_embd],
        "mlp.up_proj": [n_ff, n_embd],
        "mlp.down_proj": [n_embd, n_ff],
    }
    for i in range(n_layer):
        for name, shape in layer.items():
            yield f"layers.{i}.{name}.weight", shape


def _write_verifier(path: Path, n_embd: int) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(N_VERIFIER_LAYERS)
    writer.add_embedding_length(n_embd)
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list([f"token {i}" for i in range(N_VOCAB)])
    writer.add_tensor("token_embd.weight", np.zeros((N_VOCAB, n_embd), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_target(folder: Path, n_embd: int) -> None:
    # The one tokenizer that upstream reads from plain text: no further library, no known hash.
    folder.mkdir()
    config = {"architectures": ["Rwkv6ForCausalLM"], "vocab_size": N_VOCAB, "hidden_size": n_embd}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [f"{i} {f'token {i}'!r} {len(f'token {i}')}\n" for i in range(1, N_VOCAB)]
    (folder / "rwkv_vocab_v20230424.txt").write_text("".join(lines))
