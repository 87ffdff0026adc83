"""What is trained on: prompts, conversations, splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import training
from training import VERIFIER

from dflash_local import DFlashError
from dflash_local.train import ngram
from dflash_local.train.capture import Reading
from dflash_local.train.conversations import (
    Conversation,
    batches,
    cut,
    read_conversations,
    split,
    to_line,
)
from dflash_local.train.questions import as_they_are, questions_of, read_prompts
from dflash_local.train.verifiers.gguf_template import Template

# pytest finds fixtures by the names of a module.
template = training.template


# ---- prompts -------------------------------------------------------------------------------


def test_prompts_come_in_four_spellings(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Who is anna?"}]
    lines = [json.dumps({"messages": messages}), json.dumps(messages), "Who is anna?"]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join([*lines, "", json.dumps({"prompt": "the grey cat"})]))
    *chats, text = read_prompts(file)
    assert all(chat.messages == tuple(messages) for chat in chats)
    assert text.text == "the grey cat"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": 1}', 'line 2: expected "messages" or "prompt", found question'),
        ("[]", 'line 2: expected messages with "role" and "content"'),
        ('{"messages": [{"role": "user"}]}', 'line 2: expected messages with "role"'),
        ("{", "line 2: "),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"Who is anna?\n{line}\n")
    with pytest.raises(DFlashError, match=words):
        read_prompts(file)


def test_every_turn_of_a_conversation_is_asked_and_kept(tmp_path: Path, template: Template) -> None:
    messages = [
        {"role": "user", "content": "Who is anna?"},
        {"role": "assistant", "content": "anna is here."},
        {"role": "user", "content": "Who is leo?"},
        {"role": "assistant", "content": "leo is there."},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(messages) + "\n")
    (asked,) = read_prompts(file)
    questions = list(questions_of(asked, template))
    assert questions == [template.prompt(messages[:1]), template.prompt(messages[:3])]
    kept = list(as_they_are(asked, template))
    assert [list(text.prompt) for text in kept] == questions
    assert template.decode(kept[1].tokens[kept[1].start :]).startswith("leo is there.")


def test_thinking_is_switched_where_the_template_has_a_switch() -> None:
    messages = [{"role": "user", "content": "Who is anna?"}]
    thinking = Template(VERIFIER, thinking=True)
    with pytest.raises(DFlashError, match="no switch for thinking"):
        thinking.prompt(messages)
    switch = "{{ messages[0].content }}{% if enable_thinking %} Think.{% else %} Say.{% endif %}"
    texts = []
    for template in (thinking, Template(VERIFIER, thinking=False)):
        template.llm.metadata["tokenizer.chat_template"] = switch
        texts.append(template.decode(template.prompt(messages)))
    assert texts == ["Who is anna? Think.", "Who is anna? Say."]


def test_an_ngram_drafter_goes_on_as_the_last_place_that_ended_alike_did() -> None:
    assert ngram.propose([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 3) == [8, 1, 2]
    assert ngram.propose([1, 2, 9, 3, 2], 4) == [9, 3, 2]
    assert ngram.propose([1, 2, 3], 4) == []
    text = Conversation((5, 1, 2, 9, 1, 2, 9), 2)
    ids = np.array([[1], [2], [9], [1], [2], [7], [4]], np.int32)  # the best token after each
    reading = Reading(np.zeros((7, 1), np.float32), ids, np.zeros((7, 1), np.float32))
    # After 9, 1: "2" as the verifier says, then "9" where it says 7. After 9: 1, 2, 9 all wrong.
    assert ngram.accepted_drafts([(text, reading, [4])], 3).tolist() == [1]
    assert ngram.accepted_drafts([(text, reading, [4, 5])], 3).tolist() == [1, 0]


# ---- conversations -------------------------------------------------------------------------


def test_conversations_survive_a_file(tmp_path: Path) -> None:
    texts = [Conversation((1, 2, 3), 2), Conversation((4, 5), 1)]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(map(to_line, texts)))
    assert read_conversations(file) == texts


@pytest.mark.parametrize("line", ['{"tokens": [1, 2]}', '{"tokens": [1], "start": 1}', "nothing"])
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(to_line(Conversation((1, 2), 1)) + line + "\n")
    with pytest.raises(DFlashError, match="line 2"):
        read_conversations(file)


def test_a_fixed_share_is_held_out_by_prompt() -> None:
    texts = [Conversation((*map(int, str(i)), 7, i % 5, 3), 5) for i in range(10_000, 14_000)]
    train, held_out = split(texts, 0.1)
    assert {*train, *held_out} == set(texts)
    assert 0.07 < len(held_out) / len(texts) < 0.13
    asked = {text.prompt for text in held_out}
    assert not asked & {text.prompt for text in train}, "answers to one prompt stay together"
    other_answers = [Conversation((*text.tokens, 9), text.start) for text in texts]
    assert {text.prompt for text in split(other_answers, 0.1)[1]} == asked


def test_one_prompt_at_least_is_held_out() -> None:
    texts = [Conversation((i, 1, 2), 1) for i in range(8)]
    train, held_out = split(texts, 1e-9)
    assert (len(train), len(held_out)) == (7, 1)
    assert split([], 0.1) == ([], [])


def test_a_cut_conversation_has_an_answer_or_is_none() -> None:
    text = Conversation(tuple(range(10)), 6)
    assert cut(text, 8) == Conversation(tuple(range(8)), 6)
    assert cut(text, 7) is None


def test_an_epoch_has_each_text_once_and_texts_of_like_length_together() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(10, 500, 1001)]
    made = batches(lengths, 4, epoch=0, seed=1)
    indices = [i for batch in made for i in batch]
    assert len(indices) == len(set(indices)) == 1000
    spread = np.mean([np.ptp([lengths[i] for i in batch]) for batch in made])
    assert spread < 0.2 * np.ptp(lengths)
    assert made == batches(lengths, 4, epoch=0, seed=1)
    assert made != batches(lengths, 4, epoch=1, seed=1)
