"""One conversation with a model: its messages, its answers, and room for the next one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import llama_cpp

from dflash_local.cli.options import ChatOptions
from dflash_local.errors import Cancelled, ContextError
from dflash_local.runtime.rendering import render_chat

Message = dict[str, str]


@dataclass
class Answer:
    """What one turn produced: tokens (the one that ended it counts), seconds on the clock.

    ``finish_reason`` is stop, length (``--max-tokens``), context (it is full) or interrupted.
    """

    n_prompt_tokens: int
    n_tokens: int = 0
    pieces: list[str] = field(default_factory=list)
    finish_reason: str = "stop"
    seconds: float = 0.0
    seconds_to_first_token: float | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


class Conversation:
    """The messages so far; llama.cpp reuses the longest prefix they share with the last prompt."""

    def __init__(self, llm: llama_cpp.Llama, options: ChatOptions) -> None:
        self._llm = llm
        self._options = options
        system = options.system
        self._system: list[Message] = [_message("system", system)] if system else []
        self._turns: list[Message] = []
        self._n_prompt_tokens = 0

    @property
    def messages(self) -> list[Message]:
        """A copy of the system message, if any, and of the turns that are remembered."""
        return [*self._system, *self._turns]

    def reset(self) -> None:
        """Forget every turn; the system message stays."""
        self._turns.clear()

    def add(self, text: str) -> int:
        """Append the user's turn; returns how many of the oldest turns were dropped for room.

        Raises:
            ContextError: this turn alone does not fit; the conversation stays as it was.
        """
        if self._turns and self._turns[-1]["role"] == "user":
            self._turns.pop()  # an interrupt came before its answer began
        before = list(self._turns)
        self._turns.append(_message("user", text))
        try:
            return self._make_room()
        except ValueError:
            self._turns = before
            raise

    def answer(self, show: Callable[[str], None]) -> Answer:
        """Answer the last turn, each piece going to ``show``; Ctrl-C keeps what was said so far."""
        answer = Answer(self._n_prompt_tokens)
        start = time.perf_counter()
        try:
            self._stream(answer, show, start)
        except (KeyboardInterrupt, Cancelled):
            answer.finish_reason = "interrupted"
        finally:
            answer.seconds = time.perf_counter() - start
            if answer.pieces:
                # llama_cpp leaves the last token it handed out to be decoded later.
                answer.n_tokens = self._llm.n_tokens + 1 - answer.n_prompt_tokens
            self._remember(answer.text)
        if answer.finish_reason == "length" and answer.n_tokens != self._options.max_tokens:
            answer.finish_reason = "context"
        return answer

    def _stream(self, answer: Answer, show: Callable[[str], None], start: float) -> None:
        chunks = self._llm.create_chat_completion(
            messages=self.messages,
            stream=True,
            temperature=self._options.temperature,
            max_tokens=self._options.max_tokens,
            seed=self._options.seed,
        )
        try:
            for chunk in chunks:
                choice = chunk["choices"][0]
                answer.finish_reason = choice["finish_reason"] or answer.finish_reason
                piece = choice["delta"].get("content")
                if piece:
                    if answer.seconds_to_first_token is None:
                        answer.seconds_to_first_token = time.perf_counter() - start
                    answer.pieces.append(piece)
                    show(piece)
        finally:
            chunks.close()

    def _remember(self, said: str) -> None:
        if said:
            self._turns.append(_message("assistant", said))
        else:
            self._turns.pop()  # templates want turns that alternate

    def _make_room(self) -> int:
        n_ctx: int = self._llm.n_ctx()
        wanted = self._options.max_tokens
        reserve = min(wanted, n_ctx // 4) if wanted else n_ctx // 4
        n_tokens = count_prompt_tokens(self._llm, self.messages)
        n_dropped = 0
        if n_tokens + reserve > n_ctx:
            # Dropping changes the prefix, so everything is read anew: leave room for a few turns.
            while n_tokens + reserve > n_ctx * 3 // 4 and self._drop_oldest():
                n_dropped += 1
                n_tokens = count_prompt_tokens(self._llm, self.messages)
        if n_tokens >= n_ctx:
            raise ContextError(
                f"the message makes a prompt of {n_tokens} tokens, the context holds {n_ctx}: "
                "shorten it, or start with a larger --n-ctx"
            )
        self._n_prompt_tokens = n_tokens
        return n_dropped

    def _drop_oldest(self) -> bool:
        users = [i for i, message in enumerate(self._turns) if message["role"] == "user"]
        if len(users) < 2:
            return False
        del self._turns[: users[1]]
        return True


def count_prompt_tokens(llm: llama_cpp.Llama, messages: Sequence[Message]) -> int:
    """The tokens of the prompt that llama_cpp's own template and tokenizer make of ``messages``.

    Raises:
        PromptError: the template refuses them.
    """
    return len(render_chat(llm, messages).tokens)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
