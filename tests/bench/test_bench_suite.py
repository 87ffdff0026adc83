"""The suite of prompts, files of one's own, and the checks of answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dflash_local.bench.checks import first_object, last_number, read_check
from dflash_local.bench.suite import SUITES, categories, first_of_each, load_prompts
from dflash_local.errors import DFlashError


def _file(folder: Path, *lines: Any) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return file


def test_the_suite_has_eight_prompts_of_each_kind() -> None:
    prompts = load_prompts(SUITES["default"])
    kinds = ["code", "maths", "prose", "extraction", "editing"]
    assert Counter(p.category for p in prompts) == dict.fromkeys(kinds, 8)
    assert all(p.check for p in prompts if p.category in ("maths", "extraction"))
    several_turns = [len(p.messages) for p in prompts if p.category == "editing"]
    assert min(several_turns) >= 3
    assert all(len({m["content"] for m in p.messages}) == len(p.messages) for p in prompts)


def test_no_check_is_passed_by_repeating_what_was_said() -> None:
    for prompt in load_prompts(SUITES["default"]):
        assert prompt.check is None or not any(prompt.check(m["content"]) for m in prompt.messages)


def test_the_emails_are_found_without_the_text_around_them() -> None:
    prompts = {prompt.id: prompt for prompt in load_prompts(SUITES["default"])}
    check = prompts["extraction-emails"].check
    assert check is not None
    found = ["anna.berg@example.org", "press@example.com", "old@example.net"]
    assert check("\n".join([*found, "tom+help@example.org"]))
    assert not check("\n".join(found))


def test_a_part_of_the_suite_has_the_first_of_each_kind() -> None:
    prompts = load_prompts(SUITES["default"])
    part = first_of_each(prompts, 2)
    assert len(part) == 10
    assert categories(part) == categories(prompts)
    assert part[:2] == prompts[:2]


def test_files_hold_messages_or_prompts(tmp_path: Path) -> None:
    message = {"role": "user", "content": "Hello"}
    file = _file(tmp_path, {"messages": [message], "id": "a", "category": "x"}, "", {"prompt": "B"})
    first, second = load_prompts(file)
    assert (first.id, first.category, first.messages) == ("a", "x", (message,))
    assert (second.id, second.category, second.text) == ("prompt-3", "own", "B")


def test_everything_wrong_with_a_file_is_told_at_once(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Hello"}
    file = _file(
        tmp_path,
        "no json",
        [1],
        {"id": "neither"},
        {"prompt": "both", "messages": [user]},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"messages": [user, {"role": "assistant", "content": "Hi"}]},
        {"prompt": "x", "answer": {"regex": "("}},
        {"prompt": "x", "answer": {"guess": 1}},
        {"prompt": "x", "id": "twice"},
        {"prompt": "y", "id": "twice"},
    )
    with pytest.raises(DFlashError) as caught:
        load_prompts(file)
    message = str(caught.value)
    assert all(f"line {number}:" in message for number in range(1, 10))
    assert "'twice' is there more than once" in message
    assert "line 10" not in message


def test_empty_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DFlashError, match="no prompt"):
        load_prompts(_file(tmp_path, ""))
    with pytest.raises(DFlashError, match="cannot be read"):
        load_prompts(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 17.", 17),
        ("3 + 4 = **7**", 7),
        ("1,250.50 euros", 1250.5),
        ("-3", -3),
        ("none", None),
    ],
)
def test_the_last_number_counts(text: str, number: float | None) -> None:
    assert last_number(text) == number


def test_the_first_json_object_is_found_in_any_text() -> None:
    assert first_object('Sure: {not json} ```json\n{"a": {"b": 1}}\n``` {"c": 2}') == {
        "a": {"b": 1}
    }
    assert first_object("[1, 2] {") is None


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ({"number": 17}, "so 24 - 7 = 17", "17 or 18"),
        ({"regex": "(?s)a.*b"}, "xa\nb", "b a"),
        (
            {"json": {"name": "Lena", "age": 34, "tags": ["A"]}},
            '{"name": "lena ", "age": "34", "tags": ["a"], "more": 1}',
            '{"name": "Lena", "age": 35, "tags": ["a"]}',
        ),
    ],
)
def test_checks(answer: dict[str, Any], right: str, wrong: str) -> None:
    check = read_check(answer)
    assert check(right)
    assert not check(wrong)
