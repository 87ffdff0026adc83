"""A drafter's GGUF back to a checkpoint in the published layout, to go on from where it is."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dflash_local.errors import DFlashError
from dflash_local.files.drafter_file import DrafterInfo, read_drafter
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.layer_ids import published_ids
from dflash_local.whole_files import write_whole

from .checkpoint import save_checkpoint
from .draft_vocab import KEPT_TOKENS, proposed_tokens
from .shape import config_fields
from .verifiers.verifier_file import VerifierFile

_TOP = {"fc": "fc", "hidden_norm": "enc.output_norm", "norm": "output_norm"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
#: Keys that change what a drafter computes, and that training does not compute.
_UNTRAINED = (
    "rope.scaling.type",
    "attention.sliding_window",
    "attention.scale",
    "attention.value_scale",
    "logit_scale",
    "final_logit_softcapping",
    "embedding_scale",
    "hidden_activation",
)


def checkpoint_of(drafter: Path, verifier: Path, folder: Path) -> Path:
    """Writes the weights and the config of a drafter's GGUF into a folder; gives the folder.

    Weights that the file has in BF16, or in fewer bits, come back as they are in it. Where its head
    has a part of the vocabulary, the folder says which tokens a new GGUF of it has to keep.

    Raises:
        DFlashError: it is of a kind that training cannot go on from.
    """
    info, header = read_drafter(drafter), GGUFHeader(drafter)
    _check(info, header)
    file = VerifierFile(drafter)  # a drafter's sizes have the same keys
    fields = config_fields(
        file.sizes,
        n_layer=info.n_layer,
        block_size=info.block_size,
        target_layer_ids=published_ids(info.target_layers),
        mask_token=info.mask_token,
    )
    fields["num_target_layers"] = VerifierFile(verifier).sizes.n_layer
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in _TOP.items()}
    for layer in range(info.n_layer):
        names |= {
            f"layers.{layer}.{ours}.weight": f"blk.{layer}.{theirs}.weight"
            for ours, theirs in _LAYER.items()
        }
    state = {name: torch.from_numpy(file.read(stored)) for name, stored in names.items()}
    save_checkpoint(folder, state, fields)
    tokens = proposed_tokens(drafter)
    if tokens is not None:
        write_whole(folder / KEPT_TOKENS, json.dumps(tokens) + "\n", alone=True)
    return folder


def _check(info: DrafterInfo, header: GGUFHeader) -> None:
    problems = [f"its kind: found {info.kind}, expected dflash"] if info.kind != "dflash" else []
    if info.causal:
        problems.append("its attention inside a block is causal")
    for name in _UNTRAINED:
        found = header.get(f"dflash.{name}")
        if found is not None and found not in ("none", "silu", 0, 1.0):
            problems.append(f"dflash.{name}: found {found!r}, expected none")
    if "rope_freqs.weight" in header.tensors:
        problems.append("it has factors of its own for the rotary embedding")
    if problems:
        raise DFlashError(
            f"{info.path}: training cannot go on from this drafter:\n  - " + "\n  - ".join(problems)
        )


def matrix_type(drafter: Path) -> str:
    """What its matrices are stored as, by the converter's name of it ("bf16", "q8_0")."""
    import gguf

    kind = GGUFHeader(drafter).tensors["blk.0.ffn_down.weight"].type
    return str(gguf.GGMLQuantizationType(kind).name.lower())
