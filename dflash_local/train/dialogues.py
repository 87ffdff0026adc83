"""Which prompts belong together: turns of one dialogue, and dialogues that nearly say the same.

What is held out has to be new to the drafter. A turn that contains another one's whole prompt, or a
question that was asked before with another space in it, is not.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"[^\W_]+")
_TURN = 8  # tokens of the shortest prompt of a chat; texts may begin alike without being one
# Of the words of a sequence by which prompts are compared; they wrap around.
_FACTORS = np.array([1, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
# What more prompts share is of a template, and tells nothing; of few prompts, a tenth.
_RARE = 16
_ALIKE = 0.6  # share of their rare sequences that near-duplicates have in common,
_LEAST = 6  # and how many: short prompts that differ in a word ask something else

Tokens = Sequence[int]
Sequences = npt.NDArray[np.uint64]


def groups(
    prompts: Sequence[Tokens], names: Sequence[str], texts: Sequence[str] | None = None
) -> list[int]:
    """A number for each prompt, the same for those that belong together.

    Args:
        names: of dialogues; empty where nobody knows.
        texts: the prompts as text, for near-duplicates; None compares tokens.
    """
    union = _Union(len(prompts))
    _join_equal(union, [name or None for name in names])
    _join_equal(union, list(map(tuple, prompts)))
    _join_prefixes(union, prompts)
    words = [list(prompt) for prompt in prompts] if texts is None else list(map(_words, texts))
    if texts is not None:
        _join_equal(union, list(map(_squeezed, texts)))
    _join_near(union, words)
    return [union.of(index) for index in range(len(prompts))]


class _Union:
    """Sets that grow together."""

    def __init__(self, n: int) -> None:
        self._parents = list(range(n))

    def of(self, index: int) -> int:
        """The set's first member."""
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def join(self, a: int, b: int) -> None:
        """Their sets become one."""
        a, b = sorted((self.of(a), self.of(b)))
        self._parents[b] = a


def _join_equal(union: _Union, keys: Sequence[Hashable]) -> None:
    seen: dict[Hashable, int] = {}
    for index, key in enumerate(keys):
        if key is not None:
            union.join(seen.setdefault(key, index), index)


def _join_prefixes(union: _Union, prompts: Sequence[Tokens]) -> None:
    """A prompt and those that begin with all of it: in order, they stand behind it."""
    long = [index for index, prompt in enumerate(prompts) if len(prompt) >= _TURN]
    open_: list[int] = []
    for index in sorted(long, key=lambda i: tuple(prompts[i])):
        own = tuple(prompts[index])
        while open_ and own[: len(prompts[open_[-1]])] != tuple(prompts[open_[-1]]):
            open_.pop()
        if open_:
            union.join(open_[-1], index)
        open_.append(index)


def _join_near(union: _Union, words: Sequence[Sequence[Hashable]]) -> None:
    """Prompts with most of their rare sequences of words in common."""
    firsts = {tuple(one): index for index, one in reversed(list(enumerate(words)))}
    members = sorted(firsts.values())
    hashes: dict[Hashable, int] = {}
    rare = _rare([_sequences(words[index], hashes) for index in members])
    holders: dict[int, list[int]] = defaultdict(list)
    for place, own in enumerate(rare):
        common = Counter(other for sequence in own.shared for other in holders[sequence])
        for other, n in common.items():
            if n >= max(_LEAST, _ALIKE * (own.n + rare[other].n - n)):
                union.join(members[place], members[other])
        for sequence in own.shared:
            holders[sequence].append(place)


class _Rare(NamedTuple):
    """A prompt's sequences that few prompts have: how many, and those that another one has too."""

    n: int
    shared: list[int]


def _rare(found: Sequence[Sequences]) -> list[_Rare]:
    if not found:
        return []
    _, place, counts = np.unique(np.concatenate(found), return_inverse=True, return_counts=True)
    ends = np.cumsum([len(own) for own in found])[:-1]
    most = min(_RARE, max(2, len(found) // 10))
    return [
        _Rare(int(np.sum(n <= most)), own[(n > 1) & (n <= most)].tolist())
        for own, n in zip(found, np.split(counts[place], ends), strict=True)
    ]


def _sequences(words: Sequence[Hashable], hashes: dict[Hashable, int]) -> Sequences:
    """Different sequences of words, hashed; the same in every process."""
    for word in words:
        if word not in hashes:
            digest = blake2b(repr(word).encode("utf-8", "surrogatepass"), digest_size=8)
            hashes[word] = int.from_bytes(digest.digest(), "little")
    own = np.array([hashes[word] for word in words], np.uint64)
    if len(own) < len(_FACTORS):
        return own[:0]
    whole = len(own) - len(_FACTORS) + 1
    parts = (own[i : i + whole] * factor for i, factor in enumerate(_FACTORS))
    return np.unique(np.sum(list(parts), axis=0, dtype=np.uint64))


def _squeezed(text: str) -> str | None:
    """Its words without spaces, which differ most easily; None where nothing is left."""
    return "".join(_words(text)) or "".join(text.split()) or None


def _words(text: str) -> list[str]:
    """Words without case, punctuation and ways of typing them."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
