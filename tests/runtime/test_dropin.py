"""``dflash_local.Llama`` answers as ``llama_cpp.Llama`` does, with a drafter and without.

Weights and K/V are F32, so that equal means equal: whole responses are compared.
"""

from __future__ import annotations

import inspect
import itertools
import json
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from conftest import MakeLlama, check_drafts
from exactness import ONE_THREAD
from llama_cpp import LlamaGrammar, LogitsProcessorList, StoppingCriteriaList
from rpc_servers import placed

from dflash_local import ContextError, Llama

PROSE = "the brown"
PERSON = "anna is"
GRAMMAR = 'root ::= " 13 years old and lives in " ("paris" | "rome") ". anna likes " [a-z ]+ "."'
QUESTIONS = ["Who is anna?", "Start at 12 and add 7, 4 times.", "Give me june as JSON."]

Pair = tuple[llama_cpp.Llama, Llama]


def load_pair(make: MakeLlama, verifier: Path, drafter: Path | None, **options: Any) -> Pair:
    parent = make(llama_cpp.Llama, verifier, **options)
    return parent, make(Llama, verifier, drafter=drafter, **options)


@pytest.fixture(scope="module", params=["home", "verifier"])
def placement(request: pytest.FixtureRequest) -> dict[str, Any]:
    """All of these tests run at home, and with the verifier on a server."""
    return placed(request, request.param)


@pytest.fixture(scope="module", params=["plain", "dflash-b8"])
def drafter(request: pytest.FixtureRequest, tiny_drafters: dict[str, Path]) -> Path | None:
    return tiny_drafters.get(request.param)


@pytest.fixture(scope="module")
def shared_pair(make_module_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None) -> Pair:
    return load_pair(make_module_llama, tiny_verifier, drafter)


@pytest.fixture(scope="module")
def shared_pair_all(
    make_module_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> Pair:
    return load_pair(make_module_llama, tiny_verifier, drafter, logits_all=True)


def _clean(pair: Pair) -> Pair:
    for llm in pair:
        llm.reset()
        llm.set_seed(1)
        llm.set_cache(None)
    return pair


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    """Parent and ours, as if just loaded."""
    return _clean(shared_pair)


@pytest.fixture
def pair_all(shared_pair_all: Pair) -> Pair:
    """The same with logits_all=True."""
    return _clean(shared_pair_all)


def same(a: Any, b: Any) -> None:
    """Equal responses or lists of chunks, but for the id and the time."""
    assert _comparable(a) == _comparable(b)


def _comparable(response: Any) -> Any:
    if isinstance(response, dict):
        return {k: v for k, v in response.items() if k not in ("id", "created")}
    return [_comparable(chunk) for chunk in response]


def text_of(response: dict[str, Any]) -> str:
    return str(response["choices"][0]["text"])


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def greedy(llm: llama_cpp.Llama, tokens: list[int], n: int, **options: Any) -> list[int]:
    return list(itertools.islice(llm.generate(tokens, temp=0.0, **options), n))


# ---- the surface ---------------------------------------------------------------------------


def test_it_is_a_llama_with_every_public_name() -> None:
    assert issubclass(Llama, llama_cpp.Llama)
    assert set(dir(llama_cpp.Llama)) <= set(dir(Llama))


@pytest.mark.parametrize("name", ["generate", "eval", "reset", "embed", "load_state", "sample"])
def test_overridden_methods_keep_the_parents_signature(name: str) -> None:
    ours, parents = getattr(Llama, name), getattr(llama_cpp.Llama, name)
    assert inspect.signature(ours) == inspect.signature(parents)
    assert ours.__doc__ == parents.__doc__


def test_the_constructor_takes_every_argument_of_the_parent(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    parameters = inspect.signature(llama_cpp.Llama.__init__).parameters
    given = {
        name: p.default
        for name, p in parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in ("n_ctx", "verbose")
    }
    assert len(given) > 40
    llm = make_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **given)
    assert llm(PERSON, max_tokens=8, temperature=0)["usage"]["completion_tokens"] == 8


def test_tokens_and_vocabulary(pair: Pair) -> None:
    parent, ours = pair
    for text in ("Hello World", "", "<|im_start|>user\nanna", " ünïcode\n"):
        for add_bos, special in itertools.product((True, False), repeat=2):
            tokens = parent.tokenize(text.encode(), add_bos=add_bos, special=special)
            assert ours.tokenize(text.encode(), add_bos=add_bos, special=special) == tokens
            assert ours.detokenize(tokens, special=special) == parent.detokenize(
                tokens, special=special
            )
            assert ours.detokenize(tokens, prev_tokens=[5]) == parent.detokenize(
                tokens, prev_tokens=[5]
            )
    for name in ("n_ctx", "n_embd", "n_vocab", "token_eos", "token_bos", "token_nl"):
        assert getattr(ours, name)() == getattr(parent, name)()
    assert ours.pooling_type() == parent.pooling_type()
    assert ours.metadata == parent.metadata
    assert ours.chat_format == parent.chat_format
    assert ours.tokenizer().encode("anna is") == parent.tokenizer().encode("anna is")


# ---- completions ---------------------------------------------------------------------------

#: name: (prompt, arguments, whether some drafts must be wrong)
COMPLETIONS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "greedy": (PROSE, {"max_tokens": 60}, True),
    "until the context is full": (PROSE, {"max_tokens": None}, True),
    "nothing but zero": (PERSON, {"max_tokens": 0}, True),
    "seven tokens": (PERSON, {"max_tokens": 7}, False),
    "end of generation": (
        "<|im_start|>user\nWho is ben?<|im_end|>\n<|im_start|>assistant\n",
        {},
        True,
    ),
    "stop string": (PROSE, {"stop": "the hen", "max_tokens": 99}, True),
    "stop strings": (PROSE, {"stop": ["zebra", "garden.", " hill"], "max_tokens": 99}, True),
    "echo": (PERSON, {"echo": True, "max_tokens": 30}, True),
    "suffix": (PERSON, {"suffix": " and so on", "max_tokens": 40}, True),
    "model name": (PERSON, {"model": "tiny", "max_tokens": 20}, False),
    "logit bias": (PROSE, {"logit_bias": {"300": 3.0, 301: -100.0}, "max_tokens": 60}, True),
    "repeat penalty": (PROSE, {"repeat_penalty": 1.2, "max_tokens": 60}, True),
    "frequency penalty": (PROSE, {"frequency_penalty": 0.5, "max_tokens": 60}, True),
    "presence penalty": (PROSE, {"presence_penalty": 0.6, "max_tokens": 60}, True),
    "temperature": (PROSE, {"temperature": 1.6, "min_p": 0.01, "seed": 3, "max_tokens": 60}, True),
    "plain distribution": (
        PROSE,
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 4, "max_tokens": 60},
        True,
    ),
    "typical": (PROSE, {"temperature": 0.9, "typical_p": 0.6, "seed": 5, "max_tokens": 60}, True),
    "seed unset": (PROSE, {"temperature": 1.0, "seed": None, "max_tokens": 60}, True),
    "mirostat 1": (
        PROSE,
        {"mirostat_mode": 1, "temperature": 0.8, "seed": 6, "max_tokens": 60},
        True,
    ),
    "mirostat 2": (
        PROSE,
        {"mirostat_mode": 2, "temperature": 0.8, "seed": 7, "max_tokens": 60},
        True,
    ),
    # What the grammar forbids is not verified, and the rest may be right.
    "grammar": (PERSON, {"grammar": LlamaGrammar.from_string(GRAMMAR), "max_tokens": 60}, False),
    "grammar at temperature": (
        PERSON,
        {"grammar": LlamaGrammar.from_string(GRAMMAR), "temperature": 1.5, "seed": 8},
        False,
    ),
}


@pytest.fixture(params=COMPLETIONS)
def completion(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], bool]:
    prompt, arguments, rejected = COMPLETIONS[request.param]
    return prompt, {"temperature": 0.0, "max_tokens": 40, **arguments}, rejected


def test_completion_equals_the_parents(
    pair: Pair, completion: tuple[str, dict[str, Any], bool]
) -> None:
    prompt, arguments, rejected = completion
    expected, found = (llm.create_completion(prompt, **arguments) for llm in pair)
    same(found, expected)
    check_drafts(pair[1], rejected=rejected)


def test_streamed_completion_equals_the_parents(
    pair: Pair, completion: tuple[str, dict[str, Any], bool]
) -> None:
    prompt, arguments, rejected = completion
    expected, found = (list(llm(prompt, stream=True, **arguments)) for llm in pair)
    assert len(found) > 2
    same(found, expected)
    check_drafts(pair[1], rejected=rejected)


def test_calling_it_is_create_completion(pair: Pair) -> None:
    expected, found = (llm(PROSE, max_tokens=30, temperature=0, echo=True) for llm in pair)
    same(found, expected)
    pair[1].reset()
    same(pair[1].create_completion(PROSE, max_tokens=30, temperature=0, echo=True), expected)
    check_drafts(pair[1])


def test_an_empty_prompt_is_an_error_and_nothing_worse(pair: Pair) -> None:
    """The tiny model has no BOS to stand for it. The parent fails an assertion."""
    for llm, error in zip(pair, (AssertionError, (AssertionError, ValueError)), strict=True):
        with pytest.raises(error):
            llm("", max_tokens=4)
    same(*(llm(PROSE, max_tokens=20, temperature=0) for llm in pair))
    check_drafts(pair[1])


def test_tokens_as_the_prompt(pair: Pair) -> None:
    tokens = pair[0].tokenize(PROSE.encode())
    expected, found = (llm(tokens, max_tokens=40, temperature=0) for llm in pair)
    same(found, expected)
    check_drafts(pair[1])


def test_a_seed_gives_its_text_and_another_seed_another(pair: Pair) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "top_p": 1.0, "min_p": 0.0, "max_tokens": 50}
    texts = {seed: text_of(pair[1](PROSE, seed=seed, **options)) for seed in range(8)}
    check_drafts(pair[1])
    for seed, text in texts.items():
        assert text_of(pair[1](PROSE, seed=seed, **options)) == text
        assert text_of(pair[0](PROSE, seed=seed, **options)) == text
    assert len(set(texts.values())) > 3


def test_a_prompt_that_does_not_fit_is_the_parents_error(pair: Pair) -> None:
    for llm in pair:
        with pytest.raises(ValueError, match="exceed context window"):
            llm([5] * 600)


# ---- chat ----------------------------------------------------------------------------------


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


def content_of(response: Any) -> str:
    if isinstance(response, list):
        return "".join(c["choices"][0]["delta"].get("content", "") for c in response)
    return str(response["choices"][0]["message"]["content"])


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


# ---- generate, eval, sample ----------------------------------------------------------------


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


# ---- hooks ---------------------------------------------------------------------------------


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


# ---- what a drop-in may not change ---------------------------------------------------------


def test_small_batches_change_nothing(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None, pair: Pair
) -> None:
    prompt = pair[0].tokenize(b"Tell a story. " * 9)
    expected = greedy(pair[0], prompt, 40)
    for options in ({"n_batch": 4}, {"n_batch": 16, "logits_all": True}):
        small = make_llama(Llama, tiny_verifier, drafter=drafter, n_ubatch=4, **options)
        assert greedy(small, prompt, 40) == expected
        check_drafts(small)


def test_a_context_smaller_than_libllama_makes_it_can_be_filled(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None, pair: Pair
) -> None:
    """libllama makes 256 of the 64 asked for; the parent's own arrays are too short for them."""
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, n_ctx=64)
    found = llm(PROSE, max_tokens=None, temperature=0)
    assert found["usage"]["total_tokens"] == llm.n_ctx() == 256
    same_text = pair[0](PROSE, max_tokens=found["usage"]["completion_tokens"], temperature=0)
    assert text_of(found) == text_of(same_text)
    check_drafts(llm)


def test_with_closes_and_close_may_be_called_twice(
    tiny_verifier: Path, drafter: Path | None
) -> None:
    with Llama(tiny_verifier, drafter=drafter, width=3, **ONE_THREAD) as llm:
        assert text_of(llm(PERSON, max_tokens=8, temperature=0)).startswith(" 13 years")
        check_drafts(llm, rejected=False)
    assert llm.model is None
    llm.close()
    llm.close()


def test_quiet_by_default(
    capfd: pytest.CaptureFixture[str], tiny_verifier: Path, drafter: Path | None
) -> None:
    with Llama(tiny_verifier, drafter=drafter, **ONE_THREAD) as llm:
        assert llm.verbose is False
        llm(PERSON, max_tokens=20)
    assert capfd.readouterr() == ("", "")


def test_verbose_is_as_loud_as_the_parent(
    capfd: pytest.CaptureFixture[str], tiny_verifier: Path, drafter: Path | None
) -> None:
    with Llama(tiny_verifier, drafter=drafter, **ONE_THREAD, verbose=True):
        pass
    assert "Available chat formats" in capfd.readouterr().err


@pytest.mark.parametrize("drafter", ["dflash-b8"], indirect=True, scope="module")
def test_width_zero_decodes_plainly_and_width_is_kept(pair: Pair) -> None:
    parent, ours = pair
    expected, before = text_of(parent(PROSE, max_tokens=30, temperature=0)), ours.width
    try:
        for width in (0, 1, 3, 50):
            ours.width = width
            ours.reset()
            assert text_of(ours(PROSE, max_tokens=30, temperature=0)) == expected
            stats = ours.stats.last
            assert stats.n_drafted <= width * stats.n_steps
            assert (stats.n_accepted > 0) == (width > 0)
    finally:
        ours.width = before
