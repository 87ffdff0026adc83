"""From trained weights to a drafter that may be used: tried, written, reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from dflash_local.errors import DFlashError

from .acceptance import Acceptance, Anchored, of_model, of_ngram, widths_of
from .draft_vocab import proposed_tokens
from .examples import anchors_of
from .export import save_checkpoint
from .model import Vocabulary
from .pipeline import EVALUATED, Training
from .report import write_report
from .simulate import Simulation, simulate
from .workspace import Workspace

GGUF = "drafter.gguf"
_FILES = ("model.safetensors", "config.json")
_EVERY = 8  # anchors of an answer that are tried: each costs the reading of a token or more


#: Converts a checkpoint's folder, of a training, to a GGUF.
ToGGUF = Callable[[Training, Path, Path], object]


def try_out(training: Training, work: Workspace, to_gguf: ToGGUF) -> Simulation | None:
    """Makes the files in the work folder and drafts with them on held-out text; None, and no GGUF,
    where there is no GGUF of the verifier."""
    options, verifier = training.options, training.verifier.gguf
    folder = save_checkpoint(work.export, training.fit.best, training.fields)
    if verifier is None:
        return None
    to_gguf(training, folder, folder / GGUF)
    simulation = simulate(
        verifier,
        folder / GGUF,
        _tried(training),
        n_ctx=options.data.max_length + training.fields["block_size"],
        n_threads=options.threads,
        n_gpu_layers=options.gpu_layers,
    )
    part = work.simulation.with_suffix(".part")
    part.write_text(json.dumps(asdict(simulation), indent=1) + "\n", encoding="utf-8")
    part.replace(work.simulation)
    return simulation


def _tried(training: Training) -> Iterator[Anchored]:
    for text in training.held_out[:EVALUATED]:
        anchors = anchors_of(text, 0, None)[::_EVERY].tolist()
        if anchors:
            yield text, training.read(text), anchors


def export(training: Training, work: Workspace, simulation: Simulation | None) -> Path:
    """Puts the files where they belong, with the report; gives the GGUF, or, where none was made,
    the folder.

    Raises:
        DFlashError: it drafts otherwise than training promised. Training and inference differ
            then, and nobody should wonder later why it is slow.
    """
    folder = work.export
    vocabulary = training.vocabulary if simulation is None else _proposed(training, folder / GGUF)
    by_width = _by_width(training, vocabulary)
    if simulation is not None and not training.options.force:
        _check(simulation, by_width["trained"][-1].accepted, folder)
    for name in _FILES if simulation is None else (*_FILES, GGUF):
        (folder / name).replace(work.out / name)
    n_proposed = None if simulation is None else len(vocabulary.tokens)
    write_report(training, simulation, by_width, n_proposed, work.out)
    return work.out if simulation is None else work.out / GGUF


def _check(simulation: Simulation, promised: float, folder: Path) -> None:
    if simulation.is_far_from(promised):
        raise DFlashError(
            f"the drafter accepts {simulation.accepted:.2f} drafts a block in the real loop, but "
            f"{promised:.2f} in training: something differs between the two. It lies in "
            f"{folder}; --force exports it all the same"
        )


def _proposed(training: Training, drafter: Path) -> Vocabulary:
    """The tokens that the GGUF can propose: an estimate over others would be of another drafter."""
    known, tokens = training.vocabulary, proposed_tokens(drafter)
    return Vocabulary(
        known.embedding,
        torch.from_numpy(training.verifier.weights.head),
        known.mask_token,
        None if tokens is None else torch.tensor(tokens),
    ).to(known.device)


def _by_width(training: Training, vocabulary: Vocabulary) -> dict[str, list[Acceptance]]:
    """Of the drafter, of the one that it began as, and of one without weights."""
    widths, texts = widths_of(training.fields["block_size"]), list(_tried(training))
    return {
        "trained": of_model(training.trained(), vocabulary, texts, widths),
        "untrained": of_model(training.untrained(), vocabulary, texts, widths),
        "ngram": of_ngram(texts, widths),
    }
