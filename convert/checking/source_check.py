"""A drafter's GGUF against the checkpoint it was made from: keys, tensors, and what it drafts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dflash_local.files.gguf_header import GGUFHeader

from ..layouts.drafter import DrafterConfig
from ..layouts.vocabulary import draft_ids
from ..reading.gguf_tensors import type_name
from ..reading.source import Source, open_source
from ..verifiers.pair import uses_mrope
from ..verifiers.verifier import Verifier, read_verifier
from .draft_agreement import DraftAgreement, compare_drafts
from .forward import NumpyDrafter
from .forward_source import open_drafter
from .forward_weights import EMBEDDING, HEAD
from .source_keys import unlike_checkpoint
from .source_weights import TOKEN_IDS, file_weights, reduced, token_ids

# What libllama's rounding of activations explains: it rounds them as the weights are stored, to
# 8 bits for all quantised types. Measured: 5e-7 in F32 (6e-4 with GELU, which it looks up in a
# table of F16), 2e-3 in F16, 0.012 in BF16, 0.07 in all others.
TOLERANCES = {"F32": 0.003, "F16": 0.01, "BF16": 0.04}
TOLERANCE = 0.15
CONFIDENCE_TOLERANCE = 0.05

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class SourceCheck:
    """How a drafter's file compares with its checkpoint.

    Attributes:
        problems: keys and tensors that are not the checkpoint's, or drafts too far from its own;
            one sentence each. None means that the file is right.
        drafts: the comparison of predictions; None where keys or tensors are wrong already.
        tolerance: the error of predictions that rounding explains, at the types of these files.
        warnings: what lies beside the checkpoint's files and was not read.
    """

    problems: tuple[str, ...]
    drafts: DraftAgreement | None = None
    tolerance: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the file drafts as the checkpoint does."""
        return not self.problems

    @property
    def sentence(self) -> str:
        """The verdict for a user."""
        if self.problems or self.drafts is None:
            return "this is not the checkpoint's drafter: " + "; ".join(self.problems)
        found = self.drafts
        return (
            "keys and tensors are the checkpoint's, and so are the drafts: the same token in "
            f"{found.n_same} of {found.n_rows} predictions, an error of {found.error:.2%} "
            f"(rounding explains {self.tolerance:.2%})"
        )


def compare_with_source(
    source: StrPath, drafter: StrPath, verifier: StrPath, *, n_threads: int = 1
) -> SourceCheck:
    """Compare a drafter's file with its checkpoint.

    Keys and tensors are compared as they are stored. Where they are right, libllama runs the file
    and numpy the checkpoint's mathematics, with the file's rounded weights, on the same features
    of the same text. The larger the weights' type, the sharper that is: of quantised files it
    finds the gross mistakes only.

    Args:
        source: the checkpoint, as for `convert`.
        drafter: the GGUF to be checked, which has to fit the verifier.
        verifier: the verifier's GGUF. libllama runs it; its embedding and its head are what the
            checkpoint's drafter borrows.

    Raises:
        CannotCheck: the comparison is not possible, which says nothing about the file.
        ModelError: checkpoint or files are unusable, or do not fit each other.
    """
    checkpoint, target, header = open_source(source), read_verifier(verifier), GGUFHeader(drafter)
    reference, problems = _reference(checkpoint, target, header)
    if problems:
        return SourceCheck(tuple(problems), warnings=checkpoint.warnings)
    drafts = compare_drafts(reference, drafter, verifier, token_ids(header), n_threads=n_threads)
    tolerance = _tolerance([header, *map(GGUFHeader, target.files)])
    wrong = tuple(_draft_problems(drafts, tolerance))
    return SourceCheck(wrong, drafts, tolerance, checkpoint.warnings)


def _tolerance(headers: Iterable[GGUFHeader]) -> float:
    """Of the drafter's matrices, and of the embedding and the head that it may borrow."""
    files = list(headers)
    ours = [tensor for tensor in files[0].tensors.values() if tensor.name != TOKEN_IDS]
    theirs = [t for file in files[1:] for t in file.tensors.values() if t.name in (EMBEDDING, HEAD)]
    return max(TOLERANCES.get(type_name(tensor), TOLERANCE) for tensor in [*ours, *theirs])


def _draft_problems(found: DraftAgreement, tolerance: float) -> list[str]:
    problems = []
    if not found.error <= tolerance:  # true of NaN
        problems.append(
            f"libllama's predictions differ from the checkpoint's by {found.error:.2%}, rounding "
            f"explains {tolerance:.2%}; the same token in {found.n_same} of {found.n_rows}"
        )
    if found.confidence_error is not None and not found.confidence_error <= CONFIDENCE_TOLERANCE:
        problems.append(
            f"confidences differ by up to {found.confidence_error:.2f}, expected "
            f"{CONFIDENCE_TOLERANCE:.2f} at most"
        )
    return problems


def _reference(
    source: Source, verifier: Verifier, header: GGUFHeader
) -> tuple[NumpyDrafter, list[str]]:
    """The checkpoint's drafter with the file's rounding, and what the file has wrong."""
    trained, own = open_drafter(source, verifier)
    config = _settled(trained.config, header)
    known = draft_ids(source) if config.n_vocab_draft is not None else None
    expected, problems = reduced(trained.weights, known, header)
    problems += unlike_checkpoint(config, header, mrope=uses_mrope(config, verifier))
    weights, wrong = file_weights(expected, own, header)
    return NumpyDrafter(config, weights), problems + wrong


def _settled(config: DrafterConfig, header: GGUFHeader) -> DrafterConfig:
    """Of layers trained with both masks the file has one, which its user chose."""
    if config.causal_layers is None:
        return config
    causal = bool(header.get("dflash.attention.causal", False))
    return replace(config, causal=causal, causal_layers=None)
