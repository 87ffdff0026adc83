"""States, caches, pickling: what a ``Llama`` carries from here to there."""

from __future__ import annotations

import itertools
import pickle
import warnings
from pathlib import Path
from typing import Any

import carried
import llama_cpp
import pytest
from carried import DRAFTERS, PROSE, TURN_1, answer
from conftest import MakeLlama, check_drafts
from rpc_servers import DRAFTERS_AWAY

from dflash_local import DFlashError, Llama

# pytest finds fixtures by the names of a module.
drafter = carried.drafter
b8 = carried.b8


OTHER_PROMPT = "Tell a story of 5 lines about the owl and about the hen. the white hen"

TURN_2 = (
    "<|im_end|>\n<|im_start|>user\nStart at 12 and add 7, 4 times.<|im_end|>\n"
    "<|im_start|>assistant\n"
)

#: Every drafter at home, and some with a model on a server.
everywhere = pytest.mark.parametrize(
    ("drafter", "placement"),
    [*((name, "home") for name in DRAFTERS), *DRAFTERS_AWAY],
    indirect=True,
)


def counts(llm: Llama) -> tuple[int, int, int]:
    stats = llm.stats.last
    return stats.n_steps, stats.n_drafted, stats.n_accepted


# ---- save_state and load_state ------------------------------------------------------------


@pytest.mark.slow
@everywhere
def test_a_restored_chat_keeps_drafting_as_if_never_saved(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=drafter)
    first = answer(llm, TURN_1)
    state = llm.save_state()
    second = answer(llm, TURN_1 + first + TURN_2)
    assert "40" in second
    check_drafts(llm)
    for restored in (make_llama(Llama, tiny_verifier, drafter=drafter), llm):
        restored.load_state(pickle.loads(pickle.dumps(state)))
        assert restored.n_tokens == state.n_tokens
        assert answer(restored, TURN_1 + first + TURN_2) == second
        assert counts(restored) == counts(llm)
        # Nothing of the first turn was read again.
        if drafter is not None:
            assert (
                restored.stats.last.n_prompt < len(llm.tokenize(TURN_2.encode(), special=True)) + 3
            )


@pytest.mark.slow
@everywhere
def test_going_on_in_the_middle_of_an_answer(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=drafter)
    tokens = llm.tokenize(PROSE.encode())
    whole = list(itertools.islice(llm.generate(tokens, temp=0), 50))
    check_drafts(llm)
    for n in (1, 4, 9, 20):
        llm.reset()
        begun = list(itertools.islice(llm.generate(tokens, temp=0), n))
        state = llm.save_state()
        llm.reset()
        answer(llm, TURN_1)
        llm.load_state(state)
        rest = list(itertools.islice(llm.generate([*tokens, *begun], temp=0), 50 - n))
        assert begun + rest == whole
        check_drafts(llm)


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize("by_row", [False, True])
def test_saving_does_not_disturb_a_running_generator(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None, by_row: bool
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, logits_all=by_row)
    tokens = llm.tokenize(PROSE.encode())
    expected = list(itertools.islice(llm.generate(tokens, temp=0), 40))
    llm.reset()
    states = []
    found = []
    for token in itertools.islice(llm.generate(tokens, temp=0), 40):
        found.append(token)
        if len(found) % 3 == 0:
            states.append(llm.save_state())
            assert states[-1].n_tokens == len(tokens) + len(found) - 1
    assert found == expected
    check_drafts(llm)
    for i, state in enumerate(states):
        llm.load_state(state)
        n = 3 * (i + 1)
        rest = itertools.islice(llm.generate([*tokens, *expected[:n]], temp=0), 40 - n)
        assert list(rest) == expected[n:]


def test_a_parents_state_decodes_plainly_warns_once_and_drafts_after_reset(
    make_llama: MakeLlama, tiny_verifier: Path, b8: Path
) -> None:
    parent = make_llama(llama_cpp.Llama, tiny_verifier)
    llm = make_llama(Llama, tiny_verifier, drafter=b8)
    answer(llm, "12 + 3 =")
    first = answer(parent, TURN_1)
    state = parent.save_state()
    expected = answer(parent, TURN_1 + first + TURN_2)
    llm.load_state(state)
    with pytest.warns(RuntimeWarning, match="evaluated without the drafter"):
        assert answer(llm, TURN_1 + first + TURN_2) == expected
    llm.load_state(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert answer(llm, TURN_1 + first + TURN_2) == expected
    assert counts(llm)[1:] == (0, 0)
    llm.reset()
    assert answer(llm, TURN_1 + first + TURN_2) == expected
    check_drafts(llm)


def test_a_parents_state_of_a_known_prompt_drafts_on(
    make_llama: MakeLlama, tiny_verifier: Path, b8: Path
) -> None:
    parent = make_llama(llama_cpp.Llama, tiny_verifier)
    llm = make_llama(Llama, tiny_verifier, drafter=b8)
    tokens = llm.tokenize(PROSE.encode())
    for model in (parent, llm):
        model.eval(tokens)
    llm.load_state(parent.save_state())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer(llm, PROSE) == answer(parent, PROSE)
    check_drafts(llm)


def test_the_parent_loads_our_state(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=drafter)
    parent = make_llama(llama_cpp.Llama, tiny_verifier)
    first = answer(llm, TURN_1)
    check_drafts(llm, rejected=False)
    parent.load_state(llm.save_state())
    assert parent.n_tokens == llm.n_tokens
    second = answer(parent, TURN_1 + first + TURN_2)
    assert second == answer(llm, TURN_1 + first + TURN_2)
    check_drafts(llm)


def test_a_state_saved_after_reset_loads(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    """The parent's holds the old tokens in its memory, and says that there are none."""
    parent = make_llama(llama_cpp.Llama, tiny_verifier)
    expected = answer(parent, PROSE)
    parent.reset()
    state = parent.save_state()
    for used in (False, True):
        llm = make_llama(Llama, tiny_verifier, drafter=drafter)
        if used:
            answer(llm, TURN_1)
        llm.load_state(state)
        assert llm.n_tokens == 0
        assert answer(llm, PROSE) == expected
        check_drafts(llm)


def test_a_state_cut_short_by_its_owner_loads(
    make_llama: MakeLlama, tiny_verifier: Path, b8: Path
) -> None:
    """The few tokens that are left are read again, so that it drafts."""
    parent = make_llama(llama_cpp.Llama, tiny_verifier)
    llm = make_llama(Llama, tiny_verifier, drafter=b8)
    expected = answer(parent, PROSE)
    parent.n_tokens = 2
    llm.load_state(parent.save_state())
    assert answer(llm, PROSE) == expected
    check_drafts(llm)


def test_the_state_of_another_drafter_never_drafts_wrongly(
    make_llama: MakeLlama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    source = make_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"])
    first = answer(source, TURN_1)
    state = source.save_state()
    expected = answer(source, TURN_1 + first + TURN_2)
    for name in ("dflash-b4", "dflash2-b8", "dspark-b8"):
        llm = make_llama(Llama, tiny_verifier, drafter=tiny_drafters[name])
        llm.load_state(state)
        with pytest.warns(RuntimeWarning, match="with another one"):
            assert answer(llm, TURN_1 + first + TURN_2) == expected
        assert counts(llm)[1:] == (0, 0)
        llm.reset()
        assert answer(llm, TURN_1 + first + TURN_2) == expected
        check_drafts(llm)


def test_a_state_of_a_larger_context_is_refused_and_the_model_usable(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    large = make_llama(Llama, tiny_verifier, drafter=drafter)
    answer(large, PROSE, 400)
    small = make_llama(Llama, tiny_verifier, drafter=drafter, n_ctx=256)
    expected = answer(small, PROSE)
    with pytest.raises((ValueError, RuntimeError, DFlashError)):
        small.load_state(large.save_state())
    small.reset()
    assert answer(small, PROSE) == expected
    check_drafts(small)


@pytest.mark.parametrize("damage", ["empty", "zeros", "half"])
def test_a_damaged_drafter_state_is_said_and_decodes_plainly(
    make_llama: MakeLlama, tiny_verifier: Path, b8: Path, damage: str
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=b8)
    begun = answer(llm, PROSE, 40)
    state = llm.save_state()
    rest = answer(llm, PROSE + begun)
    check_drafts(llm)
    whole = state.drafter_state
    damaged = {"empty": b"", "zeros": b"\0" * len(whole), "half": whole[: len(whole) // 2]}
    state.drafter_state = damaged[damage]
    llm.reset()
    llm.load_state(state)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert answer(llm, PROSE + begun) == rest
    assert counts(llm)[1:] == (0, 0)
    llm.reset()
    assert answer(llm, PROSE + begun) == rest
    check_drafts(llm)


def test_a_prompt_read_behind_its_back_is_said_and_decoded_plainly(
    make_llama: MakeLlama, tiny_verifier: Path, b8: Path
) -> None:
    """As multimodal handlers do: they decode in the context and set the parent's fields."""
    parent = make_llama(llama_cpp.Llama, tiny_verifier)
    llm = make_llama(Llama, tiny_verifier, drafter=b8)
    prompt = TURN_1 + "anna is 13"
    tokens = llm.tokenize(prompt.encode(), special=True)
    expected = answer(parent, prompt)
    answer(llm, OTHER_PROMPT)
    llm.n_tokens = 0
    llama_cpp.Llama.eval(llm, tokens)
    state = llm.save_state()
    with pytest.warns(RuntimeWarning, match="multimodal"):
        assert answer(llm, prompt) == expected
    assert counts(llm)[1:] == (0, 0)
    llm.load_state(state)  # holds nothing of the drafter's that would belong to it
    assert answer(llm, prompt) == expected
    assert counts(llm)[1:] == (0, 0)
    assert answer(llm, OTHER_PROMPT) == answer(parent, OTHER_PROMPT)
    check_drafts(llm)


def test_a_few_positions_decoded_by_others_are_never_read_as_tokens(
    make_llama: MakeLlama, tiny_verifier: Path, b8: Path
) -> None:
    """As a chat handler leaves a small image: its positions hold ids that mean nothing."""
    llm = make_llama(Llama, tiny_verifier, drafter=b8)
    parent = make_llama(llama_cpp.Llama, tiny_verifier)
    tokens = llm.tokenize(PROSE.encode(), special=True)
    for model in (llm, parent):
        model.eval(tokens)
        llama_cpp.Llama.eval(model, [5, 6, 7])  # behind the session's back
        model.input_ids[model.n_tokens - 3 : model.n_tokens] = 9
    prompt = [*tokens, 9, 9, 9, *tokens]
    expected = list(itertools.islice(parent.generate(prompt, temp=0.0), 20))
    with pytest.warns(RuntimeWarning, match="without the drafter"):
        assert list(itertools.islice(llm.generate(prompt, temp=0.0), 20)) == expected


# ---- caches and pickling -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("stream", [False, True])
def test_caches_serve_another_model(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    drafter: Path | None,
    tmp_path: Path,
    kind: str,
    stream: bool,
) -> None:
    def make() -> Any:
        llm = make_llama(Llama, tiny_verifier, drafter=drafter)
        llm.set_cache(cache)
        return llm

    def text(llm: Any, prompt: str) -> str:
        got = llm(prompt, max_tokens=60, temperature=0, stream=stream)
        return (
            "".join(c["choices"][0]["text"] for c in got) if stream else got["choices"][0]["text"]
        )

    cache: Any = None
    expected = text(make(), TURN_1)
    follow_up = TURN_1 + expected + TURN_2
    plain = text(make(), follow_up)
    cache = (
        llama_cpp.LlamaRAMCache()
        if kind == "ram"
        else llama_cpp.LlamaDiskCache(str(tmp_path / "c"))
    )
    assert text(make(), TURN_1) == expected
    reader = make()
    loaded = []
    load_state = reader.load_state
    reader.load_state = lambda state: (loaded.append(state.n_tokens), load_state(state))
    assert text(reader, follow_up) == plain
    assert loaded == [len(reader.tokenize((TURN_1 + expected).encode(), special=True))]
    check_drafts(reader)
    if drafter is not None:
        assert reader.stats.last.n_prompt < 40


def test_pickling_keeps_the_drafter(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    options: dict[str, Any] = {"width": 3, "sampling": "rejection", "n_batch": 64}
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, **options)
    expected = answer(llm, PROSE)
    with pickle.loads(pickle.dumps(llm)) as twin:
        assert isinstance(twin, Llama)
        assert {name: getattr(twin, name) for name in options} == options
        assert twin.drafter_path == drafter
        assert twin.context_params.type_k == llm.context_params.type_k
        assert answer(twin, PROSE) == expected
        check_drafts(twin)
        assert counts(twin) == counts(llm)
