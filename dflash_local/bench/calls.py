"""``create_chat_completion`` beside ``generate``: what text, streams and stop strings cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import llama_cpp

from .measures import Spread, speed_ups, spread, throughput
from .record import PLAIN, Answer
from .suite import Prompt


@dataclass(frozen=True)
class CallCost:
    """One mode, through both calls. Seconds a token; each spread over the answers.

    Attributes:
        difference: of the two, prompt by prompt.
        speed_up: of ``create_chat_completion`` over stock's; None of plain decoding.
    """

    mode: str
    generate: Spread
    chat: Spread
    difference: Spread
    speed_up: Spread | None


def ask_chat(
    llm: llama_cpp.Llama, prompt: Prompt, max_tokens: int, temperature: float, seed: int
) -> tuple[list[int], list[float]]:
    """One streamed answer.

    Returns:
        Its tokens, and the seconds until the caller was done with each of them.
    """
    said: list[int] = []
    times: list[float] = []
    generate = llm.generate
    start = time.perf_counter()

    def noted(*args: Any, **kwargs: Any) -> Iterator[int]:
        with closing(generate(*args, **kwargs)) as tokens:
            for token in tokens:
                said.append(token)
                try:
                    yield token
                finally:
                    times.append(time.perf_counter() - start)

    llm.generate = noted
    try:
        for _ in llm.create_chat_completion(
            list(prompt.messages),
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            stream=True,
        ):
            pass
    finally:
        del llm.generate
    return said, times


def call_costs(
    answers: Sequence[Answer], chats: Sequence[Answer], modes: Sequence[str]
) -> list[CallCost]:
    """What each mode's calls cost; nothing of modes that were not called."""
    found = []
    for mode in modes:
        both = list(_both(answers, chats, mode))
        generate = spread(seconds for seconds, _ in both)
        chat = spread(seconds for _, seconds in both)
        difference = spread(after - before for before, after in both)
        if generate and chat and difference:
            gain = None if mode == PLAIN else spread(speed_ups(chats, mode))
            found.append(CallCost(mode, generate, chat, difference, gain))
    return found


def _both(
    answers: Sequence[Answer], chats: Sequence[Answer], mode: str
) -> Iterator[tuple[float, float]]:
    """Seconds a token of ``generate`` and of the call, same prompt and round."""
    called = {(chat.prompt, chat.round): chat for chat in chats if chat.mode == mode}
    for answer in answers:
        chat = called.get((answer.prompt, answer.round))
        if chat is None or answer.mode != mode:
            continue
        speeds = throughput(answer), throughput(chat)
        if speeds[0] and speeds[1]:
            yield 1 / speeds[0], 1 / speeds[1]
