"""A grammar is asked about the likeliest tokens only, and every token stays what it was.

Chains are compared with libllama's own way through them, over rows of logits that are written into
the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exactness import END, ONE_THREAD, tokenize
from grammars import GRAMMARS, Chain, Floats, last_row
from llama_cpp.llama_grammar import JSON_GBNF, LlamaGrammar

import dflash_local
from dflash_local import Finish, Session

MakeLlama = Callable[..., Any]
N_ROWS = 150
MARS = "Describe the planet Mars as JSON."

GRAMMAR: Callable[[Chain], None] = Chain.add_counted
GREEDY: Callable[[Chain], None] = Chain.add_greedy
LAST_N, SEED = 24, 5


def top_k(k: int) -> Callable[[Chain], None]:
    return lambda chain: chain.add_top_k(k)


def top_p(p: float) -> Callable[[Chain], None]:
    return lambda chain: chain.add_top_p(p)


def min_p(p: float) -> Callable[[Chain], None]:
    return lambda chain: chain.add_min_p(p)


def typical(p: float) -> Callable[[Chain], None]:
    return lambda chain: chain.add_typical(p)


def temp(t: float) -> Callable[[Chain], None]:
    return lambda chain: chain.add_temp(t)


def penalties(repeat: float, frequency: float, presence: float) -> Callable[[Chain], None]:
    return lambda chain: chain.add_penalties(0, LAST_N, repeat, frequency, presence)


def processor(chain: Chain) -> None:
    """What llama_cpp makes of logits processors."""

    def apply(candidates: Any) -> None:
        for i in range(0, candidates.contents.size, 7):
            candidates.contents.data[i].logit -= 2.0

    chain.add_custom(apply)


def dist(chain: Chain) -> None:
    chain.add_dist(SEED)


def mirostat(chain: Chain) -> None:
    chain.add_mirostat(384, SEED, 5.0, 0.1, 100)


def mirostat_2(chain: Chain) -> None:
    chain.add_mirostat_v2(SEED, 5.0, 0.1)


def xtc(chain: Chain) -> None:
    chain.add_xtc(0.5, 0.1, 1, SEED)


def dynamic_temp(chain: Chain) -> None:
    chain.add_temp_ext(0.8, 0.5, 1.0)


#: Chains, and whether the grammar need not see whole rows.
CHAINS: dict[str, tuple[tuple[Callable[[Chain], None], ...], bool]] = {
    "greedy": ((GRAMMAR, GREEDY), True),
    "penalties, greedy": ((penalties(1.3, 0.2, 0.4), GRAMMAR, GREEDY), True),
    "rewards, greedy": ((penalties(0.7, -0.5, -1.0), GRAMMAR, GREEDY), True),
    "processor, greedy": ((processor, penalties(1.0, 0, 0), GRAMMAR, GREEDY), True),
    "defaults": (
        (
            penalties(1.0, 0, 0),
            GRAMMAR,
            *(top_k(40), typical(1.0), top_p(0.95), min_p(0.05), temp(0.8), dist),
        ),
        True,
    ),
    "top-k": ((GRAMMAR, top_k(5), temp(1.5), dist), True),
    "many, temp": ((GRAMMAR, top_k(90), temp(0.8), dist), True),
    "many, little cut": ((GRAMMAR, top_k(90), top_p(0.9999), min_p(1e-9), temp(0.8), dist), True),
    "top-k, penalties": ((penalties(1.3, 0.2, 0.4), GRAMMAR, top_k(8), dist), True),
    "top-k, typical": ((GRAMMAR, top_k(6), typical(0.7), temp(1.2), dist), True),
    "top-k, top-p": ((GRAMMAR, top_k(30), top_p(0.8), temp(1.2), dist), True),
    "top-k, min-p": ((GRAMMAR, top_k(30), min_p(0.2), dist), True),
    "temp, top-p": ((GRAMMAR, top_k(30), temp(2.0), top_p(0.9), min_p(0.02), dist), True),
    "top-k, others": ((GRAMMAR, top_k(6), dynamic_temp, xtc, mirostat_2), True),
    "processor, top-k": ((processor, GRAMMAR, top_k(40), top_p(0.9), dist), True),
    "min-p": ((GRAMMAR, min_p(0.1), temp(1.5), dist), True),
    "min-p, top-p": ((GRAMMAR, min_p(0.05), top_p(0.8), typical(0.9), dist), True),
    "top-p": ((GRAMMAR, top_p(0.9), min_p(0.05), dist), False),
    "distribution": ((GRAMMAR, dist), False),
    "mirostat": ((GRAMMAR, mirostat), False),
    "mirostat 2": ((GRAMMAR, mirostat_2), False),
    "penalties last": ((GRAMMAR, penalties(1.3, 0.2, 0.4), GREEDY), False),
    "top-k first": ((top_k(383), GRAMMAR, GREEDY), False),
}


@pytest.fixture(scope="module")
def llm(
    make_module_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> dflash_local.Llama:
    llm: dflash_local.Llama = make_module_llama(
        dflash_local.Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **ONE_THREAD
    )
    return llm


@pytest.fixture
def session(llm: dflash_local.Llama) -> Session:
    assert llm.session is not None
    llm.session.rewind(0)  # tests write into the logits that are at hand
    llm.session.sync(tokenize(llm, "the"))
    return llm.session


# ---- the same tokens ------------------------------------------------------------------------


def _rows(chain: Chain, n_vocab: int, *, ties: bool) -> Iterator[Floats]:
    """Random logits; mostly what the grammar allows is among the likeliest, as in good models."""
    rng = np.random.default_rng(1)
    while True:
        row = rng.normal(0, 3, n_vocab).astype(np.float32)
        allowed = chain.allowed(n_vocab)
        if rng.random() < 0.8:
            some = rng.choice(allowed, min(len(allowed), int(rng.integers(1, 60))), replace=False)
            row[some] += rng.exponential(8)
        if rng.random() < 0.1:
            row[rng.choice(n_vocab, 300)] = -np.inf
            row[allowed[0]] = 0
        yield np.round(row) if ties else row


@pytest.mark.slow
@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("grammar", GRAMMARS)
@pytest.mark.parametrize("name", CHAINS)
def test_the_token_is_that_of_the_whole_row(
    name: str, grammar: str, ties: bool, llm: dflash_local.Llama, session: Session
) -> None:
    add, asks_less = CHAINS[name]
    ours, stock = (Chain(llm, GRAMMARS[grammar], *add) for _ in range(2))
    place = last_row(llm)
    rows = _rows(stock, llm.n_vocab(), ties=ties)
    with closing(ours), closing(stock):
        for _ in range(N_ROWS):
            row = next(rows)
            place[:] = row
            expected = stock.sample(llm._ctx, -1)
            place[:] = row
            assert session.sample(-1, ours) == expected
            if expected in END:
                ours.reset()
                stock.reset()
    n_whole = sum(n >= llm.n_vocab() - 1 for n in ours.seen)
    # Equals come in the order in which the whole row is sorted.
    assert ties or (n_whole < N_ROWS) == asks_less


@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("name", CHAINS)
def test_without_a_grammar_too_the_token_is_that_of_the_whole_row(
    name: str, ties: bool, llm: dflash_local.Llama, session: Session
) -> None:
    add = [sampler for sampler in CHAINS[name][0] if sampler is not GRAMMAR]
    ours, stock = (Chain(llm, GRAMMARS["letters"], *add) for _ in range(2))
    rng = np.random.default_rng(2)
    place = last_row(llm)
    with closing(ours), closing(stock):
        for _ in range(N_ROWS):
            row = rng.normal(0, 3, llm.n_vocab()).astype(np.float32)
            row[rng.choice(llm.n_vocab(), int(rng.integers(0, 384)))] = -np.inf
            place[:] = row = np.round(row) if ties else row
            expected = stock.sample(llm._ctx, -1)
            place[:] = row
            assert session.sample(-1, ours) == expected


@pytest.mark.parametrize("last_equal", [200, 383])
def test_equals_that_are_not_asked_about_count_too(
    last_equal: int, llm: dflash_local.Llama, session: Session
) -> None:
    """One allowed token is among the first that are asked about, its equals are not."""
    add = (GRAMMAR, top_k(5), top_p(0.1), dist)
    ours, stock = (Chain(llm, GRAMMARS["letters"], *add) for _ in range(2))
    with closing(ours), closing(stock):
        allowed = stock.allowed(llm.n_vocab())
        row = np.full(llm.n_vocab(), -5, np.float32)
        forbidden = np.setdiff1d(np.arange(llm.n_vocab()), allowed)
        row[forbidden[:63]] = 5
        row[allowed[allowed <= last_equal]] = 1
        place = last_row(llm)
        for _ in range(4):
            place[:] = row
            expected = stock.sample(llm._ctx, -1)
            place[:] = row
            assert session.sample(-1, ours) == expected


@pytest.mark.slow
def test_an_answer_in_json_asks_about_a_small_part_of_a_large_vocabulary(
    make_llama: MakeLlama, smollm2: Path, smollm2_drafter: Path
) -> None:
    llm = make_llama(dflash_local.Llama, smollm2, drafter=smollm2_drafter, **ONE_THREAD)
    llm.width = 0
    prompt = tokenize(llm, f"<|im_start|>user\n{MARS}<|im_end|>\n<|im_start|>assistant\n")
    grammar = LlamaGrammar.from_string(JSON_GBNF, verbose=False)
    for name in ("greedy", "defaults"):
        ours, stock = (Chain(llm, grammar, *CHAINS[name][0]) for _ in range(2))
        with closing(ours), closing(stock):
            llm.session.sync(prompt)
            llm.session.anchor(_sampled_twice(llm, ours, stock, -1))
            for _ in range(30):
                llm.session.propose()
                llm.session.commit([_sampled_twice(llm, ours, stock, 0)])
        assert sum(ours.seen) < sum(stock.seen) / 20


def _sampled_twice(llm: dflash_local.Llama, ours: Chain, stock: Chain, row: int) -> int:
    assert llm.session is not None
    token = llm.session.sample(row, ours)
    assert stock.sample(llm._ctx, row) == token
    return token


# ---- drafts -----------------------------------------------------------------------------------

#: The drafter does not know which letters the text lacks.
LIPOGRAM = LlamaGrammar.from_string("root ::= [a-df-hj-z0-9,. ]+", verbose=False)


def _answer(session: Session, prompt: list[int], chain: Chain, *, rejection: bool) -> list[int]:
    session.sync(prompt)
    tokens: list[int] = []
    while len(tokens) < 40:
        step = session.step(chain, rejection=rejection)
        tokens += step.tokens
        if step.finish != Finish.none:
            break
    return tokens


@pytest.mark.parametrize("rejection", [False, True], ids=["exact", "rejection"])
def test_the_cut_changes_no_token_and_drops_no_right_draft(
    rejection: bool, llm: dflash_local.Llama, session: Session
) -> None:
    """For rejection sampling the drafts that are cut were drawn, and are rejected all the same."""
    prompt = tokenize(llm, "the")
    n_drafted, n_accepted = {}, {}
    answers: dict[bool, list[list[int]]] = {}
    for named in (True, False):
        before = session.total_stats
        answers[named] = []
        for seed in range(12):
            with closing(Chain(llm, LIPOGRAM, GRAMMAR, top_k(40), temp(1.2), named=named)) as chain:
                chain.add_dist(seed)
                answers[named].append(_answer(session, prompt, chain, rejection=rejection))
        after = session.total_stats
        n_drafted[named] = after.n_drafted - before.n_drafted
        n_accepted[named] = after.n_accepted - before.n_accepted
    assert answers[True] == answers[False]
    assert len({tuple(answer) for answer in answers[True]}) > 3
    assert 0 < n_accepted[True] == n_accepted[False]
    assert n_drafted[True] < n_drafted[False]


def _verified(llm: dflash_local.Llama, session: Session, chain: Chain, text: str) -> str:
    """What is left of a draft."""
    draft = session.propose(tokenize(llm, text), sampler=chain)
    return llm.detokenize(draft.tokens, special=True).decode()


def _begin(llm: dflash_local.Llama, session: Session, chain: Chain, text: str) -> None:
    """A timeline that ends with `text` as the answer so far, its last token the anchor."""
    tokens = tokenize(llm, text)
    session.sync([*tokenize(llm, "the"), *tokens[:-1]])
    session.anchor(tokens[-1])
    for token in tokens:
        chain.accept(token)


def test_a_draft_ends_before_the_first_token_that_is_forbidden(
    llm: dflash_local.Llama, session: Session
) -> None:
    grammar = LlamaGrammar.from_string('root ::= "a" [a-z ]+ "." [0-9]*', verbose=False)
    with closing(Chain(llm, grammar, GRAMMAR, GREEDY)) as chain:
        _begin(llm, session, chain, "a")
        assert _verified(llm, session, chain, " brown.12") == " brown.12"
        assert _verified(llm, session, chain, " brown.12x3") == " brown.12"
        assert _verified(llm, session, chain, "Z") == ""
        # The chain itself was not moved on.
        assert _verified(llm, session, chain, " brown.12") == " brown.12"


def test_nothing_is_verified_after_an_end_of_generation(
    llm: dflash_local.Llama, session: Session
) -> None:
    grammar = LlamaGrammar.from_string('root ::= "a" [a-z]*', verbose=False)
    with closing(Chain(llm, grammar, GRAMMAR, GREEDY)) as chain:
        _begin(llm, session, chain, "a")
        assert _verified(llm, session, chain, "b<|im_end|>c") == "b<|im_end|>"
    grammar = LlamaGrammar.from_string('root ::= "a" [a-z]* "."', verbose=False)
    with closing(Chain(llm, grammar, GRAMMAR, GREEDY)) as chain:
        _begin(llm, session, chain, "a")
        assert _verified(llm, session, chain, "b<|im_end|>c") == "b"


def test_a_grammar_that_waits_for_its_trigger_forbids_nothing_before(
    llm: dflash_local.Llama, session: Session
) -> None:
    grammar = LlamaGrammar.from_string('root ::= "(" [0-9]+ ")"', verbose=False)

    def lazy(chain: Chain) -> None:
        chain.add_grammar_lazy_patterns(llm._model, grammar, [r"[\s\S]*?(\([\s\S]*)"], [])

    with closing(Chain(llm, grammar, lazy, GREEDY)) as chain:
        _begin(llm, session, chain, "a")
        assert _verified(llm, session, chain, "bc <|im_end|>de") == "bc <|im_end|>"
        assert _verified(llm, session, chain, "bc de") == "bc de"
        assert _verified(llm, session, chain, "bc (12)") == "bc (12)"
        assert _verified(llm, session, chain, "bc (12a") == "bc (12"


def test_a_draft_that_is_no_token_is_told_of(llm: dflash_local.Llama, session: Session) -> None:
    with closing(Chain(llm, GRAMMARS["letters"], GRAMMAR, GREEDY)) as chain:
        _begin(llm, session, chain, "a")
        with pytest.raises(ValueError, match="not in the vocabulary"):
            session.propose([llm.n_vocab()], sampler=chain)
