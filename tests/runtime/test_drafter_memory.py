"""Where a drafter's layers lie, and what happens where there is no memory for it."""

from __future__ import annotations

import ctypes
import itertools
import json
import pickle
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama
from exactness import ONE_THREAD, greedy, tiny_prompts

import dflash_local
from dflash_local import BackendError
from dflash_local.runtime import placement, seam
from dflash_local.runtime.placement import ALL_LAYERS, Placement, same_share

# ---- placement -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offloaded", "drafter"),
    [(0, 0), (1, 1), (10, 2), (20, 4), (36, 6), (37, ALL_LAYERS), (-1, ALL_LAYERS)],
)
def test_a_drafter_of_5_layers_has_the_share_of_a_verifier_of_36(
    offloaded: int, drafter: int
) -> None:
    assert same_share(offloaded, 36, 5) == drafter


def params_of(given: Placement) -> tuple[Any, list[Any]]:
    params = llama_cpp.llama_model_default_params()
    return params, given.apply(params)


def devices_in(params: Any) -> list[int]:
    """The addresses in its list, which ends with none."""
    devices = ctypes.cast(params.devices, ctypes.POINTER(ctypes.c_void_p))
    return list(itertools.takewhile(bool, (devices[i] for i in itertools.count())))


def test_the_verifiers_devices_are_the_drafters() -> None:
    default, _ = params_of(Placement())
    assert (default.n_gpu_layers, default.devices) == (0, None)
    assert default.split_mode == llama_cpp.llama_model_default_params().split_mode
    assert not default.tensor_split
    mode = llama_cpp.LLAMA_SPLIT_MODE_NONE
    params, _kept = params_of(Placement(3, mode, main_gpu=1, tensor_split=(0.25, 0.75)))
    assert (params.n_gpu_layers, params.split_mode, params.main_gpu) == (3, mode, 1)
    assert params.tensor_split[:3] == [0.25, 0.75, 0.0]


def test_devices_that_are_named_get_all_layers_and_the_others_stay_at_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "gpus", lambda: {"CUDA0": 16, "CUDA1": 32, "CUDA2": 48})
    params, _kept = params_of(Placement(ALL_LAYERS, devices=("CUDA2", "CUDA1")))
    assert devices_in(params) == [48, 32, 16]
    assert params.tensor_split[:4] == [1.0, 1.0, 0.0, 0.0]
    assert params.split_mode == llama_cpp.LLAMA_SPLIT_MODE_LAYER


def test_beside_servers_a_drafter_goes_to_this_machines_gpus_or_stays_in_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "devices_of", {"a:1": [64, 80], "b:2": [96]}.get)
    monkeypatch.setattr(placement, "gpus", lambda: {"CUDA0": 16, "Vulkan0": 32})
    monkeypatch.setattr(placement, "default_gpus", lambda: {"CUDA0": 16})
    assert placement.verifier_devices(["a:1", "b:2"]) == [64, 80, 96, 16]
    assert placement.verifier_devices([]) == []
    servers = ("a:1", "b:2")
    for chosen, devices, shares in (
        (Placement(2, rpc=servers), [16, 32, 64, 80, 96], [1.0]),
        (Placement(2, rpc=servers, devices=("a:1",)), [64, 80, 16, 32, 96], [1.0, 1.0]),
    ):
        params, _kept = params_of(chosen)
        assert params.n_gpu_layers == 2
        assert devices_in(params) == devices
        assert params.tensor_split[:5] == shares + [0.0] * (5 - len(shares))
    monkeypatch.setattr(placement, "gpus", dict)
    monkeypatch.setattr(placement, "default_gpus", dict)
    params, _kept = params_of(Placement(ALL_LAYERS, rpc=servers))
    assert (params.n_gpu_layers, devices_in(params)) == (0, [64, 80, 96])


def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(
    tiny_drafters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(devices: Any) -> None:
        dflash_local.Llama(
            "no-such-file.gguf", drafter=tiny_drafters["dflash-b8"], drafter_devices=devices
        )

    if not placement.gpus():
        with pytest.raises(ValueError, match=r"no device 'CUDA7'.* are none"):
            load(["CUDA7"])
    monkeypatch.setattr(placement, "gpus", lambda: {"CUDA0": 16, "CUDA1": 32})
    for devices in (["CUDA0", "CUDA7"], "CUDA7"):
        with pytest.raises(ValueError, match=r"no device 'CUDA7'.* are CUDA0, CUDA1"):
            load(devices)
    with pytest.raises(ValueError, match="drafter_gpu_layers is -2"):
        dflash_local.Llama(
            "no-such-file.gguf", drafter=tiny_drafters["dflash-b8"], drafter_gpu_layers=-2
        )


@pytest.fixture
def placements(monkeypatch: pytest.MonkeyPatch) -> list[Placement]:
    """The placements of the drafters that are loaded."""
    seen = []

    class Recorded(seam.LoadedDrafter):  # type: ignore[misc,name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            seen.append(kwargs["placement"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(seam, "LoadedDrafter", Recorded)
    return seen


@pytest.mark.parametrize(
    ("options", "n_layers"),
    [
        ({}, 0),
        ({"n_gpu_layers": -1}, ALL_LAYERS),
        ({"n_gpu_layers": 2}, 1),  # the tiny verifier has 4 layers, the drafter 1
        ({"n_gpu_layers": 4}, 2),
        ({"n_gpu_layers": -1, "drafter_gpu_layers": 0}, 0),
        ({"drafter_gpu_layers": -1}, ALL_LAYERS),
        ({"n_gpu_layers": 2, "drafter_gpu_layers": 1}, 1),
    ],
)
def test_a_drafter_lies_where_its_verifier_does_unless_told_otherwise(
    options: dict[str, Any],
    n_layers: int,
    placements: list[Placement],
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    given = {**ONE_THREAD, "tensor_split": [0.5, 0.5], **options}
    make_llama(dflash_local.Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **given)
    (seen,) = placements
    assert seen.n_gpu_layers == n_layers
    assert seen.split_mode == llama_cpp.LLAMA_SPLIT_MODE_LAYER
    assert seen.tensor_split == (0.5, 0.5)
    assert seen.devices == ()


def test_the_options_survive_pickling(
    placements: list[Placement],
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    options = {"drafter_ctx": 33, "drafter_gpu_layers": 1, **ONE_THREAD}
    llm = make_llama(
        dflash_local.Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **options
    )
    with pickle.loads(pickle.dumps(llm)) as copy:
        assert copy.session.drafter.n_ctx == 33
    assert placements[0] == placements[1]


# ---- no memory -----------------------------------------------------------------------------

# Loads a model whose drafter gets so many MB; what it warns of, and what it answers.
_SHORT_OF_MEMORY = """
import json, resource, sys, warnings
import dflash_local
from dflash_local.runtime import seam

verifier, drafter, megabytes, options = sys.argv[1:]
open_session = seam.open_session

def short(*args, **kwargs):
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + (int(megabytes) << 20)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        return open_session(*args, **kwargs)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

seam.open_session = short
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    llm = dflash_local.Llama(
        verifier, drafter=drafter, n_threads=1, n_threads_batch=1, **json.loads(options)
    )
tokens = [token for _, token in zip(range(40), llm.generate([1, 14, 88], temp=0.0))]
told = [str(w.message) for w in caught if w.category is RuntimeWarning]
print(json.dumps([told, tokens, llm.stats.total.n_drafted]))
llm.close()
"""


def answer_short_of_memory(verifier: Path, drafter: Path, megabytes: int, options: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", _SHORT_OF_MEMORY, verifier, drafter, str(megabytes), options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
@pytest.mark.parametrize("width", ["null", "3"])
def test_a_drafter_that_does_not_fit_the_memory_is_warned_of_and_decoding_is_plain(
    width: str, tiny_verifier: Path, tiny_drafters: dict[str, Path], make_llama: MakeLlama
) -> None:
    options = f'{{"n_ctx": 600000, "drafter_ctx": 600000, "width": {width}}}'
    drafter = tiny_drafters["dflash-b8"]
    caught, tokens, n_drafted = answer_short_of_memory(tiny_verifier, drafter, 60, options)
    (warning,) = caught
    assert "the drafter does not fit the memory, so decoding is plain" in warning
    assert re.search(r"attempted to allocate +\d+\.\d+ MB", warning)
    assert "a smaller drafter_ctx" in warning
    assert n_drafted == 0
    stock = make_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    assert tokens == list(islice(stock.generate([1, 14, 88], temp=0.0), 40))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_smaller_context_of_the_drafter_fits(
    tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    options = '{"n_ctx": 600000, "drafter_ctx": 1000, "width": 3}'
    drafter = tiny_drafters["dflash-b8"]
    caught, _, n_drafted = answer_short_of_memory(tiny_verifier, drafter, 60, options)
    assert caught == []
    assert n_drafted > 0


def test_what_fails_in_the_first_decode_is_told_when_the_model_is_loaded(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device may give out memory that it has not, until a decode asks for it."""

    class Short:
        def __init__(self, *_: Any) -> None:
            self.n_ctx = 1

        def try_out(self) -> None:
            raise BackendError("llama_decode of the drafter gave -2: out of memory")

    monkeypatch.setattr("dflash_local.runtime.drafter._core.Drafter", Short)
    with pytest.warns(RuntimeWarning, match=r"does not fit the memory.*out of memory"):
        llm = make_llama(
            dflash_local.Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], **ONE_THREAD
        )
    assert llm.session.drafter is None
    (prompt,) = tiny_prompts(llm, 1, seed=4)
    stock = make_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    assert greedy(llm, prompt, 40) == greedy(stock, prompt, 40)


def test_a_decode_that_fails_for_another_reason_is_an_error(
    tiny_verifier: Path, tiny_drafters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *_: Any) -> None:
            self.n_ctx = 1

        def try_out(self) -> None:
            raise BackendError("llama_decode of the drafter gave -3: the computation failed")

    monkeypatch.setattr("dflash_local.runtime.drafter._core.Drafter", Broken)
    with pytest.raises(BackendError, match=r"could not run the drafter: .*the computation failed"):
        dflash_local.Llama(tiny_verifier, drafter=tiny_drafters["dflash-b8"], **ONE_THREAD)


@pytest.mark.parametrize("embedding", [False, True])
def test_without_the_memory_for_blocks_the_verifiers_context_is_as_it_was(
    embedding: bool,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    make_llama: MakeLlama,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Snapshots of a recurrent memory are the large part; here the second context fails."""
    made: list[Any] = []
    make = seam.internals.LlamaContext

    def second_fails(**kwargs: Any) -> Any:
        params = kwargs["params"]
        made.append((params.n_outputs_max, params.n_rs_seq))
        if len(made) == 2:
            raise ValueError("Failed to create llama_context")
        return make(**kwargs)

    monkeypatch.setattr(seam.internals, "LlamaContext", second_fails)
    drafter = tiny_drafters["dflash-b8"]
    options = {"drafter": drafter, "embedding": embedding, **ONE_THREAD}
    with pytest.warns(RuntimeWarning, match="what drafting needs of the verifier's context"):
        llm = make_llama(dflash_local.Llama, tiny_verifier, **options)
    assert llm.session.drafter is None
    assert len(made) == 3
    assert made[0] == made[2]
    (prompt,) = tiny_prompts(llm, 1, seed=4)
    stock = make_llama(llama_cpp.Llama, tiny_verifier, **ONE_THREAD)
    assert greedy(llm, prompt, 40) == greedy(stock, prompt, 40)
