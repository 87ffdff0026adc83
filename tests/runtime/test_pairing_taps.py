"""Verifiers whose graph does not give what a drafter reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import MODELS
from waiting import PATIENCE

LOAD = """
import sys
from dflash_local import BackendError, Llama, ModelError
from dflash_local.files import taps
taps.TAPS.pop("gemma3")
taps.TAPS |= eval(sys.argv[3], {"Tap": taps.Tap})
options = {"n_ctx": 64, "n_threads": 1, "n_threads_batch": 1}
try:
    llm = Llama(sys.argv[1], drafter=sys.argv[2], **options)
    llm("the brown", max_tokens=4)
except (BackendError, ModelError) as error:
    print(error)
print(len(Llama(sys.argv[1], **options)("the brown", max_tokens=4)["choices"]), "plain answer")
"""


def load_in_a_process(drafter: Path, taps: str) -> subprocess.CompletedProcess[str]:
    """A gemma3 with a drafter, were these the taps of its architecture."""
    verifier = MODELS / "verifier-nolayerinp.gguf"
    return subprocess.run(
        [sys.executable, "-c", LOAD, str(verifier), str(drafter), taps],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )


def test_a_verifier_without_a_tap_is_refused_with_the_reason(
    tiny_drafters: dict[str, Path],
) -> None:
    done = load_in_a_process(tiny_drafters["dflash-b8"], "{}")
    assert done.returncode == 0, done.stderr
    assert "no drafter can read verifiers of architecture 'gemma3'" in done.stdout
    assert "drafter=None" in done.stdout
    assert done.stdout.rstrip().endswith("1 plain answer")


def test_with_the_native_tap_on_a_graph_without_layer_inputs_the_process_would_die(
    tiny_drafters: dict[str, Path],
) -> None:
    done = load_in_a_process(tiny_drafters["dflash-b8"], "{'gemma3': Tap()}")
    assert done.returncode not in (0, 1)  # 1 would be an exception
    assert "layer input tensor is null" in done.stderr


def test_a_node_that_the_graph_does_not_have_is_told_when_it_is_loaded(
    tiny_drafters: dict[str, Path],
) -> None:
    done = load_in_a_process(tiny_drafters["dflash-b8"], "{'gemma3': Tap('layer_out')}")
    assert done.returncode == 0, done.stderr
    assert "the graph's node layer_out-0 gave 0 bytes" in done.stdout
    assert done.stdout.rstrip().endswith("1 plain answer")
