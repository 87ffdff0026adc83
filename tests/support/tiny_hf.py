"""The tiny verifier as a Hugging Face model: the weights, tokens and template of its GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from training import VERIFIER
from transformers import PreTrainedTokenizerFast

from dflash_local.train.verifiers.verifier_file import VerifierFile

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_model(folder: Path) -> Path:
    """A whole model: config, F32 weights, tokenizer with chat template; gives the folder."""
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    sizes = VerifierFile(VERIFIER).sizes
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": sizes.n_layer,
        "hidden_size": sizes.n_embd,
        "intermediate_size": sizes.n_ff,
        "num_attention_heads": sizes.n_head,
        "num_key_value_heads": sizes.n_head_kv,
        "head_dim": sizes.head_dim,
        "rms_norm_eps": sizes.rms_eps,
        "rope_theta": sizes.rope_theta,
        "max_position_embeddings": sizes.n_ctx,
        "vocab_size": sizes.n_vocab,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    # What its maker advises must not shape the answers that a drafter learns from.
    advice = {"eos_token_id": [2, 0], "do_sample": True, "repetition_penalty": 5.0}
    (folder / "generation_config.json").write_text(json.dumps(advice))
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _weights() -> dict[str, Tensor]:
    file = VerifierFile(VERIFIER)
    sizes = file.sizes
    heads = {"attn_q": sizes.n_head, "attn_k": sizes.n_head_kv}
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    for layer in range(sizes.n_layer):
        for ours, theirs in _LAYER.items():
            names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    weights = {}
    for ours, theirs in names.items():
        rows = torch.from_numpy(file.read(theirs))
        n_heads = heads.get(theirs.split(".")[-2])
        if n_heads is not None:  # GGUF: the two halves of a head's rows take turns
            n_rows = len(rows) // n_heads
            order = torch.arange(n_rows).view(-1, 2).T.flatten()
            rows = rows.view(n_heads, n_rows, -1)[:, order].reshape(rows.shape)
        weights[ours] = rows.contiguous()
    return weights


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE with digits apart, as llama.cpp's "smollm" has it."""
    tokens, merges, template = (
        gguf.GGUFReader(VERIFIER).get_field(f"tokenizer.{name}").contents()
        for name in ("ggml.tokens", "ggml.merges", "chat_template")
    )
    vocab = {token: i for i, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab, [tuple(line.split(" ")) for line in merges]))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=tokens[0],
        eos_token=tokens[2],
        additional_special_tokens=[tokens[1], tokens[3]],
        chat_template=template,
    )
    tokenizer.save_pretrained(folder)
