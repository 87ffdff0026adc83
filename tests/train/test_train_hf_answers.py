"""A Hugging Face model as the verifier: its prompts and answers are those of libllama."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

import hf_verifiers  # noqa: E402
from hf_verifiers import MESSAGES  # noqa: E402
from training import N_CTX  # noqa: E402

from dflash_local import ContextError, DFlashError  # noqa: E402
from dflash_local.train.answerer import Question, Sampling  # noqa: E402
from dflash_local.train.questions import synthesize  # noqa: E402
from dflash_local.train.verifiers.hf_verifier import HfVerifier  # noqa: E402
from dflash_local.train.verifiers.verifier import Verifier  # noqa: E402

torch.set_num_threads(1)

# pytest finds fixtures by the names of a module.
folder = hf_verifiers.folder
verifier = hf_verifiers.verifier
gguf = hf_verifiers.gguf
texts = hf_verifiers.texts


# ---- prompts -------------------------------------------------------------------------------


def test_prompts_are_the_tokens_that_libllama_makes(verifier: Verifier, gguf: Verifier) -> None:
    ours, theirs = verifier.tokenizer(None), gguf.tokenizer(None)
    prompt = theirs.prompt(MESSAGES)
    assert ours.prompt(MESSAGES) == prompt
    assert ours.text("the grey cat ") == theirs.text("the grey cat ")
    assert ours.user_header() == theirs.user_header()
    assert ours.exact_text(prompt) == theirs.exact_text(prompt)
    assert ours.decode(prompt) == theirs.decode(prompt)
    for ended in (False, True):
        answer = ours.answer("well <|im_end|>, 12", ended=ended)
        assert answer == theirs.answer("well <|im_end|>, 12", ended=ended)
        assert (2 in answer) == ended, "what a text spells is no control token"


def test_a_bos_that_a_server_adds_itself_is_not_in_the_text(folder: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer: Any = HfVerifier(folder)._files.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save_pretrained(tmp_path / "with")
    shutil.copy(folder / "config.json", tmp_path / "with")
    with_bos = HfVerifier(tmp_path / "with").tokenizer(None)
    tokens = with_bos.text("the cat")
    assert tokens[0] == 0
    assert with_bos.exact_text(tokens) == "the cat"


def test_thinking_is_switched_where_the_template_has_a_switch(folder: Path) -> None:
    plain = HfVerifier(folder)
    with pytest.raises(DFlashError, match="no switch for thinking"):
        plain.tokenizer(True).prompt(MESSAGES)
    switch = "{{ messages[0].content }}{% if enable_thinking %} Think.{% else %} Say.{% endif %}"
    plain._files.tokenizer.chat_template = switch
    said = [{"role": "user", "content": "Who?"}]
    both = [plain.tokenizer(on) for on in (True, False)]
    assert [one.decode(one.prompt(said)) for one in both] == ["Who? Think.", "Who? Say."]


def test_messages_that_the_template_refuses_are_told(folder: Path) -> None:
    strict = HfVerifier(folder)
    strict._files.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DFlashError, match="refuses these messages: roles must alternate"):
        strict.tokenizer(None).prompt(MESSAGES)


# ---- answers -------------------------------------------------------------------------------


def test_greedy_answers_are_those_of_libllama(verifier: Verifier, texts: list[Any]) -> None:
    """Prompts of different lengths in one batch; the maker's advice (a penalty) is not taken."""
    questions = [Question(list(text.prompt), Sampling(), 48) for text in texts]
    seen = []
    assert len({len(question.tokens) for question in questions}) > 3
    with verifier.generator(n_slots=3, n_ctx=N_CTX) as generator:
        written = generator.answer(questions, lambda done, tokens: seen.append((done, tokens)))
    different = sum(
        tuple(one) != text.tokens[text.start :] for one, text in zip(written, texts, strict=True)
    )
    assert different <= 1, "a tie may fall the other way"
    assert seen[-1] == (len(texts), sum(map(len, written)))
    assert [done for done, _ in seen] == [3, 6, 8]


def test_a_long_prompt_beside_it_changes_no_answer(verifier: Verifier, texts: list[Any]) -> None:
    short = [Question(list(text.prompt), Sampling(), 30) for text in texts[:4]]
    long = Question(list(texts[-1].tokens[:-1]) * 4, Sampling(), 4)
    with verifier.generator(n_slots=2, n_ctx=512) as generator:
        alone = [generator.answer([question])[0] for question in short]
        beside = [generator.answer([question, long])[0] for question in short]
    assert len(long.tokens) > 200
    assert alone == beside


def test_sampled_answers_depend_on_the_questions_alone(
    verifier: Verifier, texts: list[Any]
) -> None:
    questions = [
        Question(list(text.prompt), Sampling((0.0, 1.0)[i % 2], seed=i), 20)
        for i, text in enumerate(texts)
    ]
    other = [Question(q.tokens, Sampling(q.sampling.temperature, seed=99), 20) for q in questions]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with verifier.generator(n_slots=2, n_ctx=N_CTX) as generator:
        first = generator.answer(questions)
        others = generator.answer(other)
        assert generator.answer(questions) == first
    assert torch.equal(torch.rand(3), expected), "training's own numbers go on as they were"
    assert others[::2] == first[::2], "greedy ones know no seed"
    assert others[1::2] != first[1::2]


def test_an_answer_ends_with_the_end_the_limit_or_the_context(
    verifier: Verifier, texts: list[Any]
) -> None:
    prompt = list(texts[0].prompt)
    with verifier.generator(n_slots=2, n_ctx=64) as generator:
        questions = [Question(prompt, Sampling(), n) for n in (3, 200)]
        short, whole = generator.answer(questions)
        full = generator.answer([Question(prompt * 4, Sampling(), 10_000)])[0]
        with pytest.raises(ContextError, match="there is room for 64"):
            generator.answer([Question([5] * 64, Sampling(), 4)])
        with pytest.raises(DFlashError, match="without tokens"):
            generator.answer([Question([], Sampling(), 4)])
    assert len(short) == 3 < len(whole)
    assert whole[-1] == 2
    assert len(prompt * 4) + len(full) <= 64


def test_the_verifier_makes_up_user_turns(verifier: Verifier) -> None:
    with verifier.generator(n_slots=8, n_ctx=N_CTX) as generator:
        turns = synthesize(generator, verifier.tokenizer(None), 4, seed=1)
        assert turns == synthesize(generator, verifier.tokenizer(None), 4, seed=1)
    assert 0 < len(turns) == len(set(turns)) <= 4
    assert all("<|im" not in turn for turn in turns)
