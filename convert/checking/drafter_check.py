"""Whether a drafter's GGUF fits a verifier and drafts as its checkpoint does: ``check()``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dflash_local.errors import DFlashError, ModelError
from dflash_local.files.drafter_file import read_drafter
from dflash_local.files.pairing import pair_problems, pair_warnings

from ..reading.paths import expanded
from ..verifiers.pair import mask_problems
from ..verifiers.pair_files import verifier_info
from ..verifiers.verifier import Verifier, read_verifier
from .inspection import DrafterFile, inspect

if TYPE_CHECKING:
    from .source_check import SourceCheck

PROMPT = b"The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
N_CTX = 512

StrPath = str | os.PathLike[str]
T = TypeVar("T")


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

    Whatever is wrong, also a file that is missing or damaged, is reported and not raised.
    """
    paths, bad_paths = _tried(lambda: (expanded(drafter), expanded(verifier)))
    if paths is None:
        return CheckReport(Path(drafter), Path(verifier), bad_paths)
    described, bad_drafter = _tried(lambda: inspect(paths[0]))
    target, bad_verifier = _tried(lambda: read_verifier(paths[1]))
    problems = (*bad_drafter, *bad_verifier, *(described.problems if described else ()))
    report = CheckReport(paths[0], target.path if target else paths[1], problems)
    if report.fits and described is not None and target is not None:
        report = _with_pair(report, described, target)
    if report.fits:
        report = _with_block(report, n_threads)
    if report.fits and source is not None:
        report = _with_source(report, source, n_threads)
    return report


def _tried(work: Callable[[], T]) -> tuple[T | None, tuple[str, ...]]:
    """What the work gives, or what it complains about."""
    try:
        return work(), ()
    except DFlashError as error:
        return None, _lines(error)


def _lines(error: DFlashError) -> tuple[str, ...]:
    """The problems of an error, without the line that counts them."""
    subject, *problems = str(error).split("\n  - ")
    return tuple(problems) or (subject,)


def _with_pair(report: CheckReport, described: DrafterFile, target: Verifier) -> CheckReport:
    drafter, info = read_drafter(described.path), verifier_info(target)
    problems = [*pair_problems(drafter, info), *mask_problems(drafter.mask_token, target)]
    warned = pair_warnings(drafter, info)
    if target.mrope and "dimension_sections" not in described.rope:
        warned.append(
            "the verifier uses M-RoPE and the drafter has no rope sections: drafts after an image "
            "go wrong. They are added by: dflash-convert migrate "
            f"{drafter.path} -o NEW.gguf --verifier {target.path}"
        )
    return replace(report, problems=tuple(problems), warnings=tuple(warned))


def _with_block(report: CheckReport, n_threads: int) -> CheckReport:
    text, problems = _tried(lambda: _block(report, n_threads))
    return replace(report, drafted=text, problems=problems)


def _block(report: CheckReport, n_threads: int) -> str:
    """The text of a block, drafted in libllama."""
    from dflash_local.runtime.llama import Llama

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        llm = Llama(
            report.verifier,
            drafter=report.drafter,
            width=0,
            n_ctx=N_CTX,
            n_threads=n_threads,
            n_threads_batch=n_threads,
        )
    with llm:
        session = llm.session
        if session is None or session.drafter is None:
            raise ModelError("; ".join(str(warning.message) for warning in caught))
        llm.width = session.drafter.max_width
        *tokens, anchor = llm.tokenize(PROMPT)
        session.sync(tokens)
        session.anchor(anchor)
        draft = session.propose()
        n_drafted = len(draft.tokens)
        hidden = session.drafter.options.kind.name == "dflash2"
        rows = [] if hidden else [session.draft_logits(row) for row in range(n_drafted)]
        if n_drafted == 0 or any(np.isnan(row).any() for row in rows):
            raise ModelError("libllama drafts nothing, or no numbers: the weights are broken")
        return str(llm.detokenize(draft.tokens).decode("utf-8", "replace"))


def _with_source(report: CheckReport, source: StrPath, n_threads: int) -> CheckReport:
    from .forward_weights import CannotCheck
    from .source_check import compare_with_source

    try:
        found = compare_with_source(source, report.drafter, report.verifier, n_threads=n_threads)
    except CannotCheck as error:
        return replace(report, warnings=(*report.warnings, f"not compared with {source}: {error}"))
    except DFlashError as error:
        return replace(report, problems=_lines(error))
    told = (*report.warnings, *found.warnings)
    return replace(report, source=found, problems=found.problems, warnings=told)
