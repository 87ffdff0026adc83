"""Where turns begin and end in what a chat template writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dflash_local.errors import PromptError
from dflash_local.rows.messages import Message

SENTINEL = "\x02"  # a text that no template writes of itself

#: A conversation whose answer, and what is behind it, can be found in what a template writes of it.
ASKED: tuple[Message, ...] = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": SENTINEL},
    {"role": "user", "content": SENTINEL},
)


def behind_answer(text: str) -> str:
    """What a template writes behind the answer of ``ASKED``; empty where it left that out."""
    parts = text.split(SENTINEL)
    return parts[1] if len(parts) == 3 else ""


def header_of(text: str) -> str:
    """What a template writes before a user's turn that is the sentinel."""
    return text.split(SENTINEL)[0]


def first_end(tokens: Sequence[int], is_end: Callable[[int], bool]) -> int | None:
    """The first token that ends an answer."""
    return next(filter(is_end, tokens), None)


def continued(
    asked: str,
    whole: str,
    tokens_of: Callable[[str], list[int]],
    is_end: Callable[[int], bool],
    turn_end: int,
) -> list[int]:
    """Tokens of an answer, its end the last of them.

    Args:
        asked: what the template writes up to where the assistant begins.
        whole: what it writes with the answer.
        turn_end: goes behind an answer that the template writes without an end.

    Raises:
        PromptError: the one does not go on with the other, or with nothing.
    """
    if not whole.startswith(asked):
        raise PromptError("the chat template does not write this answer behind its prompt")
    tokens = tokens_of(whole[len(asked) :])
    ends = [at for at, token in enumerate(tokens, 1) if is_end(token)]
    # What it writes behind the end is no part of the answer. A call may end otherwise than a text.
    answer = tokens[: ends[-1]] if ends else [*tokens, turn_end]
    if len(answer) < 2:
        raise PromptError("the chat template does not write this answer")
    return answer
