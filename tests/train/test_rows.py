"""Rows as people have them: files of every kind in tests/cases, and what is read of each."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from dflash_local import DFlashError
from dflash_local.rows import lines
from dflash_local.rows.dialogue import Dialogue, read_dialogue
from dflash_local.rows.reader import Row, read_rows

CASES = Path(__file__).parents[1] / "cases"


def read(name: str | Path) -> list[Row]:
    return list(read_rows(CASES / name, plain=True))


def asked(row: Row) -> Dialogue | str:
    """The dialogue of a row, or why there is none."""
    if row.problem:
        return row.problem
    try:
        return read_dialogue(row.value)
    except ValueError as error:
        return str(error)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}


ANNA, JUNE = ((user(f"Who is {name}?"),) for name in ("anna", "june"))
FUNCTION = {"name": "weather", "arguments": {"city": "oslo"}}
BARE_CALL = {"type": "function", "function": FUNCTION}
CALL = {"id": "c1", **BARE_CALL}


# ---- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "bom.jsonl",
        "bom-in-the-middle.jsonl",
        "bom.txt",
        "utf16.jsonl",
        "utf16-big-endian-without-mark.jsonl",
        "utf16-crlf.txt",
        "crlf-blank-lines-no-end.jsonl",
        "array.json",
        "array-over-lines.json",
        "array-of-conversations.json",
        "objects-over-lines.json",
        "lists.jsonl",
        "texts.jsonl",
        "packed.jsonl.gz",
        "packed-without-its-name.jsonl",
    ],
)
def test_two_questions_are_two_questions_however_they_are_kept(name: str) -> None:
    rows = read(name)
    assert [asked(row) for row in rows] == [Dialogue(ANNA), Dialogue(JUNE)]
    assert not any("\ufeff" in row.excerpt for row in rows)


def test_only_a_new_line_ends_a_line() -> None:
    (row,) = read("separators.jsonl")
    assert asked(row) == Dialogue((user("a\u2028b\u2029c\x85d\ue000e"),))
    first, second = read("separators.txt")
    assert first.value == "page one\x0cpage two\x0b\x1c\x1d\x1e\u2028\x85 end"
    assert second.value == "another"


def test_lines_are_counted_as_editors_count_them() -> None:
    assert [row.where for row in read("crlf-blank-lines-no-end.jsonl")] == ["line 2", "line 5"]
    assert [row.where for row in read("array.json")] == ["row 1", "row 2"]


def test_a_conversation_over_several_lines_is_one_row() -> None:
    assert [asked(row) for row in read("conversation-over-lines.json")] == [Dialogue(ANNA)]


def test_a_quotation_in_plain_text_keeps_its_marks() -> None:
    assert [row.value for row in read("quotations.txt")] == ['"Who" is a word', "Who is june?"]


def test_what_is_no_number_reads_as_nothing() -> None:
    (row,) = read("nan.jsonl")
    assert asked(row) == Dialogue(ANNA, unused=())  # "score" and "tools" say nothing
    (row,) = read("nan-content.jsonl")
    assert asked(row) == "a turn of the role user without content"


@pytest.mark.parametrize(
    ("name", "reason", "good"),
    [
        ("names-twice.jsonl", "the name messages occurs twice in an object", None),
        ("half-pair.jsonl", "half a surrogate pair, which is no text", (user("\U0001f600"),)),
        ("no-utf8.jsonl", "bytes that are no utf-8", ANNA),
    ],
)
def test_a_row_that_can_mean_anything_is_left_out_alone(name: str, reason: str, good: Any) -> None:
    first, second = map(asked, read(name))
    assert first == reason
    assert second == (Dialogue(good) if good else "the name content occurs twice in an object")


def test_a_line_that_was_torn_off_is_told_and_the_rest_is_read() -> None:
    first, torn = read("torn.jsonl")
    assert asked(first) == Dialogue(ANNA)
    assert (torn.where, torn.problem[:7]) == ("line 2", "no JSON")


def test_an_array_that_was_torn_off_is_refused_because_nobody_knows_what_is_missing() -> None:
    with pytest.raises(DFlashError, match=r"row 2: no JSON .* rows behind it cannot be told"):
        read("array-torn.json")


@pytest.mark.parametrize(
    "line", ['{"prompt": "a", "prompt": "b"}', '{"prompt": "a"} and more', '{"prompt": "a"']
)
def test_a_wrong_first_line_makes_no_other_kind_of_file(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{line}\n{{"prompt": "b"}}\n{{broken\n{{"prompt": "c"}}\n')
    first, second, third, fourth = read(file)
    assert first.problem
    assert third.problem
    assert [asked(row) for row in (second, fourth)] == [Dialogue(text="b"), Dialogue(text="c")]


def test_a_zero_in_plain_text_makes_no_other_encoding(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_bytes(b"a\0b is odd\nJ\xc3\xbcne\n")
    assert [row.value for row in read(file)] == ["a\0b is odd", "J\u00fcne"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("packed-torn.jsonl.gz", "cannot be read"),
        ("not-packed.jsonl.gz", "its name says gzip, its bytes do not"),
        ("packed-by-another.jsonl.zst", "packed with zstd; unpack it"),
        ("table.csv", "rows = csv.DictReader(open('table.csv'"),
        ("nowhere.jsonl", "cannot be read"),
        (".", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(name: str, words: str) -> None:
    with pytest.raises(DFlashError) as caught:
        read(name)
    assert words in str(caught.value)


def test_a_line_too_long_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    file = tmp_path / "long.jsonl"
    rows = [{"prompt": "a" * n} for n in (10, 1000, 20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = read(file)
    assert (asked(first), asked(third)) == (Dialogue(text="a" * 10), Dialogue(text="a" * 20))
    assert (second.where, second.problem) == ("line 2", "a line of more than 100 characters")


def test_an_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    """Values that go over the pieces, numbers at their ends, text of several bytes."""
    values = [{"prompt": "ä" * n, "numbers": [n, 12345.5]} for n in range(1, 60_000, 997)]
    for indent in (None, 1):
        file = tmp_path / "array.json"
        file.write_text(json.dumps(values, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert [row.value for row in read(file)] == values


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '[{"a":' * 50_000])
def test_what_is_nested_without_end_is_left_out(tmp_path: Path, text: str) -> None:
    file = tmp_path / "deep.jsonl"
    file.write_text(f"{text}\n")
    (row,) = read(file)
    assert row.problem


# ---- parquet -------------------------------------------------------------------------------


def test_a_table_of_parquet_is_read_without_what_it_fills_up() -> None:
    pytest.importorskip("datasets")
    first, second = read("table.parquet")
    assert asked(first) == Dialogue((user("Weather?"), assistant("", BARE_CALL)))
    assert asked(second) == Dialogue(ANNA, unused=("source",))


def test_without_datasets_the_lines_that_convert_it_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError("No module named 'datasets'")
        return own(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DFlashError) as caught:
        read("table.parquet")
    assert "pip install 'dflash-local[parquet]'" in str(caught.value)
    assert ".to_json('rows.jsonl')" in str(caught.value)


# ---- rows ----------------------------------------------------------------------------------


def test_sharegpt_and_its_calls_are_read() -> None:
    system = {"role": "system", "content": "Be short."}
    (row,) = read("sharegpt.jsonl")
    assert asked(row) == Dialogue((system, *ANNA, assistant("a cat")))
    (row,) = read("sharegpt-tools.jsonl")
    answer = {"role": "tool", "content": "rain"}
    messages = (user("Weather?"), assistant("", BARE_CALL), answer, assistant("It rains."))
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert asked(row) == Dialogue(messages, tools=tools)


def test_alpaca_is_read_with_its_history() -> None:
    first, second = map(asked, read("alpaca.jsonl"))
    turns = (user("Hi"), assistant("Hello"), user("Who is she?\n\nanna"), assistant("a cat"))
    assert first == Dialogue(turns)
    assert second == Dialogue((*JUNE, assistant("a dog")))


def test_a_prompt_keeps_what_answers_it() -> None:
    first, second, third = map(asked, read("prompt-response.jsonl"))
    assert first == Dialogue(text="the grey cat ", answer="sees")
    assert second == Dialogue(text="the grey cat ", answer="likes")
    assert third == Dialogue((user("Hi"), assistant("Ho")))


def test_a_prompt_beside_messages_has_to_be_theirs() -> None:
    first, second = map(asked, read("prompt-and-messages.jsonl"))
    assert first == Dialogue(ANNA)
    assert second == 'expected one of "messages" and "prompt", found both'


def test_roles_have_other_names_elsewhere_and_no_other_ones() -> None:
    first, second = map(asked, read("roles.jsonl"))
    assert first == Dialogue((user("a"), assistant("b"), user("c"), assistant("d")))
    assert second == "a turn of the role narrator, expected user, assistant, system or tool"


def test_calls_of_tools_have_objects_as_arguments_and_never_none_as_content() -> None:
    openai, without, older, broken, nothing = map(asked, read("calls.jsonl"))
    rain = {"role": "tool", "content": "rain"}
    turns = (user("Weather?"), assistant("", CALL))
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    answered = {**rain, "tool_call_id": "c1"}
    assert openai == Dialogue((*turns, answered, assistant("It rains.")), tools=tools)
    assert without == Dialogue(turns)
    bare = (user("Weather?"), assistant("", BARE_CALL), {**rain, "name": "weather"})
    assert older == Dialogue(bare)
    assert broken == "a tool call that is no JSON"
    assert nothing == "a turn of the role assistant without content"


def test_parts_are_texts_or_refused() -> None:
    texts, image, beside, none = map(asked, read("parts.jsonl"))
    assert texts == Dialogue((user("Who is\nanna?"), assistant("a cat")))
    assert image == "a content with a part that is image_url, expected text"
    assert beside == '"images" beside the text, which no drafter reads'
    assert none == "a content that is an empty list, expected text"


def test_what_is_no_text_is_no_content() -> None:
    expected = 'expected messages with "role" and "content"'
    assert list(map(asked, read("contents.jsonl"))) == [
        "a content that is a number, expected text",
        "a content that is true or false, expected text",
        "a content that is an object, expected text",
        "a turn of the role user without content",
        *[expected] * 4,
        'expected "messages" or "prompt", found nothing',
        'expected "messages" or "prompt", found question',
        Dialogue((user("7"),)),  # of plain text, a line
    ]


def test_tools_and_settings_of_a_row_are_kept_and_unknown_fields_named() -> None:
    first, second = map(asked, read("settings.jsonl"))
    assert first == Dialogue(
        (user("Weather?"),),
        settings={"enable_thinking": False},
        unused=("conversation_id", "source"),
    )
    assert second == "no JSON (Expecting value)"
