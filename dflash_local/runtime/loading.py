"""``load``: a model by its name."""

from __future__ import annotations

import os
from typing import Any

from dflash_local.pairs import names
from dflash_local.pairs.auto import AUTO

from .llama import Llama


def load(
    verifier: str | os.PathLike[str],
    drafter: str | os.PathLike[str] | None = AUTO,
    **options: Any,
) -> Llama:
    """Loads a verifier and its drafter by their names; what is not here yet is downloaded.

    huggingface_hub downloads, shows its progress on stderr, and goes on with what was begun. With
    ``HF_HUB_OFFLINE=1`` or without a connection, what was downloaded before serves.

    Args:
        verifier: a path, a repository's GGUF file on the Hugging Face hub
            (``owner/repo[:file-or-quant]``), or the short name of a pair (``dflash-local models``).
        drafter: likewise; a drafter in safetensors is converted on first use. "auto": the one that
            ``find_drafter`` finds; where the verifier is named and not given as a path, that of its
            pair is downloaded if none is here. None decodes plainly.
        **options: every argument of ``Llama``.

    Raises:
        ModelError: a name means nothing, or cannot be had; and what ``Llama`` raises. A drafter
            that "auto" does not find, or that does not work, is warned of instead.
    """
    file = names.verifier_file(verifier)
    if drafter == AUTO:
        if names.is_remote(verifier):
            names.fetch_for(file)
    elif drafter is not None:
        drafter = names.drafter_file(drafter, file)
    return Llama(file, drafter=drafter, **options)
