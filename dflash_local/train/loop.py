"""The training loop: one place that reads from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from dflash_local.errors import DFlashError
from dflash_local.whole_files import whole_file

from .examples import Batch, Examples
from .loss import Losses, losses
from .model import DrafterModel, Vocabulary
from .options import FitOptions
from .processes import Processes, autocast

_STATE = "training.pt"
_SAVE_SECONDS = 120.0


@dataclass
class Score:
    """How a drafter does on text, were the verifier greedy.

    Attributes:
        loss: mean over positions, as weighted.
        accepted: drafts accepted a block.
        per_position: share of hits at each position, judged alone.
    """

    loss: float
    accepted: float
    per_position: list[float]

    @classmethod
    def of(cls, sums: Losses) -> Score:
        hits = (sums.hits / sums.n_valid.clamp(min=1)).tolist()
        loss = float(sums.loss / sums.weight.clamp(min=1e-9))
        return cls(loss, float(sums.length / sums.n_blocks.clamp(min=1)), hits)


@dataclass
class FitProgress:
    """What is known after a step; kept with the state."""

    step: int = 0
    best_step: int = 0
    best: float = -1.0
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Fitted:
    """What a fit has found.

    Attributes:
        best: the weights that did best on held-out text.
    """

    best: dict[str, Tensor]
    progress: FitProgress


class _Step(nn.Module):
    """From a batch to its losses: what gradients flow through."""

    def __init__(self, model: DrafterModel, vocabulary: Vocabulary, options: FitOptions) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = vocabulary
        self._options = options

    def forward(self, batch: Batch) -> Losses:
        with autocast(batch.features.device):
            blocks = self.vocabulary.blocks(batch.anchor_tokens, self.model.block_size)
            hidden = self.model(batch.features, batch.anchors, blocks)
            logits = self.vocabulary.logits(hidden[:, :, 1:])
        targets = self.vocabulary.rows(batch.targets)
        return losses(logits, targets, soft=self._options.soft, decay=self._options.decay)


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameters for the optimiser: only matrices decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]


Report = Callable[[FitProgress, Score | None], None]


class Fit:
    """A training in a folder: begun, or gone on with from the state that lies there.

    Args:
        model: its weights are the start; they are replaced by the state's where there is one.
        examples: what is trained on.
        held_out: called for each look; batches that are never trained on.
        folder: for the state.
    """

    def __init__(
        self,
        model: DrafterModel,
        vocabulary: Vocabulary,
        examples: Examples,
        held_out: Callable[[], Iterable[Batch]],
        options: FitOptions,
        folder: Path,
        processes: Processes,
    ) -> None:
        self.model = model.to(processes.device)
        self.vocabulary = vocabulary.to(processes.device)
        self.best = {name: value.clone() for name, value in model.state_dict().items()}
        self.progress = FitProgress()
        self._examples = examples
        self._held_out = held_out
        self._options = options
        folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / _STATE
        self._processes = processes
        self._optimizer = torch.optim.AdamW(
            groups(model), lr=options.learning_rate, betas=(0.9, 0.95)
        )
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        self._saved = time.monotonic()
        self._load()

    def run(self, report: Report) -> FitProgress:
        """Trains until the last step, or until it no longer gets better."""
        options, progress, processes = self._options, self.progress, self._processes
        module = processes.wrap(_Step(self.model, self.vocabulary, options))
        if not progress.log:
            self._look(report)
        while progress.step < options.steps and not self._stalled():
            batch = self._examples.batch(progress.step, processes.rank, processes.world)
            sums = module(batch.to(processes.device))
            weight = processes.total(sums.weight.detach())
            # Gradients are averaged over processes; the loss is over the whole batch's weight.
            (sums.loss * processes.world / weight).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
            self._optimizer.step()
            self._scheduler.step()
            self._optimizer.zero_grad(set_to_none=True)
            progress.step += 1
            score = Score.of(processes.totals(sums))
            report(progress, score)
            if time.monotonic() - self._saved > _SAVE_SECONDS:
                self._save()
            if progress.step % options.evaluate_every == 0 or progress.step == options.steps:
                self._look(report, score)
        self.model.load_state_dict(self.best)
        return progress

    @property
    def fitted(self) -> Fitted:
        """What is known so far; before any step the weights that it begins with."""
        return Fitted(self.best, self.progress)

    def evaluate(self) -> Score:
        """On held-out text, of all processes together."""
        step = _Step(self.model, self.vocabulary, self._options)
        with torch.no_grad():
            parts = [step(batch.to(self._processes.device)) for batch in self._held_out()]
        # A process may have no held-out text: there are fewer of them than processes.
        parts.append(Losses.nothing(self.model.block_size - 1, self._processes.device))
        whole = Losses(**{f.name: sum(getattr(p, f.name) for p in parts) for f in fields(Losses)})
        return Score.of(self._processes.totals(whole))

    def _look(self, report: Report, trained: Score | None = None) -> None:
        score, progress = self.evaluate(), self.progress
        entry: dict[str, Any] = {
            "step": progress.step,
            "loss": score.loss,
            "accepted": score.accepted,
        }
        entry |= {"per_position": score.per_position}
        entry |= {} if trained is None else {"train_loss": trained.loss}
        progress.log.append(entry)
        if score.accepted > progress.best:
            progress.best, progress.best_step = score.accepted, progress.step
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        self._save()
        report(progress, None)

    def _stalled(self) -> bool:
        since = self.progress.step - self.progress.best_step
        return since >= self._options.patience * self._options.evaluate_every

    def _rate(self, step: int) -> float:
        warm_up = max(1, round(self._options.warm_up * self._options.steps))
        if step < warm_up:
            return (step + 1) / warm_up
        share = (step - warm_up) / max(1, self._options.steps - warm_up)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    def _save(self) -> None:
        if self._processes.rank:
            return
        state = {
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "progress": vars(self.progress),
        }
        with whole_file(self._state, alone=True) as part:
            torch.save(state, part)
        self._saved = time.monotonic()

    def _load(self) -> None:
        if not self._state.is_file():
            return
        try:
            state = torch.load(self._state, map_location=self._processes.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scheduler.load_state_dict(state["scheduler"])
            self.best, self.progress = state["best"], FitProgress(**state["progress"])
        except (RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
            raise DFlashError(
                f"{self._state} cannot be gone on from ({error}): remove it to train anew"
            ) from error
