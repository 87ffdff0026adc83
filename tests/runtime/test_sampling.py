"""Drafting changes nothing about sampled answers: the same seed gives the same text, and the
first tokens of many answers are distributed as the verifier's own logits say. With rejection
sampling a seed gives another text, and the distribution is the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from exactness import (
    DRAFTERS,
    END,
    ONE_THREAD,
    assert_mixed,
    counts,
    generated,
    logits_after,
    tiny_prompts,
    tokenize,
)
from llama_cpp._internals import LlamaSampler

import dflash_local
from dflash_local import Finish, Session

MakeLlama = Callable[..., Any]
Outcome = tuple[int, ...]

TEMPERATURE_1: dict[str, Any] = {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature 1": TEMPERATURE_1,
    "defaults": {},
    "penalties": {**TEMPERATURE_1, "repeat_penalty": 1.3, "presence_penalty": 0.5},
    "mirostat": {**TEMPERATURE_1, "mirostat_mode": 2},
}

#: Beginnings after which the next three tokens are open, and drafts hold among the open ones: a
#: wrong rule of acceptance shows there.
BEGINNINGS = {
    "dflash-b8": ("\nStar", "4"),
    "dflash2-b8": ("Tell me about",),
    "dspark-b8": ("w",),
}
#: And whether drafts are drawn and rejected: DFlash2's have no distribution.
DISTRIBUTIONS = [
    (name, beginning, rejection)
    for name, beginnings in BEGINNINGS.items()
    for beginning in beginnings
    for rejection in (False, True)
    if not (rejection and name == "dflash2-b8")
]
N_ANSWERS = 2500
N_TOKENS = 3
#: Outcomes expected less often than this are counted together.
LEAST_EXPECTED = 8.0


@pytest.fixture(scope="module")
def stock(make_module_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    return make_module_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)


def _with_drafter(
    make: MakeLlama, verifier: Path, drafters: dict[str, Path], name: str
) -> dflash_local.Llama:
    llm: dflash_local.Llama = make(
        dflash_local.Llama, verifier, drafter=drafters[name], **ONE_THREAD
    )
    return llm


def _session(llm: dflash_local.Llama) -> Session:
    assert llm.session is not None
    llm.width = 3
    return llm.session


# ---- the same seed -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, "temperature 1") for name in DRAFTERS),
        *(("dflash-b8", settings) for settings in list(SETTINGS)[1:]),
    ],
)
def test_a_seed_gives_the_same_tokens_as_plain_decoding(
    name: str,
    settings: str,
    stock: llama_cpp.Llama,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    llm = _with_drafter(make_llama, tiny_verifier, tiny_drafters, name)
    for seed, tokens in enumerate(tiny_prompts(stock, 10, seed=5)):
        answers = []
        for model in (stock, llm):
            model.set_seed(seed)
            with closing(model.generate(tokens, **SETTINGS[settings])) as generator:
                answers.append(generated(generator, 48))
        assert answers[1] == answers[0], f"seed {seed}"
    assert_mixed((0, 0), counts(llm))


def test_a_seed_gives_the_same_completion_as_plain_decoding(
    stock: llama_cpp.Llama,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    llm = _with_drafter(make_llama, tiny_verifier, tiny_drafters, "dflash-b8")
    texts: list[list[str]] = []
    for model in (stock, llm):
        answers = [
            model.create_completion("the", max_tokens=48, temperature=1.0, seed=seed)
            for seed in range(8)
        ]
        texts.append([answer["choices"][0]["text"] for answer in answers])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 4
    assert_mixed((0, 0), counts(llm))


# ---- the distribution ----------------------------------------------------------------------


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    out: npt.NDArray[np.float64] = weights / weights.sum()
    return out


def _probabilities(stock: llama_cpp.Llama, tokens: list[int]) -> dict[Outcome, float]:
    """The likely outcomes of the next three tokens and their exact probabilities."""
    least = LEAST_EXPECTED / N_ANSWERS
    found: dict[Outcome, float] = {}
    open_ends: list[tuple[Outcome, float]] = [((), 1.0)]
    while open_ends:
        so_far, probability = open_ends.pop()
        if len(so_far) == N_TOKENS or (so_far and so_far[-1] in END):
            found[so_far] = probability
            continue
        for token, p in enumerate(_softmax(logits_after(stock, [*tokens, *so_far]))):
            if probability * p >= least:
                open_ends.append(((*so_far, token), probability * p))
    return found


def _p_value(expected: dict[Outcome, float], outcomes: Iterable[Outcome]) -> float:
    """Chi-squared: how likely outcomes this far from the expected ones are."""
    stats = pytest.importorskip("scipy.stats")
    counted = Counter(outcomes)
    n = counted.total()
    observed = [counted[outcome] for outcome in expected]
    wanted = [n * probability for probability in expected.values()]
    # Last, everything else.
    observed.append(n - sum(observed))
    wanted.append(n - sum(wanted))
    assert min(wanted) >= LEAST_EXPECTED / 2
    return float(stats.chisquare(observed, wanted).pvalue)


def _outcome(tokens: list[int]) -> Outcome:
    return tuple(generated(tokens, N_TOKENS))


def _drafted_answer(
    session: Session, tokens: list[int], seed: int, *, rejection: bool = False
) -> tuple[Outcome, int]:
    """Three tokens, and how many of them are accepted drafts."""
    sampler = LlamaSampler()
    sampler.add_dist(seed)
    session.sync(tokens)
    answer: list[int] = []
    n_accepted = 0
    with closing(sampler):
        while len(answer) < N_TOKENS:
            step = session.step(sampler, rejection=rejection)
            n_accepted += min(step.n_accepted, N_TOKENS - len(answer))
            answer += step.tokens
            if step.finish != Finish.none:
                break
    return _outcome(answer), n_accepted


@pytest.mark.slow
@pytest.mark.parametrize(("name", "beginning", "rejection"), DISTRIBUTIONS)
def test_the_first_three_tokens_are_distributed_as_the_verifier_says(
    name: str,
    beginning: str,
    rejection: bool,
    stock: llama_cpp.Llama,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    llm = _with_drafter(make_llama, tiny_verifier, tiny_drafters, name)
    tokens = tokenize(stock, beginning)
    expected = _probabilities(stock, tokens)
    assert len(expected) >= 8
    session = _session(llm)
    answers = [
        _drafted_answer(session, tokens, seed, rejection=rejection) for seed in range(N_ANSWERS)
    ]
    assert _p_value(expected, (outcome for outcome, _ in answers)) > 1e-3
    # Among these tokens, not behind them.
    assert sum(n_accepted for _, n_accepted in answers) > N_ANSWERS / (4 if rejection else 3)
    assert_mixed((0, 0), counts(llm))


# ---- rejection sampling: another seed's luck, the same distribution ------------------------


@pytest.mark.slow
def test_rejection_sampling_at_adaptive_widths_has_the_same_distribution(
    stock: llama_cpp.Llama,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    llm = _with_drafter(make_llama, tiny_verifier, tiny_drafters, "dflash-b8")
    tokens = tokenize(stock, BEGINNINGS["dflash-b8"][0])
    session = _session(llm)
    llm.width = None
    usual = session.learned()
    assert usual is not None
    plain = usual["verify"][0]
    rows_for_free = {
        "n_context": 0,
        "verify": [plain] * len(usual["verify"]),
        "draft": [plain / 100] * len(usual["draft"]),
        "verify_doubt": [0.0] * len(usual["verify"]),
        "draft_doubt": [0.0] * len(usual["draft"]),
    }
    answers = []
    for seed in range(N_ANSWERS):
        session.restore(contexts=[rows_for_free], accepted=usual["accepted"])
        answers.append(_drafted_answer(session, tokens, seed, rejection=True))
    outcomes = (outcome for outcome, _ in answers)
    assert _p_value(_probabilities(stock, tokens), outcomes) > 1e-3
    assert sum(n_accepted for _, n_accepted in answers) > N_ANSWERS / 10


def _answers(llm: Any, tokens: list[int], **settings: Any) -> list[list[int]]:
    answers = []
    for seed in range(6):
        llm.set_seed(seed)
        with closing(llm.generate(tokens, **settings)) as generator:
            answers.append(generated(generator, 32))
    return answers


def test_rejection_sampling_is_the_same_every_time_for_a_seed(
    stock: llama_cpp.Llama,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    llm = _with_drafter(make_llama, tiny_verifier, tiny_drafters, "dflash-b8")
    llm.sampling = "rejection"
    tokens = tokenize(stock, "the")
    answers = _answers(llm, tokens, **TEMPERATURE_1)
    assert _answers(llm, tokens, **TEMPERATURE_1) == answers
    assert answers != _answers(stock, tokens, **TEMPERATURE_1)
    assert_mixed((0, 0), counts(llm))


def test_rejection_sampling_keeps_to_penalties_and_grammars(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    llm = _with_drafter(make_llama, tiny_verifier, tiny_drafters, "dflash-b8")
    llm.sampling = "rejection"
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= ("a" | "b" | " ")+', verbose=False)
    for seed in range(4):
        answer = llm.create_completion(
            "the", max_tokens=24, temperature=1.0, repeat_penalty=1.3, grammar=grammar, seed=seed
        )
        assert set(answer["choices"][0]["text"]) <= set("ab ")
    assert llm.stats.total.n_drafted > 0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dflash-b8", {"temp": 0.0}),
        ("dflash-b8", SETTINGS["mirostat"]),
        ("dflash-b8", {"logits_processor": llama_cpp.LogitsProcessorList([lambda _, row: row])}),
        ("dflash2-b8", TEMPERATURE_1),
    ],
    ids=["greedy", "mirostat", "processors", "no distribution"],
)
def test_where_rejection_does_not_apply_sampling_is_exact(
    name: str,
    settings: dict[str, Any],
    stock: llama_cpp.Llama,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    llm = _with_drafter(make_llama, tiny_verifier, tiny_drafters, name)
    llm.sampling = "rejection"
    tokens = tokenize(stock, "the")
    assert _answers(llm, tokens, **settings) == _answers(stock, tokens, **settings)
    assert llm.stats.total.n_accepted > 0


def test_another_way_of_sampling_is_refused(make_llama: MakeLlama, tiny_verifier: Path) -> None:
    with pytest.raises(ValueError, match="'best', expected one of exact, rejection"):
        make_llama(dflash_local.Llama, tiny_verifier, sampling="best")


# ---- a test of the test: the statistic tells wrong rules of acceptance from the right one --


Rule = Callable[[npt.NDArray[np.float64], "int | None", np.random.Generator], int]


def _sample(p: npt.NDArray[np.float64], _: int | None, rng: np.random.Generator) -> int:
    """Right: the verifier's row alone decides."""
    return int(rng.choice(len(p), p=p))


def _keep_draft(p: npt.NDArray[np.float64], draft: int | None, rng: np.random.Generator) -> int:
    """Wrong: what was drafted is kept."""
    return _sample(p, None, rng) if draft is None else draft


def _try_again(p: npt.NDArray[np.float64], draft: int | None, rng: np.random.Generator) -> int:
    """Wrong: a draft that was not sampled gets a second chance."""
    token = _sample(p, None, rng)
    return token if draft is None or token == draft else _sample(p, None, rng)


def _answer_by(
    rule: Rule, session: Session, tokens: list[int], rng: np.random.Generator
) -> Outcome:
    """Three tokens, row by row, under a rule of acceptance."""
    session.sync(tokens)
    answer = [_sample(_softmax(session.logits(-1)), None, rng)]
    session.anchor(answer[0])
    while len(answer) < N_TOKENS and answer[-1] not in END:
        drafts: list[int | None] = [*session.propose().tokens]
        emitted: list[int] = []
        for row, draft in enumerate([*drafts, None]):
            emitted.append(rule(_softmax(session.logits(row)), draft, rng))
            if emitted[-1] != draft or draft in END:
                break
        session.commit(emitted)
        answer += emitted
    return _outcome(answer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "right"), [(_sample, True), (_keep_draft, False), (_try_again, False)]
)
def test_the_statistic_finds_wrong_rules_of_acceptance(
    rule: Rule,
    right: bool,
    stock: llama_cpp.Llama,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    llm = _with_drafter(make_llama, tiny_verifier, tiny_drafters, "dflash-b8")
    session, rng = _session(llm), np.random.default_rng(1)
    tokens = tokenize(stock, BEGINNINGS["dflash-b8"][0])
    outcomes = [_answer_by(rule, session, tokens, rng) for _ in range(N_ANSWERS)]
    p_value = _p_value(_probabilities(stock, tokens), outcomes)
    assert (p_value > 1e-3) if right else (p_value < 1e-6)
