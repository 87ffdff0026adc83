"""What is called exact is plain decoding's, to the last token and to the bit.

Kernels differ between processors, so that no width is exact on all of them: these tests ask what
was found, and hold it to that. Where nothing was found there is nothing to hold it to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from exactness import (
    ONE_THREAD,
    answers,
    exact_widths,
    generated,
    greedy,
    random_prompts,
    tiny_prompts,
    verified_widths,
)
from random_experts import write_experts
from random_hybrid import write_lfm2

from dflash_local import Llama
from dflash_local.errors import ModelError
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.requantize import requantize

TYPES = {
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
OPTIONS: dict[str, Any] = {"n_ctx": 512, "verbose": False, **ONE_THREAD}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))
    return tmp_path / "exact"


@pytest.fixture
def drafter(tiny_drafters: dict[str, Path]) -> Path:
    return tiny_drafters["dflash-b8"]


@pytest.fixture(scope="module", params=TYPES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny verifier in other weights."""
    source = Path(__file__).parents[1] / "models" / "verifier-f32.gguf"
    target = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    requantize(source, target, TYPES[request.param])
    return target


@pytest.fixture(scope="module", params=TYPES)
def demo(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The demo's verifier in other weights."""
    target = tmp_path_factory.mktemp("demo") / f"{request.param}.gguf"
    requantize(smollm2, target, TYPES[request.param])
    return target


@contextmanager
def exact(verifier: Path, drafter: Path, **options: Any) -> Iterator[Llama]:
    """Ours, where some width is exact."""
    try:
        llm = Llama(verifier, drafter=drafter, exact=True, **{**OPTIONS, **options})
    except ModelError as error:
        pytest.skip(f"no width is exact on this processor: {error}")
    with llm:
        assert exact_widths(llm)
        yield llm


@contextmanager
def stock(verifier: Path, **options: Any) -> Iterator[llama_cpp.Llama]:
    """Stock llama_cpp, with the attention that exact widths take."""
    with ExitStack() as stack:
        llm = llama_cpp.Llama(str(verifier), flash_attn=True, **{**OPTIONS, **options})
        stack.callback(llm.close)
        yield llm


def sampled(llm: Any, prompts: list[list[int]], n: int = 32) -> list[list[int]]:
    found = []
    for seed, prompt in enumerate(prompts):
        llm.reset()
        llm.set_seed(seed)
        found.append(generated(llm.generate(prompt, temp=0.9), n))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tiny", "kind"),
    [("q4_0", "dflash-b8"), ("q4_1", "dspark-b8"), ("q8_0", "dflash-b8")],
    indirect=["tiny"],
)
def test_answers_at_exact_widths_are_plain_decodings_to_the_last_token(
    tiny: Path, tiny_drafters: dict[str, Path], kind: str
) -> None:
    with exact(tiny, tiny_drafters[kind]) as llm, stock(tiny) as plain:
        assert llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        assert llm.stats.exact_widths == llm.exact_widths
        prompts = [*tiny_prompts(plain, 2, seed=1), *random_prompts(plain, 2, seed=2)]
        long = [token for prompt in random_prompts(plain, 24, seed=3) for token in prompt]
        prompts.append(long[:300])
        expected, drawn = answers(plain, prompts), sampled(plain, prompts)
        for width in (None, *exact_widths(llm)):
            llm.width = width
            assert answers(llm, prompts) == expected, width
            assert sampled(llm, prompts) == drawn, width
        assert {0, *exact_widths(llm)} >= verified_widths(llm)
        assert 0 < llm.stats.total.n_accepted < llm.stats.total.n_drafted


@pytest.mark.slow
def test_answers_of_the_demo_at_exact_widths_are_plain_decodings_to_the_last_token(
    demo: Path, smollm2_drafter: Path
) -> None:
    options = {"n_ctx": 512 if demo.stem == "q4_0" else 256}  # the longer text is checked once
    with exact(demo, smollm2_drafter, **options) as llm, stock(demo, **options) as plain:
        text = b"def read(path):\n    with open(path) as file:\n        return file.read()\n\n"
        prompts = [llm.tokenize(text)]
        if demo.stem == "q4_0":
            prompts.append(llm.tokenize(text * 16)[:280])
        expected = answers(plain, prompts, 12)
        assert answers(llm, prompts, 12) == expected
        assert sampled(llm, prompts[:1], 8) == sampled(plain, prompts[:1], 8)
        for width in exact_widths(llm):
            llm.width = width
            assert answers(llm, prompts[:1], 8) == [expected[0][:8]], width
        assert 0 < llm.stats.total.n_accepted < llm.stats.total.n_drafted


def test_the_logits_of_exact_widths_are_plain_decodings_to_the_bit(
    tiny: Path, drafter: Path
) -> None:
    options = {"logits_all": True}
    with exact(tiny, drafter, **options) as llm, stock(tiny, **options) as plain:
        (prompt,) = random_prompts(plain, 1, seed=4)
        for width in (None, *exact_widths(llm)):
            llm.width = width
            assert answers(llm, [prompt]) == answers(plain, [prompt])
            assert llm.n_tokens == plain.n_tokens
            assert np.array_equal(llm.scores[: llm.n_tokens], plain.scores[: llm.n_tokens])


def test_one_call_after_another_gives_what_they_give_in_plain_decoding(
    tiny: Path, drafter: Path
) -> None:
    """What is kept of the last text is read no other way than plain decoding reads it."""
    with exact(tiny, drafter) as llm, stock(tiny) as plain:
        first, second, third = random_prompts(plain, 3, seed=5)
        long = (first * 8)[:90]
        calls = [
            (long, 20),
            (long, 20),
            (long[:80] + second, 1),
            (long[:80] + second, 20),
            (long[:80] + second + third, 3),
            (third, 20),
        ]
        for n, (prompt, n_tokens) in enumerate(calls):
            llm.width = (None, 0, 7)[n % 3]
            assert greedy(llm, prompt, n_tokens) == greedy(plain, prompt, n_tokens), n
            prompt = [*prompt, *plain.input_ids[len(prompt) : plain.n_tokens].tolist()]
            assert greedy(llm, prompt, 4) == greedy(plain, prompt, 4), n


def test_a_state_goes_on_as_in_plain_decoding(tiny: Path, drafter: Path) -> None:
    with exact(tiny, drafter, width=None) as llm, stock(tiny) as plain:
        (prompt,) = tiny_prompts(plain, 1, seed=6)
        expected = greedy(plain, prompt, 40)
        for n in (1, 4, 9):
            llm.reset()
            stream = llm.generate(prompt, temp=0.0)
            begun = list(islice(stream, n))
            state = llm.save_state()  # in the middle of a block
            stream.close()
            llm.reset()
            llm.load_state(state)
            rest = greedy(llm, [*prompt, *begun], len(expected) - n)
            assert begun + rest == expected


@pytest.mark.slow
def test_a_hybrid_verifiers_exact_answers_are_plain_decodings(
    tmp_path: Path, tiny_verifier: Path, drafter: Path
) -> None:
    write_lfm2(tmp_path / "lfm2-f32.gguf", GGUFHeader(tiny_verifier))
    for name, weights in TYPES.items():
        model = tmp_path / f"lfm2-{name}.gguf"
        requantize(tmp_path / "lfm2-f32.gguf", model, weights)
        with exact(model, drafter) as llm, stock(model) as plain:
            assert llm._is_hybrid
            prompts = random_prompts(plain, 4, seed=7)
            expected = answers(plain, prompts)
            for width in (None, *exact_widths(llm)):
                llm.width = width
                assert answers(llm, prompts) == expected, width
                # Without a reset: plain decoding has no snapshots to go back to.
                for prompt in (prompts[0], [*prompts[0], *expected[0][:3], 5, 6]):
                    assert greedy(llm, prompt, 8) == greedy(plain, prompt, 8)


def test_exact_answers_of_a_mixture_of_experts_are_plain_decodings(
    tmp_path: Path, tiny_verifier: Path, drafter: Path, cache: Path
) -> None:
    """Its router stays in F32, which most processors multiply otherwise by one row."""
    write_experts(tmp_path / "experts-f32.gguf", GGUFHeader(tiny_verifier))
    for name, weights in TYPES.items():
        model = tmp_path / f"experts-{name}.gguf"
        requantize(tmp_path / "experts-f32.gguf", model, weights)
        options = {**OPTIONS, "flash_attn": True}
        with Llama(model, drafter=drafter, **options) as llm, stock(model) as plain:
            prompts = [*random_prompts(plain, 3, seed=13), [40] * 30]
            expected = answers(plain, prompts)
            for width in exact_widths(llm):
                llm.width = width
                assert answers(llm, prompts) == expected, width
    # An expert may get a part of a block's rows: below an exact width all have to be.
    for file in cache.iterdir():
        names = ("short", "middle", "repeated", "long")
        file.write_text(json.dumps(dict.fromkeys(names, (0, 1, 2, 4))))
    with Llama(model, drafter=drafter, **options) as llm:
        assert exact_widths(llm) == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("tiny", ["q4_0"], indirect=True)
@pytest.mark.filterwarnings("ignore:the widths")
def test_answers_on_an_rpc_device_are_those_of_width_0_there(
    tiny: Path, drafter: Path, rpc_server: str, cache: Path
) -> None:
    with exact(tiny, drafter, rpc=rpc_server, n_ctx=768) as llm:
        assert llm.exact_widths is not None
        assert llm.exact_widths.up_to == 512, "as far as was checked"
        prompts = random_prompts(llm, 3, seed=14)
        llm.width = 0
        expected = answers(llm, prompts)
        for width in (None, *exact_widths(llm)):
            llm.width = width
            assert answers(llm, prompts) == expected, width
        assert llm.stats.total.n_accepted > 0
    assert not cache.exists(), "what server it is is not known"


def test_where_blocks_are_decoded_row_by_row_all_widths_are_exact(
    tiny_verifier: Path, drafter: Path
) -> None:
    with (
        Llama(tiny_verifier, drafter=drafter, exact=True, **OPTIONS, n_ubatch=1) as llm,
        stock(tiny_verifier, n_ubatch=1) as plain,
    ):
        assert exact_widths(llm) == (1, 2, 3, 4, 5, 6, 7)
        prompts = tiny_prompts(plain, 4, seed=8)
        for width in (None, 3, 7):
            llm.width = width
            assert answers(llm, prompts) == answers(plain, prompts)
        assert llm.stats.total.n_drafted > 0
