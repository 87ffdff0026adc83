"""From a path or a name to a verifier."""

from __future__ import annotations

from dflash_local.train.options import TrainOptions

from .verifier import Verifier


def open_verifier(options: TrainOptions) -> Verifier:
    """A GGUF file, or a Hugging Face model: a folder, or an id that is fetched from the hub.

    Raises:
        DFlashError: it is none of them, or not of a kind that drafters are trained for.
    """
    if options.verifier.is_file():
        from .gguf_verifier import GGUFVerifier

        return GGUFVerifier(options.verifier, options.threads, options.gpu_layers)
    from .hf_files import locate
    from .hf_verifier import HfVerifier

    return HfVerifier(locate(options.verifier), options.gguf)
