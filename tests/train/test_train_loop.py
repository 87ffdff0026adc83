"""The fit: going on equals not having stopped, a warm start helps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training import MASK, VERIFIER, answers, fields, readings  # noqa: E402

from dflash_local import DFlashError  # noqa: E402
from dflash_local.train.examples import Examples, held_out_batches  # noqa: E402
from dflash_local.train.loop import Fit  # noqa: E402
from dflash_local.train.model import DrafterModel, Vocabulary, drafter_config  # noqa: E402
from dflash_local.train.options import FitOptions  # noqa: E402
from dflash_local.train.processes import Processes  # noqa: E402
from dflash_local.train.verifiers.verifier_file import VerifierFile  # noqa: E402
from dflash_local.train.warm_start import calibrate, warm_start  # noqa: E402

torch.set_num_threads(1)
OPTIONS = FitOptions(
    steps=12, batch_size=4, n_blocks=6, learning_rate=2e-3, evaluate_every=4, patience=100
)


@cache
def texts() -> tuple[Any, Any]:
    made = answers()
    return made, readings(made)


def make_fit(folder: Path, options: FitOptions = OPTIONS, warm: bool = False) -> Fit:
    """The tiny verifier's answers: every sixth is held out."""
    conversations, read = texts()
    held_out = conversations[::6]
    train = [text for text in conversations if text not in held_out]
    verifier = VerifierFile(VERIFIER)
    torch.manual_seed(options.seed)
    model = DrafterModel(drafter_config(fields(verifier.sizes)))
    embedding, head = torch.from_numpy(verifier.embedding), torch.from_numpy(verifier.head)
    vocabulary = Vocabulary(embedding, head, MASK)
    examples = Examples(
        train,
        read.__getitem__,
        batch_size=options.batch_size,
        n_blocks=options.n_blocks,
        block_size=5,
        noise=options.noise,
        seed=options.seed,
    )
    if warm:
        warm_start(model, verifier)
        calibrate(model, vocabulary, examples.batch(0), verifier)
    processes = Processes()
    mine = held_out[processes.rank :: processes.world]
    return Fit(
        model,
        vocabulary,
        examples,
        lambda: held_out_batches(mine, read.__getitem__, 5, 8),
        options,
        folder,
        processes,
    )


def ignore(*_: object) -> None:
    """Takes no notice of progress."""


def weights(fit: Fit) -> dict[str, Any]:
    return {name: value.clone() for name, value in fit.model.state_dict().items()}


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=150, evaluate_every=50, learning_rate=5e-3)
    fit = make_fit(tmp_path, options, warm=True)
    progress = fit.run(ignore)
    first, last = progress.log[0], progress.log[-1]
    assert last["loss"] < 0.7 * first["loss"]
    assert progress.best == max(entry["accepted"] for entry in progress.log) > 0
    assert fit.evaluate().accepted == progress.best


@pytest.mark.parametrize("stop_at", [4, 5, 11])
def test_going_on_equals_not_having_stopped(tmp_path: Path, stop_at: int) -> None:
    whole = make_fit(tmp_path / "whole")
    whole.run(ignore)

    def stop(progress: Any, score: Any) -> None:
        if progress.step == stop_at and score is not None:
            raise KeyboardInterrupt

    folder = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        make_fit(folder).run(stop)
    rest = make_fit(folder)
    assert rest.progress.step == (stop_at - 1) // 4 * 4, "the state of the last look"
    rest.run(ignore)
    assert whole.progress.log == rest.progress.log
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(rest)[name]), name


def test_a_finished_training_is_not_begun_again(tmp_path: Path) -> None:
    make_fit(tmp_path).run(ignore)
    steps = []
    make_fit(tmp_path).run(lambda progress, _: steps.append(progress.step))
    assert steps == []


def test_it_ends_when_it_no_longer_gets_better(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=400, learning_rate=0.0, patience=2)
    progress = make_fit(tmp_path, options).run(ignore)
    assert progress.step == 2 * options.evaluate_every


def test_a_warm_start_is_nearer_than_a_cold_one(tmp_path: Path) -> None:
    options = replace(OPTIONS, decay=4.0)
    cold, warm = (make_fit(tmp_path / str(w), options, w).evaluate() for w in (False, True))
    assert warm.loss < 0.9 * cold.loss


def test_a_state_that_is_cut_off_is_told(tmp_path: Path) -> None:
    make_fit(tmp_path).run(ignore)
    state = tmp_path / "training.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(DFlashError, match=r"training\.pt cannot be gone on from"):
        make_fit(tmp_path)
