"""A verifier with random weights that libllama runs, for the checkpoints of `layout_samples`."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from layout_files import N_EMBD, N_VERIFIER_LAYERS, N_VOCAB, Target

N_FF, N_HEAD, HEAD_DIM = 96, 4, 16
# Printable characters, space and newline in GPT-2's spelling: any English text.
TOKENS = [*map(chr, range(33, 127)), "Ġ", "Ċ"]
assert len(TOKENS) == N_VOCAB


def write_runnable(path: Path, target: Target = Target(), seed: int = 0) -> Path:  # noqa: B008
    """A llama with a head of its own, in F32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random verifier")
    writer.add_block_count(N_VERIFIER_LAYERS)
    writer.add_context_length(1024)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    if target.mrope:  # a llama has no such thing, and does not mind
        writer.add_rope_dimension_sections([*target.mrope, 0, 0, 0, 0][:4])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.NORMAL] * N_VOCAB)
    writer.add_token_merges(["t h"])
    for name, values in _weights(np.random.default_rng(seed)):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(random: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    def matrix(n_out: int, n_in: int) -> np.ndarray:
        return random.normal(0, n_in**-0.5, (n_out, n_in)).astype(np.float32)

    norm = np.ones(N_EMBD, np.float32)
    weights = [
        ("token_embd.weight", random.normal(0, 1, (N_VOCAB, N_EMBD)).astype(np.float32)),
        ("output.weight", matrix(N_VOCAB, N_EMBD)),
        ("output_norm.weight", norm),
    ]
    for layer in range(N_VERIFIER_LAYERS):
        names = {"attn_q": N_EMBD, "attn_k": N_EMBD, "attn_v": N_EMBD, "attn_output": N_EMBD}
        names |= {"ffn_gate": N_FF, "ffn_up": N_FF}
        weights += [(f"blk.{layer}.{name}.weight", matrix(n, N_EMBD)) for name, n in names.items()]
        weights.append((f"blk.{layer}.ffn_down.weight", matrix(N_EMBD, N_FF)))
        weights += [(f"blk.{layer}.{name}.weight", norm) for name in ("attn_norm", "ffn_norm")]
    return weights
