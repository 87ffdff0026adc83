"""DFlash2 in any layout: the fields of its convolutions and its candidate selector."""

from __future__ import annotations

from ..reading.fields import Fields
from .drafter import Selector

ARCHITECTURE = "DFlash2DraftModel"
FIELDS = ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k")


def selector(draft: Fields, n_embd: int, *, reduced: bool) -> Selector | None:
    """What the config says of DFlash2, or None for a plain DFlash drafter.

    Args:
        n_embd: the drafter's width, in which the selector's choices have to find room.
        reduced: the drafter's head knows a part of the vocabulary only.
    """
    names = draft.get("architectures")
    announced = isinstance(names, list) and ARCHITECTURE in names
    if not announced and all(draft.get(name) is None for name in FIELDS):
        return None
    found = Selector(*(draft.integer(name) for name in FIELDS))
    if n_embd % found.group_size:
        draft.problems.append(
            f"`conv_group_size`: found {found.group_size}, expected a divisor of the hidden size "
            f"{n_embd}"
        )
    if n_embd < (needed := found.top_k * (found.top_k + 1)):
        draft.problems.append(
            f"`selector_top_k`: found {found.top_k}, which needs a hidden size of {needed} or "
            f"more in llama.cpp; the drafter's is {n_embd}"
        )
    if reduced:
        draft.problems.append(
            "DFlash2 with a reduced vocabulary: llama.cpp's selector looks the verifier's ids up "
            "in its codebooks; expected one with the whole vocabulary"
        )
    if draft.flag("sample_from_anchor", False):
        draft.problems.append(
            "`sample_from_anchor`: found true, but llama.cpp's selector begins at the first mask"
        )
    return found
