"""A drafter that sees a part of the text: the last positions, or nothing of what width 0 read."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest
from conftest import check_drafts
from exactness import DRAFTERS, ONE_THREAD, tiny_prompts

import dflash_local
from dflash_local import _core
from dflash_local.files.drafter_file import read_drafter
from dflash_local.runtime.drafter import LoadedDrafter, address

MakeLlama = Callable[..., Any]
N_TOKENS = 300


@pytest.fixture(scope="module")
def stock(make_module_llama: MakeLlama, tiny_verifier: Path) -> llama_cpp.Llama:
    return make_module_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)


@pytest.fixture(scope="module")
def prompts(stock: llama_cpp.Llama) -> list[list[int]]:
    return tiny_prompts(stock, 3, seed=12)


@pytest.fixture(scope="module")
def plain(stock: llama_cpp.Llama, prompts: list[list[int]]) -> list[list[int]]:
    """Long answers, on beyond where they would end."""
    return [long_answer(stock, prompt) for prompt in prompts]


def long_answer(llm: llama_cpp.Llama, prompt: list[int], n: int = N_TOKENS) -> list[int]:
    return list(islice(llm.generate(prompt, temp=0.0), n))


@contextmanager
def windowed(
    stock: llama_cpp.Llama, file: Path, n_ctx: int | None
) -> Iterator[tuple[dflash_local.Session, LoadedDrafter]]:
    """A session on the stock verifier, and its drafter."""
    info = read_drafter(file)
    stock._ctx.kv_cache_clear()
    loaded = LoadedDrafter(info, stock._ctx.ctx, stock.context_params, n_ctx=n_ctx)
    verifier = _core.Verifier(
        address(stock._ctx.ctx), max_rows=stock.n_batch, feature_layers=info.target_layers
    )
    session = dflash_local.Session(verifier, loaded.core, width=loaded.core.max_width)
    try:
        yield session, loaded
    finally:
        session.close()
        loaded.close()


def stepped(session: dflash_local.Session, n: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < n:
        tokens += session.step(max_tokens=n - len(tokens)).tokens
    return tokens


def positions(loaded: LoadedDrafter) -> tuple[int, int]:
    """The first position in a drafter's memory, and the one after the last."""
    memory = llama_cpp.llama_get_memory(loaded.context)
    first = llama_cpp.llama_memory_seq_pos_min(memory, 0)
    return first, llama_cpp.llama_memory_seq_pos_max(memory, 0) + 1


def edition(source: Path, target: Path, **keys: Any) -> Path:
    """A copy of a drafter's file with more keys, `__` standing for dots."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "dflash")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            item = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], item)
    for name, value in keys.items():
        key = "dflash." + name.replace("__", ".")
        writer.add_array(key, value) if isinstance(value, list) else writer.add_uint32(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


# ---- a window ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("n_ctx", [1, 24, 100])
def test_long_answers_of_a_drafter_with_a_window_equal_plain_ones(
    name: str,
    n_ctx: int,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    prompts: list[list[int]],
    plain: list[list[int]],
) -> None:
    drafter = tiny_drafters[name]
    options = {"drafter": drafter, "drafter_ctx": n_ctx, **ONE_THREAD}
    llm = make_llama(dflash_local.Llama, tiny_verifier, **options)
    assert llm.session.drafter.n_ctx == n_ctx
    for prompt, expected in zip(prompts, plain, strict=True):
        assert long_answer(llm, prompt) == expected
        check_drafts(llm)
        session = llm.session
        assert 0 < session.n_features - session.n_forgotten <= n_ctx + 8
        assert not session.features_missing


@pytest.mark.parametrize("kind", ["full", "sliding", "mrope"])
def test_the_memory_holds_the_last_positions_whatever_the_attention(
    kind: str,
    stock: llama_cpp.Llama,
    tiny_drafters: dict[str, Path],
    tmp_path: Path,
    prompts: list[list[int]],
    plain: list[list[int]],
) -> None:
    """The memory has 256 cells: positions beyond them need cells that were freed."""
    keys: dict[str, dict[str, Any]] = {
        "full": {},
        "sliding": {"attention__sliding_window": 16, "attention__sliding_window_pattern": [True]},
        "mrope": {"rope__dimension_sections": [8, 0, 0, 0]},
    }
    drafter = edition(tiny_drafters["dflash-b8"], tmp_path / "drafter.gguf", **keys[kind])
    with windowed(stock, drafter, 200) as (session, loaded):
        assert llama_cpp.llama_n_ctx(loaded.context) == 256
        session.sync(prompts[0])
        tokens: list[int] = []
        while len(tokens) < 450:
            tokens += stepped(session, 10)
            first, end = positions(loaded)
            assert end - first <= 200
            assert end > session.n_past - 10
            if kind == "full":
                assert first == session.n_forgotten
        assert tokens[:N_TOKENS] == plain[0]
        assert session.n_past > 460 > 256
        assert session.n_forgotten > 200
        stats = session.last_stats
        assert 0 < stats.n_accepted < stats.n_drafted


def test_a_window_as_wide_as_the_text_drafts_the_same_as_none(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path], prompts: Any
) -> None:
    seen = []
    for n_ctx in (None, 512, 100_000):
        options = {"drafter": tiny_drafters["dflash-b8"], "drafter_ctx": n_ctx, **ONE_THREAD}
        llm = make_llama(dflash_local.Llama, tiny_verifier, **options)
        long_answer(llm, prompts[0], 480)
        assert llm.session.n_forgotten == 0
        seen.append((llm.stats.last.n_drafted, llm.stats.last.n_accepted))
    assert seen[0] == seen[1] == seen[2]


def test_of_a_long_prompt_its_end_is_taken_in(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path], stock: Any
) -> None:
    prompt = [token for tokens in tiny_prompts(stock, 30, seed=3) for token in tokens][:400]
    expected = long_answer(stock, prompt, 80)
    options = {"drafter": tiny_drafters["dflash-b8"], "n_batch": 32, **ONE_THREAD}
    llm = make_llama(dflash_local.Llama, tiny_verifier, drafter_ctx=64, **options)
    assert long_answer(llm, prompt, 80) == expected
    assert llm.session.n_forgotten >= 400 - 64
    check_drafts(llm)


def test_the_contexts_of_drafters_are_small(
    stock: llama_cpp.Llama, tiny_drafters: dict[str, Path]
) -> None:
    """libllama reserves the logits of a whole micro-batch, and keys and values of every cell."""
    for n_ctx, cells in ((None, 512), (100, 256), (400, 512)):
        with windowed(stock, tiny_drafters["dflash-b8"], n_ctx) as (_, loaded):
            assert llama_cpp.llama_n_ubatch(loaded.context) == 64
            assert llama_cpp.llama_n_ctx(loaded.context) == cells


@pytest.mark.parametrize("value", [0, -1])
def test_a_window_of_nothing_is_refused(
    value: int, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=f"drafter_ctx is {value}: expected 1 or more"):
        dflash_local.Llama(tiny_verifier, drafter=tiny_drafters["dflash-b8"], drafter_ctx=value)


# ---- back and forth ------------------------------------------------------------------------


def test_a_prompt_from_before_the_window_drafts_again(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path], stock: Any
) -> None:
    first, second, third = tiny_prompts(stock, 3, seed=21)
    options = {"drafter": tiny_drafters["dflash-b8"], "drafter_ctx": 32, **ONE_THREAD}
    llm = make_llama(dflash_local.Llama, tiny_verifier, **options)
    for prompt in (first + second, first[: len(first) // 2] + third, first + second):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert long_answer(llm, prompt, 150) == long_answer(stock, prompt, 150)
        check_drafts(llm)
        assert not llm.session.features_missing


def test_a_saved_window_goes_on_drafting_the_same(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path], prompts: Any
) -> None:
    options = {"drafter": tiny_drafters["dflash-b8"], "drafter_ctx": 40, **ONE_THREAD}
    llm = make_llama(dflash_local.Llama, tiny_verifier, **options)
    begun = prompts[1] + long_answer(llm, prompts[1], 120)
    state = llm.save_state()
    n_forgotten = llm.session.n_forgotten
    rest = long_answer(llm, begun, 100)
    expected = (llm.stats.last.n_drafted, llm.stats.last.n_accepted)
    for wider in (0, 200):
        other = make_llama(
            dflash_local.Llama, tiny_verifier, **{**options, "drafter_ctx": 40 + wider}
        )
        other.load_state(pickle.loads(pickle.dumps(state)))
        assert other.session.n_forgotten == n_forgotten > 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert long_answer(other, begun, 100) == rest
        if wider == 0:
            assert (other.stats.last.n_drafted, other.stats.last.n_accepted) == expected
        check_drafts(other)


def test_a_state_of_an_earlier_version_is_loaded(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path], prompts: Any
) -> None:
    """Its drafter's memory had no head, and began at position 0."""
    llm = make_llama(
        dflash_local.Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **ONE_THREAD
    )
    begun = prompts[1] + long_answer(llm, prompts[1], 40)
    state = llm.save_state()
    rest = long_answer(llm, begun, 60)
    head = state.drafter_state[:12]
    assert head == b"DFLASH1\n" + bytes(4)
    state.drafter_state = state.drafter_state[len(head) :]
    llm.reset()
    llm.load_state(pickle.loads(pickle.dumps(state)))
    assert not llm.session.features_missing
    assert long_answer(llm, begun, 60) == rest
    check_drafts(llm)


# ---- width 0 -------------------------------------------------------------------------------


def test_width_0_reads_no_features_and_after_it_the_next_prompt_is_read_anew(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    prompts: list[list[int]],
    plain: list[list[int]],
) -> None:
    options = {"drafter": tiny_drafters["dflash-b8"], "width": 0, **ONE_THREAD}
    llm = make_llama(dflash_local.Llama, tiny_verifier, **options)
    session = llm.session
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = long_answer(llm, prompts[0], 60)
        assert answer == plain[0][:60]
        assert llm.stats.last.n_drafted == 0
        assert session.n_features == session.n_past == session.n_forgotten
        assert llm.stats.total.seconds_inject == 0
        llm.width = 7
        rest = long_answer(llm, prompts[0] + answer, 200)
        assert rest == plain[0][60:260]
        assert session.n_forgotten == 0
        assert llm.stats.last.n_prompt == len(prompts[0] + answer)
        check_drafts(llm)
        fresh = make_llama(dflash_local.Llama, tiny_verifier, **{**options, "width": 7})
        long_answer(fresh, prompts[0] + answer, 200)
        assert (fresh.stats.last.n_drafted, fresh.stats.last.n_accepted) == (
            llm.stats.last.n_drafted,
            llm.stats.last.n_accepted,
        )
        llm.width = 0
        assert long_answer(llm, prompts[1], 60) == plain[1][:60]
        llm.width = 7
        assert long_answer(llm, prompts[2], 60) == plain[2][:60]
        check_drafts(llm)
        assert session.n_forgotten == 0


def test_a_width_set_in_the_middle_of_an_answer_drafts_from_what_follows(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    prompts: list[list[int]],
    plain: list[list[int]],
) -> None:
    options = {"drafter": tiny_drafters["dflash-b8"], "width": 0, **ONE_THREAD}
    llm = make_llama(dflash_local.Llama, tiny_verifier, **options)
    tokens = []
    for token in islice(llm.generate(prompts[0], temp=0.0), 200):
        tokens.append(token)
        if len(tokens) == 30:
            llm.width = 7
    assert tokens == plain[0][:200]
    assert llm.session.n_forgotten >= len(prompts[0]) + 28
    check_drafts(llm)


def test_a_width_that_changes_within_a_step_is_no_matter(
    stock: llama_cpp.Llama, tiny_drafters: dict[str, Path], prompts: Any, plain: Any
) -> None:
    """libllama ends the process where features are asked for that were not switched on."""
    with windowed(stock, tiny_drafters["dflash-b8"], None) as (session, _):
        session.sync(prompts[0])
        tokens = session.step().tokens
        for width in (0, 7, 0, 7, 7, 0, 0, 7):
            draft = session.propose()
            session.width = width
            emitted = []
            for row, token in enumerate([*draft.tokens, None]):
                emitted.append(int(session.logits(row).argmax()))
                if emitted[-1] != token:
                    break
            tokens += session.commit(emitted).tokens
        tokens += stepped(session, 100)
        assert tokens == plain[0][: len(tokens)]
        assert session.last_stats.n_accepted > 0


def test_at_width_0_a_context_that_the_drafter_does_not_know_is_no_news(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path], stock: Any
) -> None:
    (prompt,) = tiny_prompts(stock, 1, seed=30)
    begun = prompt + long_answer(stock, prompt, 20)
    state = stock.save_state()
    options = {"drafter": tiny_drafters["dflash-b8"], "width": 0, **ONE_THREAD}
    llm = make_llama(dflash_local.Llama, tiny_verifier, **options)
    llm.load_state(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rest = long_answer(llm, begun, 20)
    assert rest == long_answer(stock, begun, 20)
    llm.width = 7
    with pytest.warns(RuntimeWarning, match="without the drafter"):
        long_answer(llm, begun + rest, 20)
