"""DSpark: the Markov and confidence heads of any layout, and the flat layouts F and G.

F is DeepSpec's, whose DFlash is the same model without a Markov head; G is that of LFM2 and Ling.
"""

from __future__ import annotations

from dataclasses import replace

from ..reading.fields import Fields, raise_problems
from ..reading.source import Source
from .attention import stated, with_masks
from .blocks import parse_blocks
from .drafter import DrafterConfig, MarkovHead
from .names import find
from .tensors import CONFIDENCE, MARKOV_FACTORS

DEFAULT_BLOCK_SIZE = 16  # llama.cpp's


def parse_config(source: Source) -> DrafterConfig:
    """Read and check a flat config.json.

    Raises:
        ModelError: lists every field that is missing, wrong or cannot be expressed in GGUF.
    """
    top = Fields(source.config, [])
    nested = Fields(top.section("dflash_config"), top.problems)
    draft = Fields({**source.config, **nested.values}, top.problems)
    block_size = draft.integer("block_size", DEFAULT_BLOCK_SIZE, low=2)
    config = parse_blocks(source, top, draft, block_size=block_size)
    # Ids of hidden states are the mark of a speculators export, whose anchor predicts nothing.
    anchor = draft.get("aux_hidden_state_layer_ids") is None
    config = replace(
        config,
        markov=markov_head(source, draft, from_anchor=anchor),
        value_scale=nested.optional_number("attention_value_scale"),
    )
    config = with_masks(config, stated(top, nested), ())
    raise_problems(source.folder / "config.json", top.problems)
    return config


def markov_head(source: Source, draft: Fields, *, from_anchor: bool | None) -> MarkovHead | None:
    """The head a config describes, or None for a plain DFlash drafter.

    A drafter without one that predicts from the anchor gets a head of zeros: llama.cpp reads the
    anchor's row of DSpark files only.

    Args:
        from_anchor: what holds where `sample_from_anchor` is silent; with None a Markov head makes
            it required.
    """
    rank = draft.integer("markov_rank", _stored_rank(source), low=0)
    if rank and from_anchor is None and draft.get("sample_from_anchor") is None:
        draft.problems.append(
            "`sample_from_anchor`: found nothing, expected true or false in a drafter with a "
            "Markov head: whether the anchor's row predicts the first draft"
        )
    from_anchor = bool(draft.flag("sample_from_anchor", from_anchor))
    kind = draft.get("markov_head_type") or "vanilla"
    if rank and kind != "vanilla":
        draft.problems.append(
            f"`markov_head_type`: found {kind!r}, expected 'vanilla', the only one llama.cpp "
            "computes; the drafter has to be trained with it"
        )
    if not rank and not from_anchor:
        return None
    # Exports may leave it out whatever `enable_confidence_head` says.
    confidence = any(find(source, f"{name}.weight") is not None for name in CONFIDENCE)
    return MarkovHead(rank or 1, bool(rank), from_anchor, confidence)


def _stored_rank(source: Source) -> int:
    factor = find(source, MARKOV_FACTORS[0])
    return factor.shape[-1] if factor is not None and factor.shape else 0
