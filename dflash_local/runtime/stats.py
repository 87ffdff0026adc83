"""Statistics of the speculative loop, as ``llm.stats`` gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dflash_local._core import Stats

if TYPE_CHECKING:
    from .exact import ExactWidths


@dataclass(frozen=True)
class SessionStats:
    """Counts and seconds, at the moment they were asked for.

    Attributes:
        last: of the answer that ran last.
        total: since the model was loaded.
        exact_widths: the same as ``Llama.exact_widths``.
    """

    last: Stats
    total: Stats
    exact_widths: ExactWidths | None = None
