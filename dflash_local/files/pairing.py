"""Which drafter fits which verifier: every check that comes before libllama sees a drafter.

llama.cpp ends the process on many of the mistakes found here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dflash_local.errors import ModelError

from .drafter_file import DrafterInfo, read_drafter
from .taps import TAPS, why_none
from .token_lists import TokenList, differences, shown

__all__ = ["DrafterInfo", "VerifierInfo", "check_pair", "read_drafter"]


@dataclass(frozen=True)
class VerifierInfo:
    """What has to agree with the drafter's file."""

    path: Path
    architecture: str
    n_embd: int
    n_layer: int
    tokens: Sequence[bytes] = field(repr=False)
    chat_template: str | None = field(default=None, repr=False)
    token_types: Sequence[int] = field(default=(), repr=False)

    @property
    def vocabulary(self) -> TokenList:
        """Its tokens, to be compared."""
        return TokenList(self.tokens, self.token_types)


def check_pair(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    """Checks that the drafter can draft for the verifier.

    Returns:
        Warnings: what works, but was not what the drafter was trained for.

    Raises:
        ModelError: lists every mismatch, what was found and what was expected.
    """
    problems = pair_problems(drafter, verifier)
    if problems:
        raise ModelError(_report(drafter.path, verifier.path, problems))
    return pair_warnings(drafter, verifier)


def pair_problems(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    """Every reason why the drafter cannot draft for the verifier, a line each."""
    return [
        *_architecture_problems(verifier),
        *_size_problems(drafter, verifier),
        *_layer_problems(drafter, verifier),
        *_vocabulary_problems(drafter, verifier),
    ]


def _report(drafter: os.PathLike[str], verifier: os.PathLike[str], problems: list[str]) -> str:
    lines = "".join(f"\n  - {problem}" for problem in problems)
    return f"the drafter {drafter} does not fit the verifier {verifier}:{lines}"


def _architecture_problems(verifier: VerifierInfo) -> list[str]:
    if verifier.architecture in TAPS:
        return []
    return [f"{why_none(verifier.architecture)}. Use drafter=None to run this model plainly"]


def _size_problems(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    if drafter.n_embd == verifier.n_embd:
        return []
    return [
        f"hidden size: the drafter has {drafter.n_embd}, the verifier {verifier.n_embd}; use the "
        "drafter that was trained for this verifier"
    ]


def _layer_problems(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    tap = TAPS.get(verifier.architecture)
    if tap is None:
        return []  # a problem of its own
    given = tap.layers(verifier.n_layer)
    wrong = [layer for layer in drafter.target_layers if layer not in given]
    if not wrong:
        return []
    return [
        f"target layers: the drafter reads the inputs of layers {wrong}, the verifier "
        f"({verifier.architecture}, {verifier.n_layer} layers) gives them from {given.start} up to "
        f"{given.stop - 1}"
    ]


def _vocabulary_problems(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    ours, theirs = drafter.vocabulary, verifier.vocabulary
    sizes = len(ours.texts), len(theirs.texts)
    if sizes[0] != sizes[1]:
        # Padding at the end or not: with a borrowed head libllama cuts the verifier's rows of
        # logits by the drafter's size, and ends the process where it reads past them.
        return [
            f"vocabulary: the drafter has {sizes[0]} tokens, the verifier {sizes[1]}; use the "
            "drafter that was made for this verifier, or convert it again with its GGUF"
        ]
    different = differences(ours, theirs, [drafter.mask_token]).text
    if not different:
        return []
    return [
        f"vocabulary: {len(different)} of {sizes[0]} tokens differ, the first is "
        f"{shown(ours, theirs, different[0])}"
    ]


def pair_warnings(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    """What works, but was not what the drafter was trained for, a line each."""
    return [*_vocabulary_warnings(drafter, verifier), *_template_warnings(drafter, verifier)]


def _vocabulary_warnings(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    ours, theirs = drafter.vocabulary, verifier.vocabulary
    if len(ours.texts) != len(theirs.texts):
        return []  # a problem
    found = differences(ours, theirs, [drafter.mask_token])
    if found.text or not found.other:
        return []
    return [
        f"{len(found.other)} of {len(ours.texts)} tokens have other names in the drafter than in "
        f"the verifier, the first is {shown(ours, theirs, found.other[0])}. All of them are "
        "control, unused or padding tokens: expect fewer accepted drafts where they are used"
    ]


def _template_warnings(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    ours, theirs = drafter.chat_template, verifier.chat_template
    if ours is None or theirs is None or ours == theirs:
        return []
    return [
        f"the drafter was trained with another chat template ({_digest(ours)}) than the "
        f"verifier's ({_digest(theirs)}): expect fewer accepted drafts in chats"
    ]


def _digest(text: Any) -> str:
    return "sha256 " + hashlib.sha256(str(text).encode()).hexdigest()[:12]
