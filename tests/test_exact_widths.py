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
from exactness import ONE_THREAD, generated, greedy, random_prompts, tiny_prompts
from random_experts import write_experts
from random_hybrid import write_lfm2

from dflash_local import Llama, exact_check, hub
from dflash_local.errors import ModelError
from dflash_local.gguf_header import GGUFHeader

TYPES = {
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
OPTIONS: dict[str, Any] = {"n_ctx": 512, "verbose": False, **ONE_THREAD}
#: Blocks are decoded row by row, on all processors.
ONE_ROW = {"n_ubatch": 1}
N_TOKENS = 32


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
    source = Path(__file__).parent / "models" / "verifier-f32.gguf"
    target = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    hub.requantize(source, target, TYPES[request.param])
    return target


@pytest.fixture(scope="module", params=TYPES)
def demo(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The demo's verifier in other weights."""
    target = tmp_path_factory.mktemp("demo") / f"{request.param}.gguf"
    hub.requantize(smollm2, target, TYPES[request.param])
    return target


@contextmanager
def exact(verifier: Path, drafter: Path, **options: Any) -> Iterator[Llama]:
    """Ours, where some width is exact."""
    try:
        llm = Llama(verifier, drafter=drafter, exact=True, **{**OPTIONS, **options})
    except ModelError as error:
        pytest.skip(f"no width is exact on this processor: {error}")
    with llm:
        assert widths_of(llm)
        yield llm


@contextmanager
def stock(verifier: Path, **options: Any) -> Iterator[llama_cpp.Llama]:
    """Stock llama_cpp, with the attention that exact widths take."""
    with ExitStack() as stack:
        llm = llama_cpp.Llama(str(verifier), flash_attn=True, **{**OPTIONS, **options})
        stack.callback(llm.close)
        yield llm


def answers(llm: Any, prompts: list[list[int]], n: int = N_TOKENS) -> list[list[int]]:
    """Greedy ones, each from an empty memory."""
    found = []
    for prompt in prompts:
        llm.reset()
        found.append(greedy(llm, prompt, n))
    return found


def sampled(llm: Any, prompts: list[list[int]], n: int = N_TOKENS) -> list[list[int]]:
    found = []
    for seed, prompt in enumerate(prompts):
        llm.reset()
        llm.set_seed(seed)
        found.append(generated(llm.generate(prompt, temp=0.9), n))
    return found


def widths_of(llm: Llama) -> tuple[int, ...]:
    """Those that are exact."""
    assert llm.exact_widths is not None
    return llm.exact_widths.widths


def verified(llm: Llama) -> set[int]:
    """The numbers of drafts that were verified so far."""
    return {width for width, n in enumerate(llm.stats.total.verified_per_width) if n}


# ---- answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dflash-b8", "dspark-b8"])
def test_answers_at_exact_widths_are_plain_decodings_to_the_last_token(
    tiny: Path, tiny_drafters: dict[str, Path], kind: str
) -> None:
    with exact(tiny, tiny_drafters[kind]) as llm, stock(tiny) as plain:
        assert llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        assert llm.stats.exact_widths == llm.exact_widths
        prompts = [*tiny_prompts(plain, 3, seed=1), *random_prompts(plain, 3, seed=2)]
        prompts.append([token for prompt in random_prompts(plain, 24, seed=3) for token in prompt])
        prompts[-1] = prompts[-1][:300]
        expected, drawn = answers(plain, prompts), sampled(plain, prompts)
        for width in (None, *widths_of(llm)):
            llm.width = width
            assert answers(llm, prompts) == expected, width
            assert sampled(llm, prompts) == drawn, width
        assert {0, *widths_of(llm)} >= verified(llm)
        assert 0 < llm.stats.total.n_accepted < llm.stats.total.n_drafted


def test_answers_of_the_demo_at_exact_widths_are_plain_decodings_to_the_last_token(
    demo: Path, smollm2_drafter: Path
) -> None:
    with exact(demo, smollm2_drafter) as llm, stock(demo) as plain:
        text = b"def read(path):\n    with open(path) as file:\n        return file.read()\n\n"
        prompts = [llm.tokenize(text)]
        if demo.stem == "q4_0":  # on 512 keys
            prompts.append(llm.tokenize(text * 16)[:280])
        expected = answers(plain, prompts, 16)
        assert answers(llm, prompts, 16) == expected
        assert sampled(llm, prompts[:1], 8) == sampled(plain, prompts[:1], 8)
        for width in widths_of(llm):
            llm.width = width
            assert answers(llm, prompts[:1], 12) == [expected[0][:12]], width
        assert 0 < llm.stats.total.n_accepted < llm.stats.total.n_drafted


def test_the_logits_of_exact_widths_are_plain_decodings_to_the_bit(
    tiny: Path, drafter: Path
) -> None:
    options = {"logits_all": True}
    with exact(tiny, drafter, **options) as llm, stock(tiny, **options) as plain:
        (prompt,) = random_prompts(plain, 1, seed=4)
        for width in (None, *widths_of(llm)):
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


def test_a_hybrid_verifiers_exact_answers_are_plain_decodings(
    tmp_path: Path, tiny_verifier: Path, drafter: Path
) -> None:
    write_lfm2(tmp_path / "lfm2-f32.gguf", GGUFHeader(tiny_verifier))
    for name, weights in TYPES.items():
        model = tmp_path / f"lfm2-{name}.gguf"
        hub.requantize(tmp_path / "lfm2-f32.gguf", model, weights)
        with exact(model, drafter) as llm, stock(model) as plain:
            assert llm._is_hybrid
            prompts = random_prompts(plain, 4, seed=7)
            expected = answers(plain, prompts)
            for width in (None, *widths_of(llm)):
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
        hub.requantize(tmp_path / "experts-f32.gguf", model, weights)
        options = {**OPTIONS, "flash_attn": True}
        with Llama(model, drafter=drafter, **options) as llm, stock(model) as plain:
            prompts = [*random_prompts(plain, 3, seed=13), [40] * 30]
            expected = answers(plain, prompts)
            for width in widths_of(llm):
                llm.width = width
                assert answers(llm, prompts) == expected, width
    # An expert may get a part of a block's rows: below an exact width all have to be.
    for file in cache.iterdir():
        names = ("short", "middle", "repeated", "long")
        file.write_text(json.dumps(dict.fromkeys(names, (0, 1, 2, 4))))
    with Llama(model, drafter=drafter, **options) as llm:
        assert widths_of(llm) == (1, 2)


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
        for width in (None, *widths_of(llm)):
            llm.width = width
            assert answers(llm, prompts) == expected, width
        assert llm.stats.total.n_accepted > 0
    assert not cache.exists(), "what server it is is not known"


# ---- what is verified ----------------------------------------------------------------------


def test_where_blocks_are_decoded_row_by_row_all_widths_are_exact(
    tiny_verifier: Path, drafter: Path
) -> None:
    with (
        Llama(tiny_verifier, drafter=drafter, exact=True, **OPTIONS, **ONE_ROW) as llm,
        stock(tiny_verifier, **ONE_ROW) as plain,
    ):
        assert widths_of(llm) == (1, 2, 3, 4, 5, 6, 7)
        prompts = tiny_prompts(plain, 4, seed=8)
        for width in (None, 3, 7):
            llm.width = width
            assert answers(llm, prompts) == answers(plain, prompts)
        assert llm.stats.total.n_drafted > 0


@pytest.mark.parametrize("width", [None, 1, 4, 7])
def test_no_other_width_is_verified(
    tiny_verifier: Path, drafter: Path, cache: Path, width: int | None
) -> None:
    options = {**OPTIONS, **ONE_ROW, "exact": True, "width": width}
    with Llama(tiny_verifier, drafter=drafter, **options):
        pass
    (file,) = cache.iterdir()
    checked = json.loads(file.read_text())
    assert checked == {name: list(range(8)) for name in ("short", "middle", "long")}
    file.write_text(json.dumps({**checked, "long": [0, 2, 3]}))
    with Llama(tiny_verifier, drafter=drafter, **options) as llm:
        assert widths_of(llm) == (2, 3), "it was not read"
        prompts = tiny_prompts(llm, 6, seed=9)
        answers(llm, prompts)
        assert verified(llm) <= {0, 2, 3}
        assert (llm.stats.total.n_drafted > 0) == (width != 1)
        for prompt in prompts:  # drafts of the caller's own, of any length
            stream = llm.generate(prompt, temp=0.0)
            next(stream)
            for n in range(6):
                stream.send([5] * n)
        assert verified(llm) == {0, 2, 3}


def test_what_nobody_asks_for_or_could_hardly_be_is_not_checked(
    tiny_verifier: Path, drafter: Path, cache: Path
) -> None:
    flash = {"flash_attn": True}
    for options in ({**flash, "width": 3}, {**flash, "exact": False}, {}):
        with Llama(tiny_verifier, drafter=drafter, **options, **OPTIONS) as llm:
            assert llm.exact_widths is None
            assert llm.stats.exact_widths is None
            assert llm.session is not None
    assert not cache.exists()


# ---- where there are none ------------------------------------------------------------------


def test_where_none_is_exact_it_says_so_and_what_would_help(
    tmp_path: Path, tiny_verifier: Path, drafter: Path
) -> None:
    """A prompt of such a memory is read in other pieces than in plain decoding, for snapshots."""
    model = tmp_path / "lfm2.gguf"
    write_lfm2(model, GGUFHeader(tiny_verifier))
    small = {**OPTIONS, "n_batch": 64, "n_ubatch": 32, "flash_attn": True}
    with pytest.raises(ModelError, match=r"lfm2\.gguf .*n_batch of at most n_ubatch \(32\)"):
        Llama(model, drafter=drafter, exact=True, **small)
    with Llama(model, drafter=drafter, **small) as llm:
        assert widths_of(llm) == ()


def test_attention_that_the_caller_chose_stays(tiny_verifier: Path, drafter: Path) -> None:
    for chosen, kept in (({}, 1), ({"flash_attn": True}, 1), ({"flash_attn": False}, 0)):
        options = {**OPTIONS, **ONE_ROW, **chosen}
        with Llama(tiny_verifier, drafter=drafter, exact=True, **options) as llm:
            assert llm.context_params.flash_attn_type == kept
            assert widths_of(llm) == (1, 2, 3, 4, 5, 6, 7)
    with Llama(tiny_verifier, drafter=drafter, **OPTIONS, **ONE_ROW) as llm:
        assert llm.context_params.flash_attn_type == 0, "preferring is no reason to switch it on"


def test_what_there_is_no_time_to_check_is_not_called_exact(
    tiny_verifier: Path, drafter: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, **ONE_ROW, "flash_attn": True}
    monkeypatch.setattr(exact_check, "SECONDS", 0.0)
    with Llama(tiny_verifier, drafter=drafter, **options) as llm:
        assert llm.exact_widths is None
    (file,) = cache.iterdir()
    assert json.loads(file.read_text()) == dict.fromkeys(("short", "middle", "long"))
    monkeypatch.setattr(exact_check, "SECONDS_WANTED", 0.0)
    with pytest.raises(ModelError, match="was not to be found out in 0 s"):
        Llama(tiny_verifier, drafter=drafter, exact=True, **options)


def test_what_took_too_long_is_tried_again_only_where_it_is_wanted(
    tiny_verifier: Path, drafter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, **ONE_ROW, "flash_attn": True}
    with monkeypatch.context() as patch:
        patch.setattr(exact_check, "SECONDS", 0.0)
        with Llama(tiny_verifier, drafter=drafter, **options) as llm:
            assert llm.exact_widths is None
    for wanted, found in ((None, None), (True, tuple(range(1, 8))), (None, tuple(range(1, 8)))):
        with Llama(tiny_verifier, drafter=drafter, exact=wanted, **options) as llm:
            assert (found is None) == (llm.exact_widths is None)
            assert found is None or widths_of(llm) == found


def test_a_damaged_file_is_checked_again(tiny_verifier: Path, drafter: Path, cache: Path) -> None:
    for damage in (None, "", "[]", '{"short": "all"}', '{"other": [1]}'):
        if damage is not None:
            (file,) = cache.iterdir()
            file.write_text(damage)
        with Llama(tiny_verifier, drafter=drafter, exact=True, **OPTIONS, **ONE_ROW) as llm:
            assert widths_of(llm) == (1, 2, 3, 4, 5, 6, 7)


def test_they_are_kept_by_what_they_depend_on(
    tiny_verifier: Path, drafter: Path, cache: Path
) -> None:
    base = {**OPTIONS, **ONE_ROW, "flash_attn": True}
    changes: list[dict[str, Any]] = [{}, {"n_ubatch": 2}, {"n_batch": 256}]
    changes.append({"flash_attn": False, "exact": True})
    changes.append({"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32})
    for n, change in enumerate(changes, start=1):
        for _ in range(2):
            with Llama(tiny_verifier, drafter=drafter, **{**base, **change}):
                pass
            assert len(list(cache.iterdir())) == n, change


def test_in_a_window_they_are_exact_as_far_as_was_checked(
    tiny_verifier: Path, drafter: Path, cache: Path
) -> None:
    options = {**OPTIONS, **ONE_ROW, "exact": True}
    with Llama(tiny_verifier, drafter=drafter, **options):
        pass
    (file,) = cache.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "long": [0]}))
    with pytest.warns(RuntimeWarning, match="first 256 positions"):
        llm = Llama(tiny_verifier, drafter=drafter, **options)
    with llm:
        assert widths_of(llm) == (1, 2, 3, 4, 5, 6, 7)
        prompt = [token for p in tiny_prompts(llm, 40, seed=10) for token in p][:246]
        greedy(llm, prompt, 4)
        assert llm.stats.last.n_drafted > 0
        greedy(llm, [*prompt, *prompt[:10]], 12)
        assert llm.stats.last.n_drafted == 0


# ---- the prompt ----------------------------------------------------------------------------


def test_logits_that_a_step_took_with_it_come_of_the_same_pieces_again(
    tiny_verifier: Path, drafter: Path
) -> None:
    """On most processors a row gives other bits when it is read alone than among eighty."""
    options = {**OPTIONS, "n_batch": 100, "flash_attn": True}
    with Llama(tiny_verifier, drafter=drafter, width=4, **options) as llm:
        session = llm.session
        assert session is not None
        session.set_exact([1, 2, 3, 4], up_to=512, only=True)
        prompt = [token for p in tiny_prompts(llm, 20, seed=11) for token in p][:180]
        session.sync(prompt)
        read = session.logits(-1)
        session.step()
        session.propose()
        session.discard()
        session.sync(prompt)
        assert np.array_equal(session.logits(-1), read)
        assert session.last_stats.n_prompt == 180 + 80


def test_a_prompt_that_was_read_at_width_0_is_not_read_again(
    tiny_verifier: Path, drafter: Path
) -> None:
    with Llama(tiny_verifier, drafter=drafter, exact=True, **OPTIONS, **ONE_ROW) as llm:
        (prompt,) = tiny_prompts(llm, 1, seed=12)
        llm.width = 0
        text = greedy(llm, prompt, 8)
        llm.width = 4
        greedy(llm, [*prompt, *text], 16)
        assert llm.stats.last.n_prompt <= 1
        assert llm.stats.last.n_drafted > 0
