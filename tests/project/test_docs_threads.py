"""The examples of docs/threads.md run as they stand there."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeLlama

from dflash_local import Llama

PAGE = Path(__file__).parents[2] / "docs" / "threads.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
MESSAGES = [{"role": "user", "content": "Who is anna?"}]
#: The tiny verifier's file has no chat template.
CHAT = {"chat_format": "chatml"}


@pytest.fixture
def llm(make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]) -> Llama:
    model: Llama = make_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **CHAT)
    return model


def run(example: str, **names: Any) -> dict[str, Any]:
    exec(example, names)
    return names


def test_every_example_is_tested() -> None:
    assert len(EXAMPLES) == 3


def test_a_pool_of_threads_asks_one_model(llm: Llama) -> None:
    load = re.compile("^llm = .*$", re.MULTILINE)
    assert load.search(EXAMPLES[0])
    answers = run(load.sub("", EXAMPLES[0]), llm=llm)["answers"]
    assert len(answers) == 4
    assert len(set(answers)) > 1


def test_a_stream_in_asyncio_gives_the_answer_and_can_be_cancelled(llm: Llama) -> None:
    stream = run(EXAMPLES[1])["stream"]
    options = {"max_tokens": 40, "temperature": 0}
    whole = llm.create_chat_completion(MESSAGES, **options)["choices"][0]["message"]["content"]

    async def all_of_it() -> str:
        return "".join([piece async for piece in stream(llm, MESSAGES, **options)])

    async def begin(pieces: list[str]) -> None:
        async for piece in stream(llm, MESSAGES, max_tokens=400, temperature=1.5, seed=3):
            pieces.append(piece)

    async def cancelled() -> list[str]:
        pieces: list[str] = []
        task = asyncio.create_task(begin(pieces))
        while not pieces:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return pieces

    assert asyncio.run(all_of_it()) == whole
    assert 0 < len(asyncio.run(cancelled())) < 400
    assert asyncio.run(all_of_it()) == whole


def test_logging_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = logging.getLogger("dflash_local")
    monkeypatch.setattr(ours, "level", ours.level)
    run(EXAMPLES[2])
    assert ours.isEnabledFor(logging.DEBUG)
    assert isinstance(ours.handlers[0], logging.NullHandler)
