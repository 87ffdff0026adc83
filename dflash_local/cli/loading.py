"""From options to a loaded model."""

from __future__ import annotations

import sys
from pathlib import Path

from dflash_local import Llama, hub
from dflash_local.cli.options import DEFAULT_N_CTX, ChatOptions
from dflash_local.errors import ModelError

Pair = tuple[Path, "Path | None"]


def find_pair(options: ChatOptions) -> Pair:
    """The verifier and the drafter to load; without ``--verifier`` the demo's.

    Raises:
        ModelError: the demo is wanted and cannot be found or made.
    """
    verifier = options.verifier or hub.demo_verifier()
    if options.plain:
        return verifier, None
    if options.drafter or options.verifier:
        return verifier, options.drafter
    return verifier, hub.demo_drafter()


def load(options: ChatOptions, pair: Pair) -> Llama:
    """The model; its context is no longer than it was trained on unless the user asks for more.

    Raises:
        ModelError: the verifier is no GGUF file, or the pair does not fit.
        ValueError: libllama cannot load the verifier.
    """
    _check_gguf(pair[0])
    n_ctx = options.n_ctx or DEFAULT_N_CTX
    llm = _open(options, pair, n_ctx)
    trained = _trained_context(llm)
    if options.n_ctx or trained >= n_ctx:
        return llm
    llm.close()
    return _open(options, pair, trained)


def _open(options: ChatOptions, pair: Pair, n_ctx: int) -> Llama:
    verifier, drafter = pair
    return Llama(
        model_path=str(verifier),
        drafter=None if drafter is None else str(drafter),
        width=options.width,
        n_ctx=n_ctx,
        n_threads=options.threads,
        n_threads_batch=options.threads,
        n_gpu_layers=options.gpu_layers,
    )


def _check_gguf(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"{path}: no such file; --verifier wants a GGUF model")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(f"{path}: begins with {magic!r}, a GGUF model with b'GGUF'")


def _trained_context(llm: Llama) -> int:
    architecture = llm.metadata.get("general.architecture", "")
    return int(llm.metadata.get(f"{architecture}.context_length", sys.maxsize))
