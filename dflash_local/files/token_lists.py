"""Where two lists of tokens differ, and whether that is a matter of text.

Publishers of one model's GGUF name its padding in their own ways, and fine-tunes give unused and
control tokens new names. A drafter knows ids, and what it drafts is verified: a token that never
stands for text costs a few drafts under another name. One that does says that these are two
vocabularies.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .gguf_header import GGUFHeader

# GGUF's numbers of token types: unknown, control, unused. The others, normal ones, those that a
# user added and bytes, are text.
_NEVER_TEXT = frozenset((2, 3, 5))
# [PAD151936], <pad_3>, <|image_pad|>, <|reserved_special_token_5|>, <unused12>, [UNUSED_TOKEN_7],
# <extra_id_1>, <SPECIAL_20>, <|dummy_0|>, <|placeholder1|>, <madeupword0>: some publishers give
# them the type of normal tokens. A number tells <extra_1> from a word.
_PADDING = re.compile(
    rb"""[<\[] \|? (?: [a-z]+ [_-] )?
    (?: pad(?:ding)? | reserved | unused | dummy | placeholder | filler
      | (?: extra | special | madeupword ) (?= [a-z_-]* \d ) )
    (?: [_-]? (?: special | unused | extra | token | id ) )* [_-]? \d* \|? [>\]]""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class TokenList:
    """A vocabulary's tokens; ``types`` are GGUF's numbers, empty where the file has none."""

    texts: Sequence[bytes]
    types: Sequence[int] = ()

    def is_text(self, token: int) -> bool:
        """Whether the token may stand for a text, by its type and its name."""
        typed = self.types[token] if token < len(self.types) else None
        return typed not in _NEVER_TEXT and not _PADDING.fullmatch(self.texts[token])


class Differences(NamedTuple):
    """Ids of tokens that differ: those that are text in one list at least, and the others."""

    text: list[int]
    other: list[int]


def differences(ours: TokenList, theirs: TokenList, masks: Collection[int] = ()) -> Differences:
    """Where two lists of one length differ.

    Args:
        masks: ids that stand for what is to be drafted: trainers name them as they like.
    """
    found = Differences([], [])
    if ours.texts == theirs.texts:
        return found
    for token, (one, other) in enumerate(zip(ours.texts, theirs.texts, strict=True)):
        if one != other and token not in masks:
            is_text = ours.is_text(token) or theirs.is_text(token)
            (found.text if is_text else found.other).append(token)
    return found


def token_types(header: GGUFHeader) -> list[int]:
    """The types of a file's tokens; empty where it does not say."""
    types = header.get("tokenizer.ggml.token_type")
    return types if isinstance(types, list) else []


def shown(ours: TokenList, theirs: TokenList, token: int) -> str:
    """A token that differs, for a message."""
    one, other = _quoted(ours.texts[token]), _quoted(theirs.texts[token])
    return f"token {token}: {one} in the drafter, {other} in the verifier"


def _quoted(text: bytes) -> str:
    return repr(text.decode("utf-8", errors="backslashreplace"))
