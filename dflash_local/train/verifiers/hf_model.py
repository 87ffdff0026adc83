"""A Hugging Face model in a folder: config, tokenizer and weights, by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from dflash_local.errors import ModelError
from dflash_local.train.processes import own_device

#: transformers leaves both without types.
generation_settings: Callable[..., Any] = GenerationConfig
_logging: Any = logging

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_PARTS = ("embed_tokens", "layers", "norm")


class HfModel:
    """Each part is loaded when it is first asked for. Code that comes with a model is not run.

    Raises:
        ModelError: it is no language model of a decoder alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: Any = _load(AutoConfig.from_pretrained, folder, "config")
        names = getattr(self.config, "architectures", None) or ["no architecture"]
        if not names[0].endswith("ForCausalLM"):
            raise self.another_kind(f"found {names[0]} in config.json")

    @cached_property
    def tokenizer(self) -> Any:
        """Raises ModelError where there is none."""
        if not any((self.folder / name).is_file() for name in _TOKENIZERS):
            raise ModelError(
                f"{self.folder} has no tokenizer: expected {' or '.join(_TOKENIZERS)} beside the "
                "weights"
            )
        return _load(AutoTokenizer.from_pretrained, self.folder, "tokenizer")

    @cached_property
    def model(self) -> Any:
        """In F32 on a CPU, in the checkpoint's own type on a GPU; without gradients.

        Raises:
            ModelError: it cannot be loaded, or is built otherwise.
        """
        device = own_device()
        dtype = torch.float32 if device.type == "cpu" else "auto"
        load = AutoModelForCausalLM.from_pretrained
        model = _load(load, self.folder, "model", dtype=dtype, use_safetensors=True)
        if not all(hasattr(getattr(model, "model", None), part) for part in _PARTS):
            raise self.another_kind(f"{type(model).__name__} has no model.layers")
        model.generation_config = generation_settings()  # a question says how it is answered
        return model.to(device).eval().requires_grad_(False)

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that end a generation."""
        file = self.folder / "generation_config.json"
        advised = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        own = getattr(self.config, "eos_token_id", None)
        found: list[int] = []
        for ends in (advised.get("eos_token_id"), own, self.tokenizer.eos_token_id):
            found += ends if isinstance(ends, list) else [] if ends is None else [ends]
        return list(dict.fromkeys(found))

    def another_kind(self, what: str) -> ModelError:
        """The error for a model that no drafter can be trained for."""
        return ModelError(
            f"{self.folder}: {what}; expected a language model of a decoder alone "
            "(...ForCausalLM) with model.embed_tokens, model.layers and model.norm"
        )


def _load(load: Callable[..., Any], folder: Path, what: str, **settings: Any) -> Any:
    try:
        with _quiet():
            return load(folder, local_files_only=True, trust_remote_code=False, **settings)
    except Exception as error:  # transformers raises what it met: they share no base
        raise ModelError(f"{folder}: transformers could not load its {what}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws bars and gives advice."""
    bars, level = _logging.is_progress_bar_enabled(), _logging.get_verbosity()
    _logging.disable_progress_bar()
    _logging.set_verbosity_error()
    try:
        yield
    finally:
        _logging.set_verbosity(level)
        if bars:
            _logging.enable_progress_bar()
