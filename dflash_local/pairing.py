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

from .drafter_file import DrafterInfo, read_drafter
from .errors import ModelError

__all__ = ["DrafterInfo", "VerifierInfo", "check_pair", "read_drafter"]

#: Architectures whose graph in libllama fills the layer inputs, with the models that inherit it.
#: On any other one llama.cpp asserts. (llama-cpp-python 0.3.36)
LAYER_INPUT_ARCHITECTURES = frozenset(
    """
    bailingmoe3 deepseek4 gemma4 gpt-oss hunyuan-dense hunyuan_vl lfm2 lfm2moe llama mimo2
    minimax-01 minimax-m2 muse-glimmer nanbeige nemotron_h nemotron_h_moe qwen3 qwen35 qwen35moe
    qwen3moe qwen3next qwen4exp
    """.split()  # noqa: SIM905 - readable as a table
)

#: The few of them that also fill the input of "layer n_layer", the output of the last one.
LAST_OUTPUT_ARCHITECTURES = frozenset(["deepseek4", "mimo2", "nemotron_h", "nemotron_h_moe"])


@dataclass(frozen=True)
class VerifierInfo:
    """What has to agree with the drafter's file."""

    path: Path
    architecture: str
    n_embd: int
    n_layer: int
    tokens: Sequence[bytes] = field(repr=False)
    chat_template: str | None = field(default=None, repr=False)


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
    if verifier.architecture in LAYER_INPUT_ARCHITECTURES:
        return []
    known = ", ".join(sorted(LAYER_INPUT_ARCHITECTURES))
    return [
        f"libllama gives no layer inputs for verifiers of architecture {verifier.architecture!r}, "
        f"and a drafter reads nothing else; it does for: {known}. Use drafter=None to run this "
        "model plainly"
    ]


def _size_problems(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    if drafter.n_embd == verifier.n_embd:
        return []
    return [
        f"hidden size: the drafter has {drafter.n_embd}, the verifier {verifier.n_embd}; use the "
        "drafter that was trained for this verifier"
    ]


def _layer_problems(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    last = verifier.n_layer - 1
    if verifier.architecture in LAST_OUTPUT_ARCHITECTURES:
        last += 1
    wrong = [layer for layer in drafter.target_layers if layer > last]
    if not wrong:
        return []
    return [
        f"target layers: the drafter reads the inputs of layers {wrong}, the verifier "
        f"({verifier.architecture}, {verifier.n_layer} layers) gives them up to {last}"
    ]


def _vocabulary_problems(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    ours, theirs = drafter.tokens, verifier.tokens
    if len(ours) != len(theirs):
        return [f"vocabulary: the drafter has {len(ours)} tokens, the verifier {len(theirs)}"]
    different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if not different:
        return []
    first = different[0]
    return [
        f"vocabulary: {len(different)} of {len(ours)} tokens differ, the first is token {first}: "
        f"{_show(ours[first])} in the drafter, {_show(theirs[first])} in the verifier"
    ]


def _show(token: bytes) -> str:
    return repr(token.decode("utf-8", errors="backslashreplace"))


def pair_warnings(drafter: DrafterInfo, verifier: VerifierInfo) -> list[str]:
    """What works, but was not what the drafter was trained for, a line each."""
    ours, theirs = drafter.chat_template, verifier.chat_template
    if ours is None or theirs is None or ours == theirs:
        return []
    return [
        f"the drafter was trained with another chat template ({_digest(ours)}) than the "
        f"verifier's ({_digest(theirs)}): expect fewer accepted drafts in chats"
    ]


def _digest(text: Any) -> str:
    return "sha256 " + hashlib.sha256(str(text).encode()).hexdigest()[:12]
