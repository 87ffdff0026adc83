"""z-lab's own implementation (``dflash`` on PyPI), on the CPU."""

from __future__ import annotations

import itertools
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .engine import UnavailableError, required

_PACKAGES = ("torch", "transformers", "dflash")
_ADVICE = (
    "pip install torch transformers gguf accelerate, then pip install --no-deps dflash; or name an "
    "interpreter that has them with --torch-python"
)


class TorchEngine:
    """The verifier as a Hugging Face model made from its GGUF, and the drafter's checkpoint."""

    def __init__(self, setup: dict[str, Any]) -> None:
        if not setup["torch_drafter"]:
            raise UnavailableError(
                "it reads a drafter as safetensors, not as GGUF: name the folder with "
                "config.json and model.safetensors with --torch-drafter"
            )
        self._torch = required("torch", _ADVICE)
        self._torch.set_num_threads(setup["threads"])
        transformers = required("transformers", _ADVICE)
        transformers.logging.set_verbosity_error()
        self._model = required("dflash.model", _ADVICE)
        self._model._cuda_time = time.perf_counter  # its clock is CUDA's
        dtype = getattr(self._torch, setup["torch_dtype"])
        verifier = Path(setup["verifier"])
        self._verifier = transformers.AutoModelForCausalLM.from_pretrained(
            verifier.parent, gguf_file=verifier.name, dtype=dtype
        ).eval()
        self._drafter = self._model.DFlashDraftModel.from_pretrained(
            setup["torch_drafter"], dtype=dtype
        ).eval()
        self._ends = setup["end_tokens"]

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in _PACKAGES}

    def answer(self, engine: str, width: int, prompt: list[int], max_tokens: int) -> dict[str, Any]:
        del engine
        done = self._model.dflash_generate(
            self._drafter,
            self._verifier,
            self._torch.tensor([prompt]),
            max_tokens,
            self._ends,
            block_size=width + 1,
            return_stats=True,
        )
        return _answer(done, width, max_tokens)


def _answer(done: Any, width: int, max_tokens: int) -> dict[str, Any]:
    lengths = done.acceptance_lengths
    output = done.output_ids[0, done.num_input_tokens :].tolist()
    return {
        "n_tokens": done.num_output_tokens,
        # It divides by all tokens; the clock runs from the first one on.
        "seconds": done.time_per_output_token * done.num_output_tokens,
        "seconds_to_first": done.time_to_first_token,
        "n_steps": len(lengths),
        "n_drafted": _n_drafted(lengths, width, max_tokens),
        "n_accepted": sum(lengths) - len(lengths),
        "output": " ".join(map(str, output)),
    }


def _n_drafted(lengths: list[int], width: int, max_tokens: int) -> int:
    """Its last blocks are cut where the answer has to end."""
    begun = itertools.accumulate(lengths[:-1], initial=0)
    return sum(min(width, max_tokens - 1 - n_done) for n_done in begun) if lengths else 0


def load(setup: dict[str, Any]) -> TorchEngine:
    """Both models.

    Raises:
        UnavailableError: a package is missing, or there is no checkpoint to read.
    """
    return TorchEngine(setup)
