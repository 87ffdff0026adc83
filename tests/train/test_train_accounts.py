"""Nothing vanishes: what was read, left out, cut and used is told, and kept in the report."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from templates import VERIFIER, Done, questions, run, write_rows

from dflash_local.cli import train
from dflash_local.train.conversations import Conversation, dialogue_groups, split, to_line
from dflash_local.train.dialogues import groups
from dflash_local.train.questions import questions_of, read_prompts
from dflash_local.train.verifiers.gguf_template import Template
from dflash_local.train.workspace import _content

SMALL = (
    *("--max-tokens", "8", "--max-length", "128", "--at-once", "8", "--held-out", "0.2"),
    *("--layers", "1", "--block", "5", "--target-layers", "0,1,2", "--threads", "1"),
    *("--steps", "2", "--evaluate-every", "2", "--blocks", "2", "--force"),
)
ANSWER = "you are so right about the river and the town"


def train_on(rows: Path, out: Path, *arguments: object) -> Done:
    return run(
        train.main, "--verifier", VERIFIER, "--out", out, "--prompts", rows, *SMALL, *arguments
    )


def row(question: str, answer: str) -> dict[str, Any]:
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


# ---- what vanishes -------------------------------------------------------------------------


def test_every_row_is_used_or_counted(tmp_path: Path) -> None:
    rows = [row("long " * 300 + str(i), ANSWER) for i in range(10)]
    rows += [row(f"empty {i}", "") for i in range(5)]
    rows += [row("the same question", "the very same answer is given here for you")] * 10
    rows += [row(f"good question {i}", f"{ANSWER}, so be it.") for i in range(20)]
    rows += [row("a long answer", "river " * 300), {"prompt": "the grey cat"}]
    rows += [{"messages": [{"role": "user", "content": 5}]}]
    done = train_on(write_rows(tmp_path / "r.jsonl", rows), tmp_path / "out", "--as-is")
    assert done.status == 0, done.err
    report = json.loads((tmp_path / "out/report.json").read_text())["texts"]
    asked, used = report["asked"], report["used"]
    assert asked["rows"] == {
        "found": 48,
        "left_out": {"a content that is a number, expected text": {"count": 1, "where": "line 48"}},
    }
    assert {why: one["count"] for why, one in asked["prompts"]["left_out"].items()} == {
        "a duplicate": 9,
        "an empty answer": 5,
        "a row without an answer of the assistant's": 1,
    }
    (reason,) = used["texts"]["left_out"]
    assert reason.startswith("a prompt that leaves no room for an answer in 128 tokens")
    assert used["texts"]["left_out"][reason]["count"] == 10
    assert used["cut"] == 1
    assert used["train"] + used["held_out"] == 22 == report["train"] + report["held_out"]
    assert asked["prompts"]["found"] == 47 == 9 + 5 + 1 + 10 + 22
    told = (tmp_path / "out/report.md").read_text()
    for line in (
        "rows: 48 read, 47 used",
        "1 of 48 rows: a content that is a number, expected text (line 48",
        "9 of 47 prompts: a duplicate",
        "5 of 47 prompts: an empty answer",
        "10 of 32 texts: a prompt that leaves no room",
        "1 texts are cut at --max-length",
        "dialogues are held out",
    ):
        assert line in told
        assert line in done.err
    assert '"content": 5' in done.err, "an example"
    assert '"content": 5' not in told, "the report goes with the drafter, and the rows do not"


def test_answers_that_end_at_the_limit_are_told_from_those_that_end(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "r.jsonl", questions(20))
    done = train_on(rows, tmp_path / "out", "--max-tokens", "3")
    assert done.status == 0, done.err
    assert "answers: 0 came to their end, 20 ended at --max-tokens" in done.err
    assert "20 ended at --max-tokens" in (tmp_path / "out/report.md").read_text()


def test_files_of_tokens_are_counted_too(tmp_path: Path) -> None:
    texts = [Conversation((*range(50 + i, 60 + i), 7, 8), 10) for i in range(30)]
    one_token = Conversation((5, 6), 1)
    file = tmp_path / "tokens.jsonl"
    file.write_text("\ufeff" + "".join(map(to_line, [*texts, *texts[:5], one_token])))
    done = run(
        train.main, "--verifier", VERIFIER, "--out", tmp_path / "out", "--tokens", file, *SMALL
    )
    assert "5 of 36 texts: a duplicate" in done.err
    assert "1 of 36 texts: an answer of one token" in done.err


def test_fewer_made_up_turns_than_were_wanted_are_told(tmp_path: Path) -> None:
    done = run(
        train.main, "prompts", "--verifier", VERIFIER, "--out", tmp_path, "--synthesize", "200",
        *SMALL,
    )  # fmt: skip
    assert done.status == 0
    assert "of 200 user turns: it repeats itself" in done.err


# ---- sides ---------------------------------------------------------------------------------


def asked_of(path: Path) -> tuple[list[Conversation], list[int]]:
    """Texts of a file's prompts, and the row of each."""
    template, texts, row_of = Template(VERIFIER), [], []
    for i, dialogue in enumerate(read_prompts(path)):
        for prompt in questions_of(dialogue, template):
            texts.append(Conversation((*prompt, 1, 2, 3), len(prompt), str(i)))
            row_of.append(i)
    return texts, row_of


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_dialogue_lies_on_one_side(tmp_path: Path, share: float) -> None:
    rows = []
    for i in range(60):
        turns = [("user", f"dialogue {i} turn {k}: tell me more") for k in range(3)]
        said = [("assistant", f"Here is answer {k} of {i}.") for k in range(2)]
        mixed = [turn for pair in zip(turns, said, strict=False) for turn in pair] + turns[2:]
        rows.append({"messages": [{"role": role, "content": text} for role, text in mixed]})
    texts, row_of = asked_of(write_rows(tmp_path / "r.jsonl", rows))
    for known in (True, False):
        own = texts if known else [Conversation(text.tokens, text.start) for text in texts]
        train_, held_out = split(own, share)
        sides = [{r for t, r in zip(own, row_of, strict=True) if t in set(side)}
                 for side in (train_, held_out)]  # fmt: skip
        assert len(own) == 180
        assert not sides[0] & sides[1]
        assert 0 < len(sides[1]) < 3 * 60 * share


def grouped(texts: Sequence[str]) -> list[int]:
    """The group of each text."""
    prompts = [tuple(text.encode()) for text in texts]
    return groups(prompts, [""] * len(texts), texts)


def test_a_question_that_only_looks_otherwise_stays_on_one_side() -> None:
    same = ["What is a river?", "what  is a\nriver", "WHAT IS A RIVER!", "Whatis a river?"]
    assert len(set(grouped(same))) == 1
    assert len(set(grouped(["What is a river?", "What is a town?"]))) == 2
    assert len(set(grouped(["2 + 2", "2 + 3", "%", "&"]))) == 4


WORDS = [f"word{i}" for i in range(500)]


def test_texts_that_differ_in_a_word_stay_on_one_side_and_those_of_a_template_do_not() -> None:
    draw = random.Random(1)
    long = [" ".join(draw.choices(WORDS, k=40)) for _ in range(100)]
    changed = [text.replace(text.split()[20], "other", 1) for text in long[:10]]
    found = grouped([*long, *changed])
    assert found[100:] == found[:10]
    assert len(set(found)) == 100
    template = "You help a shop. Be short, polite and right. " * 5 + "The customer asks for {}."
    assert len(set(grouped([template.format(word) for word in WORDS]))) == 500


def test_a_chat_that_was_logged_as_it_grew_is_one_dialogue(tmp_path: Path) -> None:
    turns = [("user", "Who is anna, and where?"), ("assistant", "Here."), ("user", "And leo?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rows = [{"messages": messages[:1]}, {"messages": messages}, *questions(10)]
    texts, row_of = asked_of(write_rows(tmp_path / "r.jsonl", rows))
    found = dialogue_groups([Conversation(text.tokens, text.start) for text in texts])
    assert len({g for g, r in zip(found, row_of, strict=True) if r < 2}) == 1
    assert len(set(found)) == 11


def test_a_dialogue_larger_than_the_share_is_trained_on() -> None:
    large = [Conversation((*range(10, 20), 30 + i, 5), 11, "large") for i in range(60)]
    small = [Conversation((100 + i, 7, 8, 9), 2, f"{i}") for i in range(40)]
    train_, held_out = split([*large, *small], 0.05)
    assert {*large} <= {*train_}
    assert held_out


# ---- the folder ----------------------------------------------------------------------------


def test_a_file_that_was_changed_in_its_middle_is_another(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    data = bytearray((json.dumps(questions(1)[0]) + "\n").encode() * 40_000)
    file.write_bytes(data)
    assert len(data) > 3 << 20
    before, middle = _content(file), len(data) // 2
    for at in range(middle, middle + 3000, 97):
        data[at] ^= 1
        file.write_bytes(data)
        assert _content(file) != before
        data[at] ^= 1
    file.write_bytes(data)
    assert _content(file) == before


def test_a_drafter_is_known_by_what_is_in_its_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name / "drafter"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(name.encode())
    first, second = (_content(tmp_path / name / "drafter") for name in ("a", "b"))
    assert first != second
    (tmp_path / "b" / "drafter" / "model.safetensors").write_bytes(b"a")
    (tmp_path / "b" / "drafter").rename(tmp_path / "b" / "moved")
    assert _content(tmp_path / "b" / "moved") == first


def test_another_file_under_the_same_name_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "r.jsonl", questions(4))
    command = (train.main, "prompts", "--verifier", VERIFIER, "--out", tmp_path / "out", *SMALL)
    assert run(*command, "--prompts", rows).status == 0
    write_rows(rows, questions(5))
    done = run(*command, "--prompts", rows)
    assert done.status == 1
    assert "data prompts: " in done.err
