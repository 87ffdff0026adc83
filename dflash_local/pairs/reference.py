"""Files on the Hugging Face hub as they are named: ``owner/repo[:file-or-quant]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dflash_local.errors import ModelError
from dflash_local.hf_hub import is_repository_id

#: What is taken of a repository's GGUF files where nobody chooses: of a verifier a small one, of a
#: drafter, which is small, one that drafts as it was trained.
VERIFIER_QUANTS = ("Q4_K_M", "Q8_0", "BF16", "F16")
DRAFTER_QUANTS = ("Q8_0", "BF16", "F16", "Q4_K_M")


@dataclass(frozen=True)
class Reference:
    """A repository, and which of its GGUF files: a name, or a type of weights like "Q4_K_M"."""

    repository: str
    choice: str | None = None

    def __str__(self) -> str:
        return self.repository if self.choice is None else f"{self.repository}:{self.choice}"


def as_reference(name: str) -> Reference | None:
    """The repository that a name means; None for a name that is a path or anything else."""
    repository, colon, choice = name.partition(":")
    # models/verifier.gguf is a file, although a repository could be called so.
    if not is_repository_id(repository) or (not colon and name.lower().endswith(".gguf")):
        return None
    return Reference(repository, choice or None)


def chosen(names: Sequence[str], reference: Reference, quants: Sequence[str]) -> str:
    """The file of a repository that is meant.

    Args:
        names: its GGUF files that come into question.
        quants: types of weights, the preferred ones first, for a reference without a choice.

    Raises:
        ModelError: there is none; the message lists those that are there.
    """
    choice = reference.choice
    if choice in names:
        return str(choice)
    for quant in quants if choice is None else [choice]:
        fitting = [name for name in names if _has_quant(name, quant)]
        if fitting:  # of Q4_K_M and UD-Q4_K_M the plain one
            return min(fitting, key=lambda name: (len(name), name))
    if choice is None and names:
        return min(names)
    wanted = "GGUF file" if choice is None else f"GGUF file of the name or type {choice!r}"
    raise ModelError(
        f"{reference.repository} has no {wanted}, it has: {', '.join(sorted(names)) or 'none'}"
    )


def _has_quant(name: str, quant: str) -> bool:
    pattern = rf"(?<![A-Za-z0-9]){re.escape(quant)}(?![A-Za-z0-9_])"
    return re.search(pattern, name, re.IGNORECASE) is not None
