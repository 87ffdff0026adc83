"""Exact widths: those at which a verify gives plain decoding's logits, to the bit.

``exact_check.py`` compares rows; here is what follows from what it found. docs/exact.md says what
the bits of a row depend on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import llama_cpp

from .gguf_header import GGUFHeader
from .placement import Placement

if TYPE_CHECKING:
    from .llama import Llama

#: libllama gives attention as many keys as there are, rounded up to a multiple of so many.
KEYS = 256


class Text(NamedTuple):
    """A text to compare on; see ``_core.plain_rows``."""

    n_read: int
    repeats: bool = False
    drops: bool = False


_SHORT_TEXTS = {
    # Soon read; but over a few keys attention adds up alike in whatever order.
    "short": Text(16),
    "middle": Text(100, drops=True),
    # Takes the rows of a mixture of experts to the same ones.
    "repeated": Text(16, repeats=True, drops=True),
}
#: The long one is for ggml's CPU code, which splits the attention of one row, but not of several,
#: from 512 keys on.
TEXTS = {**_SHORT_TEXTS, "long": Text(KEYS + 1)}

#: By text the widths at which all was equal; None: there was no time.
Checked = Mapping[str, "Sequence[int] | None"]


@dataclass(frozen=True)
class ExactWidths:
    """What was found of a verifier, as it is loaded.

    Attributes:
        widths: drafts that a verify may have; (): with none it gives plain decoding's logits.
        up_to: positions of context in which it does, those of the drafts counted.
    """

    widths: tuple[int, ...]
    up_to: int


def texts_for(llm: Llama, widest: int) -> list[str]:
    """Those that say something, and fit the context with the widest block and the row after it."""
    room = llm._n_ctx - widest - 2
    names = [name for name in TEXTS if name != "repeated" or _n_experts(llm)]
    return [name for name in names if TEXTS[name].n_read <= room]


def exact_widths(llm: Llama, checked: Checked, texts: Collection[str]) -> ExactWidths | None:
    """What follows for a context that these texts are for; None where too little was checked.

    Widths that are equal on all texts are exact everywhere; where none is, those that are equal on
    the short ones are in a short context.
    """
    n_ctx = int(llama_cpp.llama_n_ctx(llm._ctx.ctx))
    in_short = _common(llm, checked, [name for name in texts if name in _SHORT_TEXTS])
    everywhere = _common(llm, checked, texts)
    if everywhere:
        return ExactWidths(everywhere, _bound(llm, n_ctx))
    if in_short is None:
        return None
    return ExactWidths(in_short, _bound(llm, min(n_ctx, KEYS)) if in_short else 0)


def _common(llm: Llama, checked: Checked, names: Collection[str]) -> tuple[int, ...] | None:
    known = [set(widths) for name in names if (widths := checked.get(name)) is not None]
    if not known or len(known) < len(names):
        return None
    common = set.intersection(*known)
    if 0 not in common or _reads_otherwise(llm):
        return ()
    if _n_experts(llm):  # fewer rows than a block has may share an expert
        common = {width for width in common if common.issuperset(range(width))}
    return tuple(sorted(common - {0}))


def _reads_otherwise(llm: Llama) -> bool:
    """Whether prompts are cut into other micro-batches than plain decoding's: for snapshots."""
    params = llm.context_params
    return bool(params.n_rs_seq) and params.n_batch > params.n_ubatch


def _n_experts(llm: Llama) -> int:
    header = GGUFHeader(llm.model_path)
    return int(header.get(f"{header.get('general.architecture')}.expert_count") or 0)


def _bound(llm: Llama, n_positions: int) -> int:
    """Of the positions those for which the check speaks.

    From ggml's source we know how attention depends on the context on a CPU, not on all devices;
    and a window's cells are used again, in an order that depends on what was decoded at once.
    """
    if llm._rpc or Placement(n_gpu_layers=llm.model_params.n_gpu_layers).on_device:
        n_positions = min(n_positions, 2 * KEYS)
    window = int(llama_cpp.llama_model_n_swa(llm._model.model))
    if window and not llm.context_params.swa_full:
        n_positions = min(n_positions, window)
    return n_positions


def why_none(llm: Llama, found: ExactWidths | None, seconds: float, *, tried_both: bool) -> str:
    """What to tell who wants exact widths where there are none.

    Args:
        tried_both: flash attention, and then without.
    """
    attention = f"with{'' if llm.context_params.flash_attn_type else 'out'} flash attention"
    attention = "with flash attention and without it" if tried_both else attention
    model = f"{llm.model_path} ({llm._model.desc()}, {attention})"
    if found is None:
        return (
            f"{model}: which widths are exact was not to be found out in {seconds:.0f} s, or a "
            f"context of {llm._n_ctx} tokens has no room for it. exact=None does without"
        )
    helps = _helps(llm, tried_flash=tried_both)
    return (
        f"{model}: no width is exact, for rows that are decoded together have other bits here than "
        f"one by one. What helps: {'; '.join(helps)}. exact=None does without"
    )


def _helps(llm: Llama, *, tried_flash: bool) -> list[str]:
    params = llm.context_params
    helps = []
    if not (params.flash_attn_type or tried_flash):
        helps.append("flash_attn=True")
    if _reads_otherwise(llm):
        helps.append(f"n_batch of at most n_ubatch ({params.n_ubatch}), for this recurrent memory")
    helps.append("weights in Q4_0, Q4_1 or Q8_0, on the CPU")
    if not params.n_rs_seq:
        helps.append("n_ubatch=1, with any weights: blocks are decoded row by row, no faster")
    return helps


def how_to_reach_further(llm: Llama, found: ExactWidths) -> str | None:
    """What to tell where they are exact in the first part of the context only."""
    n_ctx = int(llama_cpp.llama_n_ctx(llm._ctx.ctx))
    if not found.widths or found.up_to >= n_ctx:
        return None
    return (
        f"the widths {', '.join(map(str, found.widths))} give plain decoding's logits in the first "
        f"{found.up_to} positions of the context, and beyond them decoding is plain. On a CPU "
        "n_threads=1 helps, or type_k and type_v of GGML_TYPE_Q8_0"
    )
