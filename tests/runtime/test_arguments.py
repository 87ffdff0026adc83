"""Arguments that neither class knows are told, once and with a guess."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

from dflash_local import Llama

MISSPELT: dict[str, Any] = {"widht": 3, "n_gpu_layer": 0, "f16_kv": True}


@pytest.mark.parametrize("with_drafter", [False, True])
def test_all_unknown_arguments_are_in_one_warning_with_what_was_meant(
    tiny_verifier: Path, tiny_drafters: dict[str, Path], with_drafter: bool
) -> None:
    drafter = tiny_drafters["dflash-b8"] if with_drafter else None
    options: dict[str, Any] = {"n_threads": 1, "n_threads_batch": 1, **MISSPELT}
    with pytest.warns(RuntimeWarning) as caught, Llama(tiny_verifier, drafter=drafter, **options):
        pass
    assert len(caught) == 1
    assert str(caught[0].message) == (
        "neither dflash_local.Llama nor llama_cpp.Llama has an argument 'widht' (did you mean "
        "'width'?), 'n_gpu_layer' (did you mean 'n_gpu_layers'?), 'f16_kv': ignored"
    )
    assert caught[0].filename == __file__


def test_known_arguments_are_not_told(tiny_verifier: Path, tiny_drafters: dict[str, Path]) -> None:
    drafter = tiny_drafters["dflash-b8"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm = Llama(tiny_verifier, drafter=drafter, width=1, sampling="exact", n_threads=1)
        with llm, pickle.loads(pickle.dumps(llm)) as again:
            assert again.width == 1


def test_where_warnings_are_errors_nothing_is_loaded(tiny_verifier: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="'n_ctxx'"):
            Llama(tiny_verifier, n_ctxx=4)
