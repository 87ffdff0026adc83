"""``generate``, ``eval`` and ``sample`` do what the parent's do."""

from __future__ import annotations

import itertools

import dropins
import llama_cpp
import pytest
from conftest import check_drafts
from dropins import PROSE, Pair, greedy, text_of

from dflash_local import ContextError

# pytest finds fixtures by the names of a module.
placement = dropins.placement
drafter = dropins.drafter
shared_pair = dropins.shared_pair
shared_pair_all = dropins.shared_pair_all
pair = dropins.pair
pair_all = dropins.pair_all


def test_generated_tokens_and_what_they_leave_behind(pair: Pair) -> None:
    tokens = pair[0].tokenize(PROSE.encode())
    expected, found = (greedy(llm, tokens, 40) for llm in pair)
    assert found == expected
    check_drafts(pair[1])
    for llm in pair:
        assert llm.n_tokens == len(tokens) + 39
        assert llm.input_ids[: llm.n_tokens].tolist() == [*tokens, *found[:-1]]
        assert list(llm.eval_tokens) == [*tokens, *found[:-1]]


def test_generate_takes_positional_arguments(pair: Pair) -> None:
    tokens = pair[0].tokenize(PROSE.encode())
    positional = (40, 0.95, 0.05, 1.0, 0.0, 1.1)
    expected, found = (
        list(itertools.islice(llm.generate(tokens, *positional), 30)) for llm in pair
    )
    assert found == expected
    assert found == greedy(pair[1], tokens, 30, repeat_penalty=1.1)
    check_drafts(pair[1])


def test_generate_goes_on_with_reset_false(pair: Pair) -> None:
    first, more = (pair[0].tokenize(t.encode()) for t in ("the brown", " owl sees the dog"))
    results = []
    for llm in pair:
        llm.eval(first)
        tokens = greedy(llm, more, 30, reset=False)
        results.append((tokens, llm.n_tokens, llm.input_ids[: llm.n_tokens].tolist()))
    assert results[0] == results[1]
    check_drafts(pair[1])


def test_eval_and_sample_token_by_token(pair: Pair) -> None:
    tokens = pair[0].tokenize(PROSE.encode())
    expected = greedy(pair[0], tokens, 12)
    for llm in pair:
        llm.reset()
        llm._sampler = None  # the one a generator leaves behind would go on counting
        found = []
        for _ in range(12):
            llm.eval([*tokens, *found][llm.n_tokens :])
            found.append(llm.sample(temp=0.0))
        assert found == expected


def test_sample_after_an_abandoned_generator_reads_the_right_row(pair: Pair) -> None:
    tokens = pair[0].tokenize(PROSE.encode())
    for n in range(1, 12):
        after = []
        for llm in pair:
            llm.reset()
            greedy(llm, tokens, n)
            after.append([llm.sample(temp=0.0) for _ in range(2)])
        assert after[0] == after[1]


def test_sent_tokens_are_only_a_proposal(pair: Pair, pair_all: Pair) -> None:
    parent, ours = pair_all[0], pair[1]
    tokens = parent.tokenize(PROSE.encode())
    expected = greedy(parent, tokens, 40)
    found = send_along(ours, tokens, expected)
    assert found == expected
    assert send_along(parent, tokens, expected) == expected
    assert send_along(pair_all[1], tokens, expected) == expected
    assert ours.n_tokens == len(tokens) + len(expected) - 1
    for llm in (ours, pair_all[1]):
        assert 0 < llm.stats.last.n_accepted < llm.stats.last.n_drafted


def send_along(llm: llama_cpp.Llama, tokens: list[int], known: list[int]) -> list[int]:
    """Sends right tokens, wrong ones, none, and right ones with a wrong end, in turn."""
    llm.reset()
    generator = llm.generate(tokens, temp=0.0)
    found = [next(generator)]
    while len(found) < len(known):
        n = len(found)
        sent = [known[n : n + 3], [7, 7], [], [*known[n : n + 2], 9, 9], None][n % 5]
        found.append(generator.send(sent))
    generator.close()
    return found


@pytest.mark.parametrize("by_row", [False, True])
def test_sent_tokens_are_verified_in_one_step(pair: Pair, pair_all: Pair, by_row: bool) -> None:
    ours = (pair_all if by_row else pair)[1]
    tokens = ours.tokenize(PROSE.encode())
    expected = greedy(ours, tokens, 41)
    ours.reset()
    before, ours.width = ours.width, 0  # so that whatever is drafted was sent
    try:
        generator = ours.generate(tokens, temp=0.0)
        found = [next(generator)]
        while len(found) < len(expected):
            n = len(found)
            found.append(generator.send(expected[n : n + 3]))
        generator.close()
    finally:
        ours.width = before
    assert found == expected
    stats = ours.stats.last
    assert stats.n_drafted == stats.n_accepted == 30
    assert stats.n_steps == 10


def test_eval_beyond_the_context_is_an_error_and_leaves_the_model_usable(pair: Pair) -> None:
    _, ours = pair
    expected = text_of(ours(PROSE, max_tokens=20, temperature=0))
    with pytest.raises((ContextError, RuntimeError)):
        ours.eval([5] * 600)
    ours.reset()
    assert text_of(ours(PROSE, max_tokens=20, temperature=0)) == expected
