"""``dflash_local.Llama`` answers as ``llama_cpp.Llama`` does, with a drafter and without."""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path
from typing import Any

import dropins
import llama_cpp
import pytest
from conftest import MakeLlama, check_drafts
from dropins import GRAMMAR, PERSON, PROSE, Pair, greedy, same, text_of
from exactness import ONE_THREAD
from llama_cpp import LlamaGrammar

from dflash_local import Llama

# pytest finds fixtures by the names of a module.
placement = dropins.placement
drafter = dropins.drafter
shared_pair = dropins.shared_pair
pair = dropins.pair


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


@pytest.mark.slow
def test_completion_equals_the_parents(
    pair: Pair, completion: tuple[str, dict[str, Any], bool]
) -> None:
    prompt, arguments, rejected = completion
    expected, found = (llm.create_completion(prompt, **arguments) for llm in pair)
    same(found, expected)
    check_drafts(pair[1], rejected=rejected)


@pytest.mark.slow
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


@pytest.mark.slow
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
