"""A Hugging Face verifier: transformers answers and reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path

from dflash_local.errors import ModelError
from dflash_local.train.capture import checked_tap

from .hf_capture import HfCapturer
from .hf_files import folder_fingerprint, name_of
from .hf_generate import HfAnswerer
from .hf_model import HfModel
from .hf_template import HfTemplate, chat_template
from .hf_weights import HfWeights
from .verifier import Identity, Sizes
from .verifier_file import VerifierFile


class HfVerifier:
    """See ``Verifier``; tokenizer and model are loaded when they are first asked for.

    Args:
        folder: of the model's files.
        gguf: the same model as GGUF, which a drafter is converted for and tried with.

    Raises:
        ModelError: it is of another kind, or the GGUF is of another model.
    """

    def __init__(self, folder: Path, gguf: Path | None = None) -> None:
        self.gguf = gguf
        self._files = HfModel(folder)
        self.weights = HfWeights(self._files)
        if gguf is not None:
            checked_tap(gguf)
            _check_same(gguf, VerifierFile(gguf).sizes, self.weights.sizes)

    @cached_property
    def identity(self) -> Identity:
        """Of the folder, or of the repository that it was fetched from."""
        folder = self._files.folder
        return Identity(
            name=name_of(folder),
            file=folder.resolve().name,
            fingerprint=folder_fingerprint(folder),
            chat_template=chat_template(self._files.tokenizer),
        )

    def tokenizer(self, thinking: bool | None) -> HfTemplate:
        """transformers' tokenizer and the chat template in it."""
        return HfTemplate(self._files.tokenizer, thinking, self._files.ends)

    def generator(self, *, n_slots: int, n_ctx: int) -> AbstractContextManager[HfAnswerer]:
        """transformers' ``generate``."""
        files = self._files
        return nullcontext(HfAnswerer(files.model, files.ends, n_slots=n_slots, n_ctx=n_ctx))

    def reader(self, target_layers: Sequence[int], *, n_ctx: int) -> HfCapturer:  # noqa: ARG002
        """The model's forward pass, which knows no longest text."""
        return HfCapturer(self._files.model, target_layers)


def _check_same(gguf: Path, found: Sizes, expected: Sizes) -> None:
    problems = [
        f"{what}: {getattr(found, name)}, the model has {getattr(expected, name)}"
        for what, name in (("tokens", "n_vocab"), ("layers", "n_layer"), ("hidden size", "n_embd"))
        if getattr(found, name) != getattr(expected, name)
    ]
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise ModelError(f"--gguf: {gguf} is of another model than --verifier:{listed}")
