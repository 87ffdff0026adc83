"""Questions, how they are asked, and what stock ``llama_cpp.Llama`` answers to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import LlamaGrammar, LogitsProcessorList, StoppingCriteriaList

from .setup import EXACT, verifiers

_GRAMMAR = 'root ::= ("the " | "a ") [a-z ]+ "."'
_LONG = "the red fox calls the hen near the river. the white hen helps the cat. " * 5
PROMPTS = ("the brown", "12 + 7 =", "anna is", _LONG)
SEEDS = (1, 2, 3)
TOKEN_WAYS = ("tokens", "rows", "criterion")
TEXT_WAYS = ("whole", "stream", "chat", "grammar")

Answer = list[int] | str


@dataclass(frozen=True)
class Question:
    """A prompt and how it is asked: for tokens or for text; sampled where it has a seed."""

    way: str
    prompt: str
    n_tokens: int = 60
    seed: int | None = None

    @property
    def key(self) -> str:
        return f"{self.way} {self.seed} {self.prompt}"


def questions(answers: str | None) -> list[Question]:
    """Those that a verifier can be asked. Random weights give no readable text.

    Args:
        answers: see ``Kind``; the demo pair, which is slower, is asked for less.
    """
    if answers is None:
        ways = ("tokens", "rows", "criterion", "stream", "chat")
        return [Question(way, prompt, 12) for way in ways for prompt in PROMPTS]
    made = [Question(way, prompt) for way in TOKEN_WAYS for prompt in PROMPTS]
    if answers != "hybrid":
        made += [Question(way, prompt) for way in TEXT_WAYS for prompt in PROMPTS]
        made += [Question("stream", prompt, 40, s) for prompt in PROMPTS[:2] for s in SEEDS]
    return made


def pieces(llm: Any, question: Question, criterion: Any = None) -> Iterator[int | str]:
    """The answer as it comes: token by token, or text by text.

    Args:
        criterion: called with every token of the way "criterion".
    """
    if question.way in TOKEN_WAYS:
        return _tokens(llm, question, criterion)
    return _texts(llm, question)


def _tokens(llm: Any, question: Question, criterion: Any) -> Iterator[int]:
    prompt = llm.tokenize(question.prompt.encode())
    hooks: dict[str, Any] = {}
    if question.way == "rows":
        hooks["logits_processor"] = LogitsProcessorList([lambda _, scores: scores])
    if question.way == "criterion":
        hooks["stopping_criteria"] = StoppingCriteriaList([criterion or (lambda *_: False)])
    with closing(llm.generate(prompt, temp=0.0, **hooks)) as generator:
        yield from islice(generator, question.n_tokens)


def _texts(llm: Any, question: Question) -> Iterator[str]:
    sampled = question.seed is not None
    options: dict[str, Any] = {
        "max_tokens": question.n_tokens,
        "temperature": 0.9 if sampled else 0.0,
        "seed": question.seed,
    }
    if question.way == "whole":
        yield llm.create_completion(question.prompt, **options)["choices"][0]["text"]
        return
    if question.way == "chat":
        messages = [{"role": "user", "content": question.prompt}]
        chunks = llm.create_chat_completion(messages, stream=True, **options)
        yield from (chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        return
    if question.way == "grammar":
        options["grammar"] = LlamaGrammar.from_string(_GRAMMAR, verbose=False)
    chunks = llm.create_completion(question.prompt, stream=True, **options)
    yield from (chunk["choices"][0]["text"] for chunk in chunks)


def joined(found: Iterable[int | str], question: Question) -> Answer:
    """Tokens, or their text."""
    if question.way in TOKEN_WAYS:
        return [int(piece) for piece in found]
    return "".join(map(str, found))


def write_stocks_answers(folder: str) -> None:
    """Asks stock's models every question, once, and keeps the answers in the folder."""
    known = {}
    for name, path in verifiers(folder).items():
        llm = llama_cpp.Llama(str(path), **EXACT)
        known[name] = {q.key: joined(pieces(llm, q), q) for q in questions(name)}
        llm.close()
    _file(folder).write_text(json.dumps(known), encoding="utf-8")


def read_stocks_answers(folder: str) -> dict[str, dict[str, Answer]]:
    known: dict[str, dict[str, Answer]] = json.loads(_file(folder).read_text(encoding="utf-8"))
    return known


def _file(folder: str) -> Path:
    return Path(folder) / "answers.json"
