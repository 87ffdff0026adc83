"""Compares rows that are decoded together with plain decoding's, before a drafter is loaded.

docs/exact.md describes the comparison.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp

from dflash_local._api import _core
from dflash_local.errors import BackendError, ModelError

from . import observing, seam
from .exact import (
    TEXTS,
    ExactWidths,
    Text,
    exact_widths,
    texts_for,
    why_none,
)
from .kept import Kept
from .placement import Placement

if TYPE_CHECKING:
    from dflash_local.files.drafter_file import DrafterInfo

    from .llama import Llama

_SCHEMA = 1
_ROOM = 512  # positions of the contexts in which rows are compared
_FLASH = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
#: After so many seconds a check begins no further decode: where exact widths are preferred, and
#: where only exact ones will do.
SECONDS, SECONDS_WANTED = 4.0, 120.0

_Checked = dict[str, "list[int] | None"]


@dataclass(frozen=True)
class Prepared:
    """A verifier's context that was made for drafting.

    Attributes:
        rows: what ``seam.remake_context`` returned.
        exact: None where nothing was checked, or the check was not finished.
    """

    rows: int | None
    exact: ExactWidths | None = None


def prepare(
    llm: Llama, info: DrafterInfo, placement: Placement, *, wanted: bool | None, may_switch: bool
) -> Prepared:
    """Makes the verifier's context for drafting, and finds the widths that are exact in it.

    Args:
        wanted: True: only exact widths will do. None: they are looked for where it may be of use,
            that is where widths are decided step by step and flash attention is on. False: nothing
            is checked.
        may_switch: the caller did not choose the attention, so that flash attention may be switched
            on. It is where ``wanted`` is True and some width is exact with it.

    Raises:
        ModelError: ``wanted`` is True, and no width is exact.
    """
    if wanted is False or not (wanted or _is_worth_asking(llm)):
        return Prepared(seam.remake_context(llm, info, llm.width))
    check = _Check(llm, info, placement, SECONDS_WANTED if wanted else SECONDS)
    prepared = Prepared(None)
    attentions = _attentions(llm, may_switch=bool(wanted) and may_switch)
    for attention in attentions:
        prepared = check.prepare(attention)
        found = prepared.exact
        if not wanted or not prepared.rows or (found and found.widths):
            return prepared
    both = len(attentions) > 1
    raise ModelError(why_none(llm, prepared.exact, check.seconds, tried_both=both))


def _is_worth_asking(llm: Llama) -> bool:
    """Whether a preference can be followed, and some width is likely to be exact."""
    return llm.width is None and bool(llm.context_params.flash_attn_type)


def _attentions(llm: Llama, *, may_switch: bool) -> list[int]:
    """The types of attention to try, the best first."""
    chosen: int = llm.context_params.flash_attn_type
    return [_FLASH, chosen] if may_switch and chosen != _FLASH else [chosen]


class _Check:
    """The comparison for one verifier, drafter and placement.

    Args:
        seconds: after these no further decode begins.
    """

    def __init__(self, llm: Llama, info: DrafterInfo, placement: Placement, seconds: float) -> None:
        self._llm = llm
        self._info = info
        self._placement = placement
        self.seconds = seconds
        self._end = 0.0

    def prepare(self, attention: int) -> Prepared:
        """Compares what is not known yet with this attention, and makes the context."""
        llm = self._llm
        llm.context_params.flash_attn_type = attention
        # The key tells RPC servers by their memory only, which says nothing about their kernels.
        kept = None if self._placement.rpc else Kept("exact", self._key())
        checked = _checked(kept and kept.read())
        texts = texts_for(llm, self._info.max_width)
        names = [name for name in texts if self._is_open(checked, name)]
        if names:
            checked |= self._compared(names, checked)
            if kept is not None:
                kept.write(checked)
        rows = seam.remake_context(llm, self._info, llm.width)
        return Prepared(rows, exact_widths(llm, checked, texts) if rows else None)

    def _key(self) -> dict[str, Any]:
        recurrent = self._llm._is_recurrent or self._llm._is_hybrid
        return {
            **seam.pair_key(self._llm, self._info, self._placement),
            "snapshots for": self._llm.width if recurrent else None,
            "schema": _SCHEMA,
        }

    def _is_open(self, checked: _Checked, name: str) -> bool:
        """Whether to compare on a text: what was not finished is tried again with more time."""
        if name not in checked:
            return True
        return checked[name] is None and self.seconds == SECONDS_WANTED

    def _compared(self, names: Sequence[str], known: _Checked) -> _Checked:
        """By text the widths at which all is equal, as far as there is time.

        What is missing is compared when the pair is loaded next; None where that would be in vain,
        because not a single text was finished.
        """
        self._end = time.monotonic() + self.seconds
        self._llm._ctx.close()  # there may be no memory for it and the contexts that are compared
        equal = _common([range(self._info.max_width + 1), *known.values()])
        compared: _Checked = {}
        with contextlib.suppress(AttributeError, BackendError):  # ggml hides a function; no memory
            hashes = _core.NodeHashes(observing.node_watch())
            for name in names:
                found = self._equal_widths(TEXTS[name], equal, hashes)
                if found is None:
                    break
                compared[name] = equal = found
        return compared or dict.fromkeys(names)

    def _equal_widths(
        self, text: Text, widths: Sequence[int], hashes: _core.NodeHashes
    ) -> list[int] | None:
        """Those of the widths at which all is equal on a text; None where that was not finished."""
        if 0 not in widths or not any(widths):
            return []  # none can be exact any more
        reference = self._plain_rows(text, hashes)
        if reference is None:
            return None
        llm, layers, params = self._llm, self._info.target_layers, self._params()
        asked = seam.set_for_blocks(llm, self._info, llm.width, params)
        with seam.watched_context(llm, params, hashes.watch) as context:
            rows = seam.rows_that_go_back(llm, context, asked, llm.width)
            verifier = seam.tapped_verifier(
                llm, context, layers, hashes.watch, max_rows=max(1, rows)
            )
            fit = [width for width in widths if width < rows]
            return reference.equal_widths(verifier, hashes, fit, seconds=self._left())

    def _plain_rows(self, text: Text, hashes: _core.NodeHashes) -> _core.PlainRows | None:
        """What plain decoding makes of a text; None where there is no time or it cannot be seen."""
        llm, widest = self._llm, self._info.max_width
        with seam.watched_context(llm, self._params(), hashes.watch) as context:
            rows = min(int(llm.n_batch), _ROOM)
            verifier = _core.Verifier(context, max_rows=rows, feature_layers=[])
            made = _core.plain_rows(
                verifier, hashes, **text._asdict(), widest=widest, seconds=self._left()
            )
        # Nodes that have other names than those of the architectures we know are not seen.
        n_layer = llama_cpp.llama_model_n_layer(llm._model.model)
        return made if hashes.n_nodes >= n_layer else None

    def _params(self) -> Any:
        """The parent's parameters, with room for a text only: the rest of a cache is not read."""
        params = type(self._llm.context_params).from_buffer_copy(self._llm.context_params)
        params.n_ctx = min(self._llm._n_ctx, _ROOM)
        return params

    def _left(self) -> float:
        return self._end - time.monotonic()


def _common(lists: Iterable[Iterable[int] | None]) -> list[int]:
    """The widths that are in all of the lists that are known."""
    known = [set(widths) for widths in lists if widths is not None]
    return sorted(set.intersection(*known))


def _checked(kept: Any) -> _Checked:
    """The entries of a kept file that have the form in which they are written."""
    if not isinstance(kept, dict):
        return {}
    return {name: widths for name, widths in kept.items() if name in TEXTS and _is_list(widths)}


def _is_list(widths: Any) -> bool:
    return widths is None or (
        isinstance(widths, list) and all(isinstance(width, int) for width in widths)
    )
