"""The tiny verifier with chat templates of other models' kinds, and the commands on it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import fuzzing
from conftest import MODELS

VERIFIER, DRAFTER = MODELS / "verifier-f32.gguf", MODELS / "dflash-b8.gguf"
_END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

#: As most templates are: what a message lacks becomes an error, or the word None.
CONCATENATING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}" + _END
)
PRINTING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}" + _END
)
#: Qwen's way with calls: arguments are objects.
CALLING = (
    "{% if tools %}<|im_start|>system\nTOOLS {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}NOTHINK{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.tool_calls %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}"
    "</call>{% endfor %}<|im_end|>\n{% endfor %}" + _END
)
#: DeepSeek's way with calls: arguments are text.
CALLING_WITH_TEXT = CALLING.replace("c.function.arguments | tojson", "c.function.arguments")
#: Knows users and assistants, and says nothing of others.
DEAF = CONCATENATING.replace(
    "{% for m in messages %}", "{% for m in messages if m.role in ('user', 'assistant') %}"
)
STRICT = (
    "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}" + CONCATENATING
)
REFUSING = "{{ raise_exception('no messages please') }}"
FILTERING = "{% for m in messages %}{{ m['content'] | nosuchfilter }}{% endfor %}"
UNDEFINED = "{% for m in messages %}{{ m.x.y }}{% endfor %}"
BROKEN = "{% for m in messages %}{{ m['content'] "

Command = Callable[[list[str]], int]


class Done(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def with_template(path: Path, template: str | None, **keys: int) -> Path:
    """The tiny verifier with another template, or none, and other tokens' ids."""
    value = None if template is None else fuzzing.text(template.encode())
    file = fuzzing.File.read(VERIFIER).with_key(b"tokenizer.chat_template", value)
    for name, token in keys.items():
        key = f"tokenizer.ggml.{name}_token_id".encode()
        file = file.with_key(key, fuzzing.scalar(fuzzing.U32, token))
    path.write_bytes(file.to_bytes())
    return path


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """A JSON value a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(n: int) -> list[dict[str, Any]]:
    """Rows that differ."""
    names = ("anna", "june", "tom", "mia", "leo", "ben", "eva", "max")
    texts = [f"Who is {names[i % 8]}, and who is number {i}?" for i in range(n)]
    return [{"messages": [{"role": "user", "content": text}]} for text in texts]


def run(command: Command, *arguments: object) -> Done:
    """A command in this process; a traceback is a failed test."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = command([str(argument) for argument in arguments])
        except SystemExit as stop:  # of argparse
            status = int(str(stop.code))
    return Done(status, out.getvalue(), err.getvalue())
