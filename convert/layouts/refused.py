"""Drafters that no dflash file can hold, and what their users can do."""

from __future__ import annotations

from typing import Any

from ..reading.source import Source

ELSEWHERE = "run it with the framework it was trained for, or train a DFlash drafter instead"


def refusal(source: Source) -> str | None:
    """Why a checkpoint cannot be converted and what to do; None where nothing is known."""
    config = source.config
    nested: Any = config.get("dflash_config")
    fields = {**config, **(nested if isinstance(nested, dict) else {})}
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    projector = str(fields.get("projector_type") or "dflash").lower()
    if projector == "domino" or _stores(source, "prefix_gru."):
        return f"Domino: llama.cpp's dflash graph has no such recurrent head; {ELSEWHERE}"
    if projector not in ("dflash", "dspark"):
        return f"`projector_type` {projector!r} is not known to llama.cpp's dflash graph"
    if "Laguna" in name or _stores(source, "aux_hidden_norms."):
        return (
            "Laguna: its gates and norms of the features have no place in llama.cpp's dflash "
            f"graph (llama.cpp issue 26669 asks for them); {ELSEWHERE}"
        )
    if "DFlare" in name or _stores(source, "fusion_weights"):
        return (
            "DFlare: it fuses the verifier's features for each layer, llama.cpp's dflash graph "
            f"does so once; {ELSEWHERE}"
        )
    if any(".lora_A." in stored for stored in source.tensors):
        return (
            "the weights are a LoRA adapter beside those it changes: merge them first (PEFT's "
            "`merge_and_unload()`), and save the result"
        )
    if name.startswith("Deepseek"):
        return (
            "DSpark inside DeepSeek: its layers are converted from the verifier itself, by "
            "llama.cpp's `convert_hf_to_gguf.py --dspark`; the result runs here"
        )
    return None


def _stores(source: Source, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in source.tensors)
