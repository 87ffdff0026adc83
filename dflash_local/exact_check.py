"""Compares rows that are decoded together with plain decoding's, before a drafter is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp

from . import seam
from ._api import _core
from .drafter import address
from .errors import ModelError
from .exact import TEXTS, ExactWidths, exact_widths, texts_for, why_none
from .kept import Kept
from .placement import Placement

if TYPE_CHECKING:
    from .drafter_file import DrafterInfo
    from .llama import Llama

_SCHEMA = 1
_FLASH = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
#: What a check takes at most: where exact widths are preferred, and where no others will do.
SECONDS, SECONDS_WANTED = 4.0, 120.0

_Checked = dict[str, "list[int] | None"]
_References = dict[str, "_core.PlainRows | None"]


@dataclass(frozen=True)
class Prepared:
    """A verifier's context that was made for drafting.

    Attributes:
        rows: see ``seam.remake_context``.
        exact: None where nothing was checked, or not in time.
    """

    rows: int | None
    exact: ExactWidths | None = None


def prepare(
    llm: Llama, info: DrafterInfo, placement: Placement, *, wanted: bool | None, may_switch: bool
) -> Prepared:
    """Makes the verifier's context for drafting, and finds its exact widths.

    Args:
        wanted: True: no others will do. None: they are preferred, where widths are decided step by
            step. False: they do not matter.
        may_switch: nobody chose the attention, so flash attention may be switched on.

    Raises:
        ModelError: they are wanted, and there are none.
    """
    if wanted is False or (wanted is None and llm.width is not None):
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


def _attentions(llm: Llama, *, may_switch: bool) -> list[int]:
    chosen: int = llm.context_params.flash_attn_type
    return [_FLASH, chosen] if may_switch and chosen != _FLASH else [chosen]


class _Check:
    def __init__(self, llm: Llama, info: DrafterInfo, placement: Placement, seconds: float) -> None:
        self._llm = llm
        self._info = info
        self._placement = placement
        self.seconds = seconds
        params = llm.context_params
        self._plain = (params.n_outputs_max, params.n_rs_seq)
        self._attention: int | None = params.flash_attn_type  # of the plain context that is there

    def prepare(self, attention: int) -> Prepared:
        """Compares what is not known yet."""
        llm, params = self._llm, self._llm.context_params
        texts = texts_for(llm, self._info.max_width)
        params.flash_attn_type = attention
        params.n_outputs_max, params.n_rs_seq = self._plain
        # Servers are known by their memory: that tells nothing of the kernels that they have.
        kept = None if self._placement.rpc else Kept("exact", self._key())
        checked = _checked(kept and kept.read())
        names = [name for name in texts if self._is_open(checked, name)]
        end = time.monotonic() + self.seconds
        references = self._references(names, attention, end) if names else {}
        rows = seam.remake_context(llm, self._info, llm.width)
        self._attention = None
        if not rows:
            return Prepared(rows)
        if names:
            checked |= self._compared(names, references, rows, end)
            if kept is not None:
                kept.write(checked)
        return Prepared(rows, exact_widths(llm, checked, texts))

    def _key(self) -> dict[str, Any]:
        recurrent = self._llm._is_recurrent or self._llm._is_hybrid
        return {
            **seam.pair_key(self._llm, self._info, self._placement),
            "snapshots for": self._llm.width if recurrent else None,
            "schema": _SCHEMA,
        }

    def _is_open(self, checked: _Checked, name: str) -> bool:
        """Whether to compare on a text: what took too long is tried again where it is wanted."""
        if name not in checked:
            return True
        return checked[name] is None and self.seconds == SECONDS_WANTED

    def _references(self, names: Iterable[str], attention: int, end: float) -> _References:
        """Plain decoding's rows."""
        llm = self._llm
        if self._attention != attention:
            seam.remake_plain_context(llm)
        verifier = _core.Verifier(address(llm._ctx.ctx), max_rows=llm.n_batch, feature_layers=[])
        references: _References = {}
        for name in names:
            rows = _core.plain_rows(
                verifier,
                **TEXTS[name]._asdict(),
                widest=self._info.max_width,
                seconds=end - time.monotonic(),
            )
            if name == "varied" and rows is not None and self._is_hopeless(rows, verifier, end):
                return {}
            references[name] = rows
        return references

    def _is_hopeless(self, rows: _core.PlainRows, verifier: _core.Verifier, end: float) -> bool:
        """Whether all blocks are off even without what drafting adds: the other texts can wait."""
        most = min(self._info.max_width, self._llm.n_batch - 1)
        widths = rows.equal_widths(verifier, range(most + 1), seconds=end - time.monotonic())
        return widths is not None and not any(widths)

    def _compared(
        self, names: Iterable[str], references: _References, rows: int, end: float
    ) -> _Checked:
        """The drafting context's rows beside them: of each width, as long as it is equal."""
        verifier = _core.Verifier(
            address(self._llm._ctx.ctx),
            max_rows=rows,
            feature_layers=list(self._info.target_layers),
        )
        equal = list(range(min(self._info.max_width + 1, rows))) if references else [0]
        checked: _Checked = {}
        for name in names:
            reference = references.get(name)
            found: list[int] | None = None
            if not any(equal):
                found = equal  # there is nothing to lose
            elif reference is not None:
                left = end - time.monotonic()
                found = reference.equal_widths(verifier, equal, seconds=left)
            checked[name] = found
            equal = equal if found is None else found
        return checked


def _checked(kept: Any) -> _Checked:
    """What was kept, as far as it is what was written."""
    if not isinstance(kept, dict):
        return {}
    return {name: widths for name, widths in kept.items() if name in TEXTS and _is_list(widths)}


def _is_list(widths: Any) -> bool:
    return widths is None or (
        isinstance(widths, list) and all(isinstance(width, int) for width in widths)
    )
