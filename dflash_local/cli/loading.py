"""From options to a loaded model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dflash_local import Llama
from dflash_local.cli.options import ChatOptions
from dflash_local.files import demo_pair
from dflash_local.files.model_header import usual_context
from dflash_local.pairs import names
from dflash_local.pairs.auto import AUTO
from dflash_local.record.folder import LEARNED
from dflash_local.runtime.placement import offloaded_layers

#: Files to load. The drafter is None for plain decoding, or "auto" for the one that is found.
Pair = tuple[Path, "Path | str | None"]


def find_pair(options: ChatOptions) -> Pair:
    """The verifier and the drafter to load; without ``--verifier`` the demo's.

    What the demo's drafter learned from this record is used in its place.

    Raises:
        ModelError: a name means nothing or cannot be had; or the demo is wanted and cannot be found
            or made.
    """
    named = options.verifier
    verifier = demo_pair.verifier() if named is None else names.verifier_file(named)
    if options.plain:
        return verifier, None
    if options.drafter not in (None, AUTO):
        return verifier, names.drafter_file(options.drafter, verifier)
    if named is None:
        learned = None if options.record is None else options.record / LEARNED
        found = learned is not None and learned.is_file()
        return verifier, learned if found else demo_pair.drafter()
    if names.is_remote(named):
        names.fetch_for(verifier)
    return verifier, AUTO


def find_both(
    verifier: str | None, drafter: str | None, of_demo: Callable[[], Path]
) -> tuple[Path, Path]:
    """The files of a command that cannot do without a drafter.

    Args:
        of_demo: gives the drafter for the demo's verifier, where no drafter is named.

    Raises:
        ModelError: a name means nothing or cannot be had, or "auto" finds no drafter.
    """
    file = demo_pair.verifier() if verifier is None else names.verifier_file(verifier)
    if drafter is None:
        return file, of_demo()
    if drafter == AUTO and verifier is not None and names.is_remote(verifier):
        names.fetch_for(file)
    return file, names.drafter_file(drafter, file)


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
