"""From trained weights to a drafter that may be used: tried, written, reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from dflash_local.errors import DFlashError

from .acceptance import Acceptance, of_model, of_ngram, widths_of
from .checkpoint import save_checkpoint
from .draft_vocab import proposed_tokens
from .examples import anchors_of
from .loop import Fitted
from .model import Vocabulary
from .prepared import EVALUATED, Prepared
from .report import write_report
from .simulation import Anchored, Simulation, simulate
from .to_gguf import to_gguf
from .workspace import Workspace

GGUF = "drafter.gguf"
_FILES = ("model.safetensors", "config.json")
_EVERY = 8  # anchors of an answer that are tried: each costs the reading of a token or more


def try_out(
    ready: Prepared, fitted: Fitted, work: Workspace, say: Callable[[str], None]
) -> Simulation | None:
    """Makes the files in the work folder and drafts with them on held-out text; None, and no GGUF,
    where there is no GGUF of the verifier.

    Args:
        say: told what the user should know, a line each.
    """
    options, verifier = ready.options, ready.verifier.gguf
    folder = save_checkpoint(work.export, fitted.best, ready.fields)
    if verifier is None:
        return None
    to_gguf(ready, verifier, folder, folder / GGUF, say)
    simulation = simulate(
        verifier,
        folder / GGUF,
        _tried(ready),
        n_ctx=options.data.max_length + ready.fields["block_size"],
        n_threads=options.threads,
        n_gpu_layers=options.gpu_layers,
    )
    work.write_lines(work.simulation, [json.dumps(asdict(simulation), indent=1) + "\n"])
    return simulation


def _tried(ready: Prepared) -> Iterator[Anchored]:
    for text in ready.texts.held_out[:EVALUATED]:
        anchors = anchors_of(text, 0, None)[::_EVERY].tolist()
        if anchors:
            yield text, ready.readings.read(text), anchors


def export(
    ready: Prepared,
    fitted: Fitted,
    work: Workspace,
    simulation: Simulation | None,
    command: str | None,
) -> Path | None:
    """Puts the files where they belong, with the report; gives the GGUF, None where none was made.

    Args:
        command: for the report.

    Raises:
        DFlashError: it drafts otherwise than training promised. Training and inference differ
            then, and nobody should wonder later why it is slow.
    """
    folder = work.export
    vocabulary = ready.vocabulary if simulation is None else _proposed(ready, folder / GGUF)
    by_width = _by_width(ready, fitted, vocabulary)
    if simulation is not None and not ready.options.force:
        _check(simulation, by_width["trained"][-1].accepted, folder)
    for name in _FILES if simulation is None else (*_FILES, GGUF):
        (folder / name).replace(work.out / name)
    n_proposed = None if simulation is None else len(vocabulary.tokens)
    write_report(ready, fitted, simulation, by_width, n_proposed, command, work.out)
    return None if simulation is None else work.out / GGUF


def _check(simulation: Simulation, promised: float, folder: Path) -> None:
    if simulation.is_far_from(promised):
        raise DFlashError(
            f"the drafter accepts {simulation.accepted:.2f} drafts a block in the real loop, but "
            f"{promised:.2f} in training: something differs between the two. It lies in "
            f"{folder}; --force exports it all the same"
        )


def _proposed(ready: Prepared, drafter: Path) -> Vocabulary:
    """The tokens that the GGUF can propose: an estimate over others would be of another drafter."""
    known, tokens = ready.vocabulary, proposed_tokens(drafter)
    return Vocabulary(
        known.embedding,
        torch.from_numpy(ready.verifier.weights.head),
        known.mask_token,
        None if tokens is None else torch.tensor(tokens),
    ).to(known.device)


def _by_width(
    ready: Prepared, fitted: Fitted, vocabulary: Vocabulary
) -> dict[str, list[Acceptance]]:
    """Of the drafter, of the one that it began as, and of one without weights."""
    widths, texts = widths_of(ready.fields["block_size"]), list(_tried(ready))
    return {
        "trained": of_model(ready.trained(fitted.best), vocabulary, texts, widths),
        "untrained": of_model(ready.untrained(), vocabulary, texts, widths),
        "ngram": of_ngram(texts, widths),
    }
