"""What is checked before widths are called exact, what is kept of it, and what is then verified.

Blocks that are decoded row by row (``n_ubatch=1``) are exact on every processor, so that these
tests need no kernel that adds up alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from exactness import ONE_THREAD, answers, exact_widths, greedy, tiny_prompts, verified_widths
from random_hybrid import write_lfm2

from dflash_local import Llama, _core
from dflash_local.errors import BackendError, ModelError
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.runtime import exact_check

OPTIONS: dict[str, Any] = {"n_ctx": 512, "verbose": False, **ONE_THREAD}
ONE_ROW = {"n_ubatch": 1}
ALL = (1, 2, 3, 4, 5, 6, 7)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))
    return tmp_path / "exact"


@pytest.fixture
def drafter(tiny_drafters: dict[str, Path]) -> Path:
    return tiny_drafters["dflash-b8"]


# ---- what is verified ----------------------------------------------------------------------


@pytest.mark.slow
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
        assert exact_widths(llm) == (2, 3), "it was not read"
        prompts = tiny_prompts(llm, 6, seed=9)
        answers(llm, prompts)
        assert verified_widths(llm) <= {0, 2, 3}
        if width is not None:
            assert (llm.stats.total.n_drafted > 0) == (width > 1)
        for prompt in prompts:  # drafts of the caller's own, of any length
            stream = llm.generate(prompt, temp=0.0)
            next(stream)
            for n in range(6):
                stream.send([5] * n)
        assert verified_widths(llm) == {0, 2, 3}


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
        assert exact_widths(llm) == ()


def test_attention_that_the_caller_chose_stays(tiny_verifier: Path, drafter: Path) -> None:
    for chosen, kept in (({}, 1), ({"flash_attn": True}, 1), ({"flash_attn": False}, 0)):
        options = {**OPTIONS, **ONE_ROW, **chosen}
        with Llama(tiny_verifier, drafter=drafter, exact=True, **options) as llm:
            assert llm.context_params.flash_attn_type == kept
            assert exact_widths(llm) == ALL
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
    with pytest.raises(ModelError, match="could not be found out"):
        Llama(tiny_verifier, drafter=drafter, exact=True, **options)


@pytest.mark.parametrize("name", ["observing.node_watch", "_core.plain_rows"])
def test_a_comparison_that_fails_costs_the_preference_and_not_the_model(
    tiny_verifier: Path, drafter: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise AttributeError("hidden") if "node_watch" in name else BackendError("it failed")

    monkeypatch.setattr(f"dflash_local.runtime.exact_check.{name}", fails)
    options = {**OPTIONS, **ONE_ROW, "flash_attn": True}
    with Llama(tiny_verifier, drafter=drafter, **options) as llm:
        assert llm.exact_widths is None
        llm.width = 4
        answers(llm, tiny_prompts(llm, 2, seed=15))
        assert llm.stats.total.n_drafted > 0
    with pytest.raises(ModelError, match="could not be found out"):
        Llama(tiny_verifier, drafter=drafter, exact=True, **options)


def test_what_took_too_long_is_tried_again_only_where_it_is_wanted(
    tiny_verifier: Path, drafter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, **ONE_ROW, "flash_attn": True}
    with monkeypatch.context() as patch:
        patch.setattr(exact_check, "SECONDS", 0.0)
        with Llama(tiny_verifier, drafter=drafter, **options) as llm:
            assert llm.exact_widths is None
    for wanted, found in ((None, None), (True, ALL), (None, ALL)):
        with Llama(tiny_verifier, drafter=drafter, exact=wanted, **options) as llm:
            assert (found is None) == (llm.exact_widths is None)
            assert found is None or exact_widths(llm) == found


def test_a_check_that_was_not_finished_goes_on_when_the_pair_is_loaded_next(
    tiny_verifier: Path, drafter: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, **ONE_ROW, "flash_attn": True}
    plain_rows, read = _core.plain_rows, []

    def limited(*arguments: Any, n_read: int, **options: Any) -> Any:
        read.append(n_read)
        return None if len(read) == 2 else plain_rows(*arguments, n_read=n_read, **options)

    monkeypatch.setattr(_core, "plain_rows", limited)
    with Llama(tiny_verifier, drafter=drafter, **options) as llm:
        assert llm.exact_widths is None
    (file,) = cache.iterdir()
    assert json.loads(file.read_text()) == {"short": [0, *ALL]}
    with Llama(tiny_verifier, drafter=drafter, **options) as llm:
        assert exact_widths(llm) == ALL
    assert read == [16, 100, 100, 257]


def test_a_damaged_file_is_checked_again(tiny_verifier: Path, drafter: Path, cache: Path) -> None:
    for damage in (None, "", "[]", '{"short": "all"}', '{"other": [1]}'):
        if damage is not None:
            (file,) = cache.iterdir()
            file.write_text(damage)
        with Llama(tiny_verifier, drafter=drafter, exact=True, **OPTIONS, **ONE_ROW) as llm:
            assert exact_widths(llm) == ALL


@pytest.mark.slow
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
        assert exact_widths(llm) == ALL
        llm.width = 4
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
