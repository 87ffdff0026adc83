"""The prompts: chats through the verifier's own template, as token ids that every engine gets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

import dflash_local
from dflash_local.llama_log import captured_log

SUITE = Path(dflash_local.__file__).parent / "bench" / "prompts" / "default.jsonl"


class PromptError(ValueError):
    """A file of prompts that cannot be used."""


@dataclass(frozen=True)
class Vocabulary:
    """What the prompts became.

    Attributes:
        prompts: token ids of each.
        end_tokens: the ids that end an answer.
    """

    prompts: list[list[int]]
    end_tokens: list[int]


def read_prompts(file: Path, n_prompts: int | None) -> list[dict[str, Any]]:
    """The file's entries, the categories taken in turn, at most ``n_prompts`` of them.

    Raises:
        PromptError: no such file, or a line that holds neither messages nor a prompt.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"cannot read the prompts: {error}") from error
    entries = [_entry(file, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise PromptError(f"{file} is empty: expected a prompt a line, as JSON")
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(str(entry.get("category", "")), []).append(entry)
    mixed = [entry for entry in chain(*zip_longest(*groups.values())) if entry is not None]
    return mixed[:n_prompts]


def _entry(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptError(f"{file}, line {number}: no JSON: {error}") from error
    if isinstance(entry, dict) and (_is_chat(entry) or isinstance(entry.get("prompt"), str)):
        return entry
    raise PromptError(
        f'{file}, line {number}: expected {{"messages": [{{"role": ..., "content": ...}}]}} or '
        f'{{"prompt": "..."}}, found {line[:80]}'
    )


def _is_chat(entry: dict[str, Any]) -> bool:
    messages = entry.get("messages")
    return isinstance(messages, list) and all(
        isinstance(message, dict) and {"role", "content"} <= message.keys() for message in messages
    )


def tokenize(verifier: Path, entries: Sequence[dict[str, Any]]) -> Vocabulary:
    """The prompts as the verifier's tokens; a bare prompt becomes a user's message.

    Raises:
        PromptError: the verifier's file has no chat template.
    """
    with captured_log():  # it warns of a context that nobody uses
        llm = llama_cpp.Llama(str(verifier), vocab_only=True, verbose=False)
    try:
        formatter = _formatter(llm, verifier)
        prompts = []
        for entry in entries:
            messages = entry.get("messages") or [{"role": "user", "content": entry["prompt"]}]
            text = formatter(messages=messages)
            bos = not text.added_special
            prompts.append(llm.tokenize(text.prompt.encode(), add_bos=bos, special=True))
        vocab = llama_cpp.llama_model_get_vocab(llm.model)
        is_end = llama_cpp.llama_vocab_is_eog
        return Vocabulary(prompts, [i for i in range(llm.n_vocab()) if is_end(vocab, i)])
    finally:
        llm.close()


def _formatter(llm: Any, verifier: Path) -> Jinja2ChatFormatter:
    template = llm.metadata.get("tokenizer.chat_template")
    if not template:
        raise PromptError(f"{verifier} has no chat template: use a model tuned for chats")

    def text(token: int) -> str:
        return llama_cpp.llama_vocab_get_text(vocab, token).decode() if token >= 0 else ""

    vocab = llama_cpp.llama_model_get_vocab(llm.model)
    return Jinja2ChatFormatter(
        template=template, eos_token=text(llm.token_eos()), bos_token=text(llm.token_bos())
    )
