"""The drafter that a checkpoint describes, ready to run in numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..layouts import registry as layouts
from ..layouts.drafter import DrafterConfig
from ..layouts.names import match
from ..layouts.rope import frequency_factors
from ..reading.fields import raise_problems
from ..reading.safetensors_file import Float32Array
from ..reading.source import Source
from ..verifiers.pair import pair_problems
from ..verifiers.verifier import Verifier
from .forward import NumpyDrafter
from .forward_weights import EMBEDDING, CannotCheck, held, source_weight, with_borrowed, with_row


def open_drafter(source: Source, verifier: Verifier) -> tuple[NumpyDrafter, frozenset[str]]:
    """The drafter as it was trained, and the GGUF names of the tensors that are its own.

    The other two, embedding and head, it borrows from the verifier.

    Raises:
        CannotCheck: its mathematics are not known, or the verifier's embedding or head cannot be
            read.
        ModelError: lists what is wrong with the checkpoint, or why the two do not fit.
    """
    layout = layouts.detect(source)
    config = layout.parse_config(source)
    matches, misfits = match(source, layout.expected_tensors(config, source))
    own = {str(item.expected.target): source_weight(item) for item in matches}
    raise_problems(source.folder, misfits + pair_problems(config, verifier, own.keys()))
    _refuse_unknown(config)
    own |= {name: held(values) for name, values in _generated(config, verifier)}
    weights = with_borrowed(own, verifier.files, tied=config.mask_embedding is None)
    if (row := config.mask_embedding) is not None:
        weights[EMBEDDING] = with_row(weights[EMBEDDING], config.mask_token_id, row)
    return NumpyDrafter(config, weights), frozenset(own)


def _refuse_unknown(config: DrafterConfig) -> None:
    biased = config.markov is not None and config.markov.trained
    scaled = config.logit_scale not in (None, 1.0) or config.final_logit_softcapping is not None
    if biased and scaled:
        raise CannotCheck(
            "logits that are scaled or capped and have a Markov head's bias: in which order its "
            "trainer did that is not known here, llama.cpp adds the bias alone"
        )


def _generated(config: DrafterConfig, verifier: Verifier) -> Iterator[tuple[str, Float32Array]]:
    """Tensors that the checkpoint does not hold, but calls for."""
    factors = frequency_factors(config.rope, config.head_dim)
    if factors is not None:
        yield "rope_freqs.weight", factors
    if config.markov is not None and not config.markov.trained:
        n_vocab, rank = verifier.n_vocab, config.markov.rank
        yield "markov_w1.weight", np.zeros((n_vocab, rank), np.float32)
        yield "markov_w2.weight", np.zeros((config.n_vocab_draft or n_vocab, rank), np.float32)
