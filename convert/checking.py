"""Whether a drafter's GGUF fits a verifier and drafts as its checkpoint does: ``check()``."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dflash_local.drafter_file import DrafterInfo, read_drafter
from dflash_local.errors import DFlashError
from dflash_local.pairing import pair_problems, pair_warnings

from .inspection import inspect
from .pair_files import verifier_info
from .verifier import Verifier, read_verifier

if TYPE_CHECKING:
    from .source_check import SourceCheck

PROMPT = b"The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
N_CTX = 512

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class CheckReport:
    """What was found about a drafter and a verifier.

    Attributes:
        problems: why they do not fit, one sentence each; none means that they do.
        warnings: what works, but was not what the drafter was trained for.
        drafted: the text of a block drafted in libllama; None where it did not come to that.
        source: the comparison with the checkpoint; None without one, or where it was not possible.
    """

    drafter: Path
    verifier: Path
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    drafted: str | None = None
    source: SourceCheck | None = None

    @property
    def fits(self) -> bool:
        """Whether the drafter can be used with this verifier."""
        return not self.problems


def check(
    drafter: StrPath, verifier: StrPath, *, source: StrPath | None = None, n_threads: int = 1
) -> CheckReport:
    """Check a drafter's file, the pair, and a block drafted in libllama; each if the last is good.

    Args:
        drafter: the GGUF to be checked.
        verifier: the verifier's GGUF; it is loaded.
        source: the checkpoint the drafter was converted from: both are run on the same text.
        n_threads: for libllama.

    Raises:
        ModelError: a file is missing, damaged or of another kind. What does not fit is reported.
    """
    described = inspect(drafter)
    target = read_verifier(verifier)
    report = CheckReport(described.path, target.path, problems=described.problems)
    if report.fits:
        report = _with_pair(report, read_drafter(described.path), target)
    if report.fits:
        report = _with_block(report, n_threads)
    if report.fits and source is not None:
        report = _with_source(report, source, n_threads)
    return report


def _with_pair(report: CheckReport, drafter: DrafterInfo, target: Verifier) -> CheckReport:
    info = verifier_info(target)
    problems = pair_problems(drafter, info)
    if drafter.mask_token >= target.n_rows:
        problems.append(
            f"mask token {drafter.mask_token} has no row in the verifier's token embedding; "
            f"expected an id below {target.n_rows}"
        )
    return replace(report, problems=tuple(problems), warnings=tuple(pair_warnings(drafter, info)))


def _with_block(report: CheckReport, n_threads: int) -> CheckReport:
    try:
        text, missing = _block(report, n_threads)
    except DFlashError as error:
        return replace(report, problems=(str(error),))
    if missing:
        return replace(report, problems=(missing,))
    return replace(report, drafted=text)


def _block(report: CheckReport, n_threads: int) -> tuple[str, str | None]:
    """Draft once; the text of the block, and what is wrong with it."""
    from dflash_local.llama import Llama

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        llm = Llama(
            report.verifier,
            drafter=report.drafter,
            n_ctx=N_CTX,
            n_threads=n_threads,
            n_threads_batch=n_threads,
        )
    with llm:
        session = llm.session
        if session is None:
            return "", "; ".join(str(warning.message) for warning in caught)
        *tokens, anchor = llm.tokenize(PROMPT)
        session.sync(tokens)
        session.anchor(anchor)
        draft = session.propose()
        n_drafted = len(draft.tokens)
        hidden = session.drafter is None or session.drafter.options.kind.name == "dflash2"
        rows = [] if hidden else [session.draft_logits(row) for row in range(n_drafted)]
        if n_drafted == 0 or any(np.isnan(row).any() for row in rows):
            return "", "libllama drafts nothing, or no numbers: the weights are broken"
        return llm.detokenize(draft.tokens).decode("utf-8", "replace"), None


def _with_source(report: CheckReport, source: StrPath, n_threads: int) -> CheckReport:
    from .forward_weights import CannotCheck
    from .source_check import compare_with_source

    try:
        found = compare_with_source(source, report.drafter, report.verifier, n_threads=n_threads)
    except CannotCheck as error:
        return replace(report, warnings=(*report.warnings, f"not compared with {source}: {error}"))
    except DFlashError as error:
        return replace(report, problems=(str(error),))
    problems = () if found.fits else (found.sentence,)
    return replace(report, source=found, problems=problems)
