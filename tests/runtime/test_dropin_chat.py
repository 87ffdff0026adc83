"""Conversations, JSON and tool calls equal the parent's, with a drafter and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dropins
import pytest
from conftest import MakeLlama, check_drafts
from dropins import Pair, content_of, load_pair, same, user

from dflash_local import Llama

# pytest finds fixtures by the names of a module.
placement = dropins.placement
drafter = dropins.drafter
shared_pair = dropins.shared_pair
pair = dropins.pair


QUESTIONS = ["Who is anna?", "Start at 12 and add 7, 4 times.", "Give me june as JSON."]


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_equals_the_parents(pair: Pair, stream: bool) -> None:
    answers = []
    for llm in pair:
        messages: list[Any] = [{"role": "system", "content": "You are a tiny model."}]
        for question in QUESTIONS:
            messages += user(question)
            response = llm.create_chat_completion(messages, temperature=0, stream=stream)
            response = list(response) if stream else response
            answers.append(response)
            messages.append({"role": "assistant", "content": content_of(response)})
            if isinstance(llm, Llama):
                check_drafts(llm)
    half = len(QUESTIONS)
    for found, expected in zip(answers[half:], answers[:half], strict=True):
        same(found, expected)
    assert "rome" in content_of(answers[0])
    assert "40" in content_of(answers[1])


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "city": {"enum": ["rome", "oslo"]},
    },
    "required": ["name", "age", "city"],
}


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["json_object", "json_schema"])
@pytest.mark.parametrize("stream", [False, True])
def test_json_answers_equal_the_parents(
    pair: Pair, schema: dict[str, Any] | None, stream: bool
) -> None:
    form = {"type": "json_object"} if schema is None else {"type": "json_object", "schema": schema}
    expected, found = (
        llm.create_chat_completion(
            user("Give me june as JSON."), temperature=0, response_format=form, stream=stream
        )
        for llm in pair
    )
    expected, found = (list(x) if stream else x for x in (expected, found))
    same(found, expected)
    check_drafts(pair[1], rejected=False)
    value = json.loads(content_of(found))
    assert value["name"] == "june"
    assert schema is None or set(value) == set(SCHEMA["properties"])


TOOL = {
    "type": "function",
    "function": {"name": "person", "description": "looks a person up", "parameters": SCHEMA},
}


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["auto", {"type": "function", "function": {"name": "person"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_equal_the_parents(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    drafter: Path | None,
    choice: Any,
    stream: bool,
) -> None:
    pair = load_pair(make_llama, tiny_verifier, drafter, chat_format="chatml-function-calling")
    expected, found = (
        llm.create_chat_completion(
            user("Give me june as JSON."),
            tools=[TOOL],
            tool_choice=choice,
            temperature=0,
            max_tokens=120,
            stream=stream,
        )
        for llm in pair
    )
    if stream:
        expected, found = list(expected), list(found)
    # Each call has an id of its own.
    assert without_ids(found) == without_ids(expected)
    if choice == "auto":  # the tiny model never learned to call: its drafts are all forbidden
        assert drafter is None or sum(pair[1].stats.total.drafted_per_width[1:]) > 0
    else:
        check_drafts(pair[1])


def without_ids(response: Any) -> str:
    if isinstance(response, dict):
        return str({k: without_ids(v) for k, v in response.items() if k not in ("id", "created")})
    return str([without_ids(x) for x in response]) if isinstance(response, list) else str(response)
