"""The likeliest tokens of a draft, chosen by libllama's device: here the CPU itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from conftest import MakeLlama
from exactness import DRAFTERS, ONE_THREAD, tiny_prompts
from llama_cpp._internals import LlamaSampler

import dflash_local
from dflash_local import _core
from dflash_local.files.drafter_file import read_drafter
from dflash_local.runtime.drafter import LoadedDrafter, address

KINDS = tuple(name for name in DRAFTERS if not name.startswith("dflash2"))


@pytest.fixture(scope="module")
def stock(make_module_llama: Callable[..., Any], tiny_verifier: Path) -> llama_cpp.Llama:
    return make_module_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)


@contextmanager
def drafting(
    stock: llama_cpp.Llama, file: Path, *, on_device: bool
) -> Iterator[dflash_local.Session]:
    info = read_drafter(file)
    stock._ctx.kv_cache_clear()
    loaded = LoadedDrafter(info, stock._ctx.ctx, stock.context_params, device_top_k=on_device)
    verifier = _core.Verifier(
        address(stock._ctx.ctx), max_rows=stock.n_batch, feature_layers=info.target_layers
    )
    session = dflash_local.Session(verifier, loaded.core, width=loaded.core.max_width)
    try:
        yield session
    finally:
        session.close()
        loaded.close()


Step = tuple[list[int], list[int], list[float]]


def steps(session: dflash_local.Session, prompt: list[int], n: int, sampler: Any = None) -> Any:
    session.sync(prompt)
    session.step(sampler)
    seen: list[Step] = []
    for _ in range(n):
        step = session.step(sampler, rejection=sampler is not None)
        seen.append((step.tokens, session.draft.tokens, session.draft.confidence))
    return seen


@pytest.mark.parametrize("name", KINDS)
def test_drafts_and_confidences_are_those_of_the_host(
    name: str, stock: llama_cpp.Llama, tiny_drafters: dict[str, Path]
) -> None:
    prompts = tiny_prompts(stock, 6, seed=31)
    seen = []
    for on_device in (False, True):
        with drafting(stock, tiny_drafters[name], on_device=on_device) as session:
            assert session.drafter is not None
            assert session.drafter.on_device == on_device
            seen.append([step for prompt in prompts for step in steps(session, prompt, 12)])
            assert session.total_stats.n_accepted > 0
            for width in (1, 3):
                session.width = width
                seen[-1] += steps(session, prompts[0], 12)
    confident = 0
    for host, device in zip(*seen, strict=True):
        assert host[:2] == device[:2]
        np.testing.assert_allclose(
            device[2], host[2], rtol=1e-3
        )  # the host leaves out what is far below the best
        confident += sum(0.05 < sure < 0.95 for sure in host[2])
    assert confident > 50, "chances near 0 and 1 tell little"


def test_of_a_dflash2_drafter_nothing_is_chosen(
    stock: llama_cpp.Llama, tiny_drafters: dict[str, Path]
) -> None:
    with drafting(stock, tiny_drafters["dflash2-b8"], on_device=True) as session:
        assert session.drafter is not None
        assert not session.drafter.on_device


def test_no_logits_come_from_the_device(
    stock: llama_cpp.Llama, tiny_drafters: dict[str, Path]
) -> None:
    (prompt,) = tiny_prompts(stock, 1, seed=31)
    with drafting(stock, tiny_drafters["dflash-b8"], on_device=True) as session:
        steps(session, prompt, 2)
        with pytest.raises(ValueError, match="stay on its device"):
            session.draft_logits(0)


@pytest.mark.parametrize("name", ["dflash-b8", "dflash-b8-d2t", "dspark-b8"])
def test_rejection_sampling_draws_from_the_same_distribution(
    name: str, stock: llama_cpp.Llama, tiny_drafters: dict[str, Path]
) -> None:
    """The same seed draws the same drafts and answers: both see the same chances."""
    prompts = tiny_prompts(stock, 8, seed=33)
    seen = []
    for on_device in (False, True):
        answers = []
        with drafting(stock, tiny_drafters[name], on_device=on_device) as session:
            for seed, prompt in enumerate(prompts):
                sampler = LlamaSampler()
                sampler.add_top_p(0.98, 1)
                sampler.add_temp(1.1)
                sampler.add_dist(seed)
                answers.append([step[:2] for step in steps(session, prompt, 10, sampler)])
                sampler.close()
            assert 0 < session.total_stats.n_accepted < session.total_stats.n_drafted
        seen.append(answers)
    n_drawn = sum(step[1] != drafts for step, drafts in _greedy_drafts(stock, tiny_drafters[name]))
    assert n_drawn > 0, "all of them were the likeliest"
    same = [host == device for host, device in zip(*seen, strict=True)]
    # A draw that falls on the border of two tokens may go either way by rounding.
    assert sum(same) >= len(same) - 1


def _greedy_drafts(stock: llama_cpp.Llama, file: Path) -> Iterator[tuple[Any, list[int]]]:
    (prompt,) = tiny_prompts(stock, 1, seed=33)
    sampler = LlamaSampler()
    sampler.add_temp(1.5)
    sampler.add_dist(1)
    with drafting(stock, file, on_device=True) as session:
        session.sync(prompt)
        session.step(sampler)
        for _ in range(10):
            drafts = session.propose().tokens
            session.discard()
            step = session.step(sampler, rejection=True)
            yield (step.tokens, session.draft.tokens), drafts
    sampler.close()


def test_the_device_is_asked_where_the_heads_lie_on_one(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that is there, by name: libllama itself goes on with the CPU."""
    for devices in ({}, {"CUDA0": 16}):
        monkeypatch.setattr("dflash_local.runtime.placement.gpus", lambda found=devices: found)
        for layers, drafters in ((0, None), (-1, None), (-1, 0), (0, -1), (2, 1)):
            options = {"n_gpu_layers": layers, "drafter_gpu_layers": drafters, **ONE_THREAD}
            llm = make_llama(
                dflash_local.Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **options
            )
            expected = bool(devices) and layers != 0 and drafters != 0
            assert llm.session.drafter.on_device == expected
            assert (
                len(list(zip(range(20), llm.generate([1, 14, 88], temp=0.0), strict=False))) == 20
            )
