"""What the verifier is asked: the user's prompts, or such as it makes up itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from dflash_local.errors import DFlashError
from dflash_local.llama import Llama
from dflash_local.rendering import Message, chat_tokens, text_tokens

from .conversations import Conversation
from .generate import Question, Sampling
from .verifier import ChatTokenizer, Generator, Progress

_SENTINEL = "\x02"
_USER_TOKENS = 160  # of a made-up user turn


class Template:
    """The verifier's tokenizer and chat template; no weights are loaded.

    Args:
        thinking: how the template's switch for thinking is set; None leaves it alone.
    """

    def __init__(self, verifier: Path, thinking: bool | None = None) -> None:
        self._thinking = thinking
        self.llm = Llama(verifier, vocab_only=True)
        self._reader = self.llm.tokenizer()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens up to where the assistant begins."""
        return chat_tokens(self.llm, messages, thinking=self._thinking)

    def text(self, text: str) -> list[int]:
        """Tokens of a text to be continued."""
        return text_tokens(self.llm, text)

    def user_header(self) -> list[int]:
        """Tokens up to where the user begins."""
        prompt = self.prompt([{"role": "user", "content": _SENTINEL}])
        header = self.exact_text(prompt).split(_SENTINEL)[0].encode()
        tokens = self.llm.tokenize(header, add_bos=False, special=True)
        return [*self._added_bos(prompt), *tokens]

    def answer(self, text: str, *, ended: bool) -> list[int]:
        """Tokens of an answer, with the end of generation where it came to it."""
        tokens = self.llm.tokenize(text.encode(), add_bos=False, special=False)
        return [*tokens, self.llm.token_eos()] if ended else list(tokens)

    def exact_text(self, tokens: Sequence[int]) -> str:
        """Text that a server makes these tokens of; a BOS it adds itself."""
        own = list(tokens[len(self._added_bos(tokens)) :])
        return str(self._reader.detokenize(own, special=True).decode("utf-8", "replace"))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        return str(self._reader.detokenize(list(tokens)).decode("utf-8", "replace"))

    def _added_bos(self, tokens: Sequence[int]) -> list[int]:
        """The BOS that the tokenizer put before a text, if it did."""
        adds = llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(self.llm.model))
        begins = adds and list(tokens[:1]) == [self.llm.token_bos()]
        return list(tokens[:1]) if begins else []


@dataclass(frozen=True)
class Asked:
    """A prompt of the user's: messages, or a text to be continued."""

    messages: tuple[Message, ...] = ()
    text: str = ""


def read_prompts(path: Path) -> list[Asked]:
    """Prompts of a file, a line each: JSON with "messages" or "prompt", a list of messages, text.

    Raises:
        DFlashError: it cannot be read, or lists every line that is no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DFlashError(f"{path} cannot be read: {error}") from error
    prompts, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(_asked(line))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if not prompts and not problems:
        problems.append("there is no prompt in it")
    if problems:
        shown = "".join(f"\n  - {problem}" for problem in problems[:20])
        raise DFlashError(f"{path}: not a file of prompts:{shown}")
    return prompts


def _asked(line: str) -> Asked:
    if line.lstrip()[0] not in "{[":
        return Asked(messages=({"role": "user", "content": line.strip()},))
    row = json.loads(line)
    if isinstance(row, list):
        return Asked(messages=_messages(row))
    if "messages" in row:
        return Asked(messages=_messages(row["messages"]))
    if isinstance(row.get("prompt"), str) and row["prompt"]:
        return Asked(text=row["prompt"])
    raise ValueError(f'expected "messages" or "prompt", found {", ".join(row) or "nothing"}')


def _messages(rows: Any) -> tuple[Message, ...]:
    rows = rows if isinstance(rows, list) else []
    good = [isinstance(row, dict) and {"role", "content"} <= set(row) for row in rows]
    if not rows or not all(good):
        raise ValueError('expected messages with "role" and "content"')
    return tuple(rows)


def questions_of(asked: Asked, template: ChatTokenizer) -> Iterator[list[int]]:
    """Prompts to be answered: of a conversation, one for each turn of the assistant's.

    What the assistant said before stays as it is.
    """
    if asked.text:
        yield template.text(asked.text)
        return
    turns = [i for i, message in enumerate(asked.messages) if message["role"] == "assistant"]
    if asked.messages[-1]["role"] != "assistant":
        turns.append(len(asked.messages))
    for turn in turns:
        if turn > 0:
            yield template.prompt(asked.messages[:turn])


def as_they_are(asked: Asked, template: ChatTokenizer) -> Iterator[Conversation]:
    """Every turn of the assistant's, with its own answer."""
    for turn, message in enumerate(asked.messages):
        if turn > 0 and message["role"] == "assistant":
            prompt = template.prompt(asked.messages[:turn])
            answer = template.answer(str(message["content"]), ended=True)
            yield Conversation((*prompt, *answer), len(prompt))


def synthesize(
    answerer: Generator,
    template: ChatTokenizer,
    n: int,
    *,
    seed: int,
    progress: Progress = lambda *_: None,
) -> list[str]:
    """User turns that the verifier makes up, each once; fewer than n where it repeats itself."""
    header = template.user_header()
    seen: dict[str, None] = {}
    for attempt in range(4):
        missing = n - len(seen)
        questions = [
            Question(
                header,
                Sampling(temperature=1.0, seed=seed + 1_000_003 * attempt + i),
                _USER_TOKENS,
            )
            for i in range(missing)
        ]
        for tokens in answerer.answer(questions, progress):
            text = template.decode(tokens).strip()
            if text:
                seen.setdefault(text)
        if len(seen) >= n:
            break
    return list(seen)[:n]
