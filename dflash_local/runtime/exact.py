"""Exact widths: those at which a verify gives plain decoding's logits, to the bit.

``exact_check.py`` compares rows. This module says on which texts, and what follows from the result
for a verifier's context. docs/exact.md says what the bits of a row depend on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import llama_cpp

from dflash_local.files.gguf_header import GGUFHeader

from .placement import Placement

if TYPE_CHECKING:
    from .llama import Llama

#: libllama rounds the number of keys that attention sees up to a multiple of this.
KEYS = 256


class Text(NamedTuple):
    """A made up text to compare rows on; its fields are arguments of ``_core.plain_rows``."""

    n_read: int
    repeats: bool = False
    drops: bool = False


_SHORT_TEXTS = {
    # Quickly read, so that hopeless weights are found out at once.
    "short": Text(16),
    # Over few keys attention may give the same sum in any order, over more it shows.
    "middle": Text(100, drops=True),
    # Equal tokens take all rows of a mixture of experts to the same experts.
    "repeated": Text(16, repeats=True, drops=True),
}
#: The long text gives attention 512 keys. From there on ggml's CPU code splits the attention of a
#: single row over threads, and that of several rows not.
TEXTS = {**_SHORT_TEXTS, "long": Text(KEYS + 1)}

#: By the name of a text: the widths at which all was equal. None: the comparison was not finished.
Checked = Mapping[str, "Sequence[int] | None"]


@dataclass(frozen=True)
class ExactWidths:
    """The exact widths of a verifier with the settings it was loaded with.

    Attributes:
        widths: numbers of drafts, from 1, whose verify gives plain decoding's logits to the bit;
            () where there is none.
        up_to: they hold in the first ``up_to`` positions of the context. The last draft's position
            has to be one of these. 0 where ``widths`` is ().
    """

    widths: tuple[int, ...]
    up_to: int


def texts_for(llm: Llama, widest: int) -> list[str]:
    """The names of the texts to compare on.

    "repeated" is one of them only with a mixture of experts. A text is left out where the context
    has no room for it, a block of ``widest`` drafts and one more row.
    """
    room = llm._n_ctx - widest - 2
    names = [name for name in TEXTS if name != "repeated" or _n_experts(llm)]
    return [name for name in names if TEXTS[name].n_read <= room]


def exact_widths(llm: Llama, checked: Checked, texts: Collection[str]) -> ExactWidths | None:
    """The exact widths that follow from what was found equal; None where too little was compared.

    Widths that are equal on all texts are exact in all of the context. Where there is none, those
    that are equal on all but the long text are exact in the first ``KEYS`` positions.

    Args:
        texts: the names from ``texts_for``.
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
    """The widths from 1 that are equal on all these texts; None where one was not finished."""
    known = [set(widths) for name in names if (widths := checked.get(name)) is not None]
    if not known or len(known) < len(names):
        return None
    common = set.intersection(*known)
    if 0 not in common or _reads_otherwise(llm):
        return ()
    if _n_experts(llm):  # an expert may get any part of a block's rows
        common = {width for width in common if common.issuperset(range(width))}
    return tuple(sorted(common - {0}))


def _reads_otherwise(llm: Llama) -> bool:
    """Whether snapshots of a recurrent memory change the micro-batches a prompt is read in."""
    params = llm.context_params
    return bool(params.n_rs_seq) and params.n_batch > params.n_ubatch


def _n_experts(llm: Llama) -> int:
    """Experts of a layer; 0 where the model is no mixture of experts."""
    header = GGUFHeader(llm.model_path)
    return int(header.get(f"{header.get('general.architecture')}.expert_count") or 0)


def _bound(llm: Llama, n_positions: int) -> int:
    """How many of the first ``n_positions`` positions the check speaks for.

    How attention depends on the length of the context is known from ggml's source for the CPU only.
    On other devices the check speaks for the number of keys it was made with. A sliding window's
    cells are used again, in an order that depends on how many rows were decoded at once.
    """
    if llm._rpc or Placement(n_gpu_layers=llm.model_params.n_gpu_layers).on_device:
        n_positions = min(n_positions, 2 * KEYS)
    window = int(llama_cpp.llama_model_n_swa(llm._model.model))
    if window and not llm.context_params.swa_full:
        n_positions = min(n_positions, window)
    return n_positions


def why_none(llm: Llama, found: ExactWidths | None, seconds: float, *, tried_both: bool) -> str:
    """The error text for a caller who wants exact widths where there are none.

    Args:
        seconds: what the check may take.
        tried_both: whether flash attention was tried as well as none.
    """
    attention = f"with{'' if llm.context_params.flash_attn_type else 'out'} flash attention"
    attention = "with flash attention and without it" if tried_both else attention
    model = f"{llm.model_path} ({llm._model.desc()}, {attention})"
    if found is None:
        return (
            f"{model}: which widths are exact could not be found out. Comparing rows failed, took "
            f"more than {seconds:.0f} s, or does not fit a context of {llm._n_ctx} tokens. With "
            "exact=None drafts are verified all the same"
        )
    helps = _helps(llm, tried_flash=tried_both)
    return (
        f"{model}: no width is exact, since rows that are decoded together have other bits here "
        f"than one by one. What may help: {'; '.join(helps)}. With exact=None drafts are verified "
        "all the same"
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
        helps.append("n_ubatch=1, with any weights: blocks are then decoded row by row, no faster")
    return helps


def how_to_reach_further(llm: Llama, found: ExactWidths) -> str | None:
    """A warning where widths are exact in the first part of the context only; else None."""
    n_ctx = int(llama_cpp.llama_n_ctx(llm._ctx.ctx))
    if not found.widths or found.up_to >= n_ctx:
        return None
    return (
        f"the widths {', '.join(map(str, found.widths))} give plain decoding's logits in the first "
        f"{found.up_to} positions of the context, and beyond them decoding is plain. On a CPU "
        "n_threads=1 helps, or type_k and type_v of GGML_TYPE_Q8_0"
    )
