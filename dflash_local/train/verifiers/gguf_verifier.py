"""A verifier in a GGUF file: libllama answers and reads, as it will when a session drafts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from dflash_local.files.fingerprint import fingerprint
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.model_header import chat_template
from dflash_local.train.answerer import Answerer
from dflash_local.train.capture import Capturer

from .gguf_template import Template
from .verifier import Identity
from .verifier_file import VerifierFile


class GGUFVerifier:
    """See ``Verifier``; nothing is loaded before it is asked for."""

    def __init__(self, path: Path, n_threads: int, n_gpu_layers: int) -> None:
        self.gguf = path
        self._n_threads = n_threads
        self._n_gpu_layers = n_gpu_layers

    @cached_property
    def identity(self) -> Identity:
        """Of the file."""
        header = GGUFHeader(self.gguf)
        return Identity(
            name=str(header.get("general.name") or self.gguf.stem),
            file=self.gguf.name,
            fingerprint=fingerprint(self.gguf),
            chat_template=chat_template(header),
        )

    @cached_property
    def weights(self) -> VerifierFile:
        """Read from the file."""
        return VerifierFile(self.gguf)

    def tokenizer(self, thinking: bool | None) -> Template:
        """libllama's tokenizer, llama_cpp's chat handler."""
        return Template(self.gguf, thinking)

    def generator(self, *, n_slots: int, n_ctx: int) -> Answerer:
        """One libllama context of ``n_slots`` sequences."""
        return Answerer(
            self.gguf,
            n_slots=n_slots,
            n_ctx=n_ctx,
            n_threads=self._n_threads,
            n_gpu_layers=self._n_gpu_layers,
        )

    def reader(self, target_layers: Sequence[int], *, n_ctx: int) -> Capturer:
        """The code that reads when a session drafts."""
        return Capturer(
            self.gguf,
            target_layers,
            n_ctx=n_ctx,
            n_threads=self._n_threads,
            n_gpu_layers=self._n_gpu_layers,
        )
