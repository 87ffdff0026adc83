"""Processors, criteria and logprobs are shown what the parent shows."""

from __future__ import annotations

from typing import Any

import dropins
import llama_cpp
import numpy as np
import pytest
from conftest import check_drafts
from dropins import GRAMMAR, PERSON, PROSE, Pair, content_of, greedy, same, user
from llama_cpp import LlamaGrammar, LogitsProcessorList, StoppingCriteriaList

# pytest finds fixtures by the names of a module.
placement = dropins.placement
drafter = dropins.drafter
shared_pair = dropins.shared_pair
shared_pair_all = dropins.shared_pair_all
pair = dropins.pair
pair_all = dropins.pair_all


class Recorder:
    """A logits processor and stopping criterion that keeps what it is shown."""

    def __init__(self, stop_after: int = 1000, change: int | None = None) -> None:
        self.seen: list[list[int]] = []
        self.rows: list[Any] = []
        self.stop_after = stop_after
        self.change = change

    def process(self, input_ids: Any, scores: Any) -> Any:
        self.seen.append(input_ids.tolist())
        self.rows.append(np.array(scores))
        if self.change is not None:
            scores = np.copy(scores)
            scores[self.change] = -np.inf
        return scores

    def stop(self, input_ids: Any, logits: Any) -> bool:
        self.seen.append(input_ids.tolist())
        self.rows.append(np.array(logits))
        return len(self.seen) >= self.stop_after


@pytest.mark.parametrize("change", [None, 270], ids=["reads", "forbids a token"])
def test_logits_processors_are_shown_the_same(pair: Pair, change: int | None) -> None:
    recorders = [Recorder(change=change) for _ in pair]
    expected, found = (
        llm(
            PROSE,
            max_tokens=40,
            temperature=0,
            logits_processor=LogitsProcessorList([recorder.process]),
        )
        for llm, recorder in zip(pair, recorders, strict=True)
    )
    same(found, expected)
    check_drafts(pair[1])
    assert recorders[1].seen == recorders[0].seen
    assert len(recorders[1].seen) == 40
    np.testing.assert_allclose(recorders[1].rows, recorders[0].rows, atol=1e-3)


def test_the_parents_own_logits_processor(pair: Pair) -> None:
    prompt = "<|im_start|>user\nWho is anna?<|im_end|>\n<|im_start|>assistant\n"
    answers = []
    for llm in pair:
        longer = llama_cpp.llama.MinTokensLogitsProcessor(45, llm.token_eos())
        answers.append(
            llm(
                prompt, max_tokens=60, temperature=0, logits_processor=LogitsProcessorList([longer])
            )
        )
    same(*answers)
    assert answers[1]["usage"]["completion_tokens"] >= 45
    check_drafts(pair[1])


def test_processors_and_logit_bias_with_a_grammar(pair: Pair) -> None:
    def options() -> dict[str, Any]:
        return {
            "grammar": LlamaGrammar.from_string(GRAMMAR),
            "logits_processor": LogitsProcessorList([Recorder(change=290).process]),
            "temperature": 1.0,
            "seed": 2,
            "max_tokens": 60,
        }

    expected, found = (llm(PERSON, **options()) for llm in pair)
    same(found, expected)
    check_drafts(pair[1], rejected=False)


@pytest.mark.parametrize("stop_after", [1, 2, 9, 23])
def test_stopping_criteria_are_shown_the_same(pair_all: Pair, stop_after: int) -> None:
    recorders = [Recorder(stop_after) for _ in pair_all]
    expected, found = (
        llm(PROSE, max_tokens=40, temperature=0, stopping_criteria=StoppingCriteriaList([r.stop]))
        for llm, r in zip(pair_all, recorders, strict=True)
    )
    same(found, expected)
    assert recorders[1].seen == recorders[0].seen
    if stop_after > 8:
        check_drafts(pair_all[1])


def test_stopping_criteria_see_the_logits_their_token_came_from(pair: Pair) -> None:
    """The parent shows the prompt's first row, or uninitialised memory without logits_all."""
    recorder = Recorder()
    tokens = pair[0].tokenize(PROSE.encode())
    found = greedy(pair[1], tokens, 30, stopping_criteria=StoppingCriteriaList([recorder.stop]))
    assert len(recorder.rows) == 30
    assert [int(np.argmax(row)) for row in recorder.rows] == found
    check_drafts(pair[1])


def test_the_same_answers_with_logits_all(pair: Pair, pair_all: Pair) -> None:
    expected = pair[0](PROSE, max_tokens=60, temperature=0)
    same(pair_all[1](PROSE, max_tokens=60, temperature=0), expected)
    check_drafts(pair_all[1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", [False, True])
def test_logprobs_equal_the_parents(pair_all: Pair, stream: bool, echo: bool) -> None:
    expected, found = (
        llm(PROSE, max_tokens=30, temperature=0, logprobs=3, stream=stream, echo=echo)
        for llm in pair_all
    )
    ours = collect_logprobs(found)
    theirs = collect_logprobs(expected)
    check_drafts(pair_all[1])
    assert [x[:2] for x in ours] == [x[:2] for x in theirs]
    assert len(ours) >= 30
    for (_, _, p, tops), (_, _, q, their_tops) in zip(ours, theirs, strict=True):
        assert p == pytest.approx(q, abs=1e-4)
        assert (tops is None) == (their_tops is None)
        if tops is not None:
            assert tops == pytest.approx(their_tops, abs=1e-4)


def collect_logprobs(response: Any) -> list[tuple[str, int, float | None, Any]]:
    chunks = [response] if isinstance(response, dict) else list(response)
    out = []
    for chunk in chunks:
        logprobs = chunk["choices"][0]["logprobs"]
        if logprobs is not None:
            keys = ("tokens", "text_offset", "token_logprobs", "top_logprobs")
            out += zip(*(logprobs[key] for key in keys), strict=True)
    return out


def test_chat_logprobs_equal_the_parents(pair_all: Pair) -> None:
    expected, found = (
        llm.create_chat_completion(
            user("Who is anna?"), temperature=0, logprobs=True, top_logprobs=2
        )
        for llm in pair_all
    )
    check_drafts(pair_all[1])
    assert content_of(found) == content_of(expected)
    ours, theirs = (r["choices"][0]["logprobs"]["content"] for r in (found, expected))
    assert len(ours) > 20
    assert [x["token"] for x in ours] == [x["token"] for x in theirs]
    assert [x["logprob"] for x in ours] == pytest.approx([x["logprob"] for x in theirs], abs=1e-4)


def test_logprobs_without_logits_all_is_the_parents_error(pair: Pair) -> None:
    for llm in pair:
        with pytest.raises(ValueError, match="logits_all"):
            llm(PROSE, logprobs=1)


def test_scores_of_every_position_equal_the_parents(pair_all: Pair) -> None:
    tokens = pair_all[0].tokenize(PROSE.encode())
    for llm in pair_all:
        greedy(llm, tokens, 25)
    parent, ours = pair_all
    assert ours.n_tokens == parent.n_tokens
    np.testing.assert_allclose(ours._scores, parent._scores, atol=1e-3)
    assert len(ours.eval_logits) == ours.n_tokens
    check_drafts(ours)
