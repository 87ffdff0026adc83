"""From options to a loaded model."""

from __future__ import annotations

from pathlib import Path

from dflash_local import Llama
from dflash_local.cli.options import ChatOptions
from dflash_local.files import demo_pair
from dflash_local.files.model_header import usual_context
from dflash_local.record.folder import LEARNED
from dflash_local.runtime.placement import offloaded_layers

Pair = tuple[Path, "Path | None"]


def find_pair(options: ChatOptions) -> Pair:
    """The verifier and the drafter to load; without ``--verifier`` the demo's.

    What the demo's drafter learned from this record is used in its place.

    Raises:
        ModelError: the demo is wanted and cannot be found or made.
    """
    verifier = options.verifier or demo_pair.verifier()
    if options.plain:
        return verifier, None
    if options.drafter or options.verifier:
        return verifier, options.drafter
    if options.record is not None and (options.record / LEARNED).is_file():
        return verifier, options.record / LEARNED
    return verifier, demo_pair.drafter()


def load(options: ChatOptions, pair: Pair) -> Llama:
    """The model; its context is no longer than it was trained on unless the user asks for more.

    Raises:
        ModelError: the verifier is no GGUF file, or the pair does not fit.
        ValueError: libllama cannot load the verifier.
    """
    verifier, drafter = pair
    return Llama(
        model_path=str(verifier),
        drafter=None if drafter is None else str(drafter),
        width=options.width,
        sampling=options.sampling,
        exact=options.exact or None,
        n_ctx=options.n_ctx or usual_context(verifier),
        n_threads=options.threads,
        n_threads_batch=options.threads,
        n_gpu_layers=offloaded_layers(options.gpu_layers, options.rpc),
        rpc=options.rpc,
        record=options.record,
    )
