"""One answer, with the clock running: each token's time and each step's account."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import llama_cpp

from dflash_local import Llama

from .record import Step

#: An answer's tokens, the seconds to each of them, its steps, and the seconds of its prompt.
Asked = tuple[list[int], list[float], list[Step], dict[str, float]]


def ask(
    llm: llama_cpp.Llama,
    tokens: list[int],
    max_tokens: int,
    temperature: float,
    *,
    past_end: bool = False,
) -> Asked:
    """One answer through ``llm.generate``, as users get it.

    Args:
        past_end: goes on to ``max_tokens`` where the verifier would end the answer.
    """
    said: list[int] = []
    times: list[float] = []
    counted = _Counted(llm.session) if isinstance(llm, Llama) else None
    start = time.perf_counter()
    with closing(llm.generate(tokens, temp=temperature)) as stream:
        for token in stream:
            times.append(time.perf_counter() - start)
            said.append(token)
            if counted is not None:
                counted.look()
            if len(said) == max_tokens or (is_end(llm, token) and not past_end):
                break
    if counted is None:
        return said, times, [], {}
    return said, times, counted.finished(), counted.prompt_seconds


class _Counted:
    """Tells the steps of an answer apart by what the session's statistics have grown.

    A step's seconds and drafts are counted with its first token, each token when it is out.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._before: Any = None  # statistics at the end of the step before
        self._last: Any = None  # those after the latest token
        self._steps: list[Step] = []
        self.prompt_seconds: dict[str, float] = {}

    def look(self) -> None:
        """To be called after each token."""
        now = self._session.last_stats
        if self._last is None:
            self.prompt_seconds = {"prefill": now.seconds_prefill, "inject": now.seconds_inject}
            self._before = now
        elif now.n_steps != self._last.n_steps:
            self._end_step()
        self._last = now

    def finished(self) -> list[Step]:
        """All steps, the one in which the answer ended included."""
        self._end_step()
        return self._steps

    def _end_step(self) -> None:
        if self._last.n_steps != self._before.n_steps:
            self._steps.append(_step_between(self._before, self._last))
            self._before = self._last


def _step_between(before: Any, after: Any) -> Step:
    return Step(
        n_drafted=after.n_drafted - before.n_drafted,
        n_accepted=after.n_accepted - before.n_accepted,
        n_emitted=after.n_tokens - before.n_tokens,
        seconds={
            "draft": after.seconds_draft - before.seconds_draft,
            "verify": after.seconds_verify - before.seconds_verify,
            "sample": after.seconds_sample - before.seconds_sample,
            "inject": after.seconds_inject - before.seconds_inject,
        },
    )


def is_end(llm: llama_cpp.Llama, token: int) -> bool:
    """Whether the token ends an answer."""
    return bool(llama_cpp.llama_vocab_is_eog(llm._model.vocab, token))
