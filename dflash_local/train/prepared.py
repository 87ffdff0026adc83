"""What is settled before a fit begins: texts, the drafter's form, and what the verifier says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dflash_local.errors import DFlashError
from dflash_local.files.layer_ids import layer_inputs

from .account import Asked
from .checkpoint import load_weights
from .config_json import check_fields, drafter_fields
from .conversations import Conversation
from .data import Texts, load_texts
from .examples import Batch, Examples, held_out_batches
from .model import DrafterModel, Vocabulary, drafter_config
from .options import TrainOptions
from .processes import Processes
from .readings import TOP_K, Readings
from .store import Store
from .verifiers.verifier import Verifier
from .warm_start import calibrate, can_warm_start, warm_start
from .workspace import Workspace

EVALUATED = 100  # held-out texts looked at while training
_BLOCKS = 32  # of each


@dataclass(frozen=True)
class Prepared:
    """A training that only has to be fitted. Nothing in it changes while it is.

    Attributes:
        asked: what became of the user's rows; None where nobody counted them.
        texts: what is trained on, and what is held out.
        fields: config.json of the drafter.
        vocabulary: over the tokens of all texts, on the device of this process.
        readings: what the verifier makes of the texts.
    """

    options: TrainOptions
    verifier: Verifier
    asked: Asked | None
    texts: Texts
    fields: dict[str, Any]
    vocabulary: Vocabulary
    readings: Readings

    def examples(self) -> Examples:
        """Batches of the training texts."""
        fit = self.options.fit
        return Examples(
            self.texts.train,
            self.readings.read,
            batch_size=fit.batch_size,
            n_blocks=fit.n_blocks,
            block_size=self.fields["block_size"],
            noise=fit.noise,
            seed=fit.seed,
        )

    def untrained(self) -> DrafterModel:
        """The drafter as training finds it, the same each time."""
        torch.manual_seed(self.options.fit.seed)
        drafter, wanted = DrafterModel(drafter_config(self.fields)), self.options.shape
        weights, device = self.verifier.weights, self.vocabulary.device
        if wanted.init is not None:
            load_weights(drafter, wanted.init)
        elif not wanted.cold and can_warm_start(weights, self.fields["num_hidden_layers"]):
            warm_start(drafter, weights)
            batch = self.examples().batch(0).to(device)
            calibrate(drafter.to(device), self.vocabulary, batch, weights)
        return drafter.to(device)

    def trained(self, weights: dict[str, Tensor]) -> DrafterModel:
        """The drafter with the weights that a fit has found."""
        drafter = DrafterModel(drafter_config(self.fields))
        drafter.load_state_dict(weights)
        return drafter.to(self.vocabulary.device)

    def looked_at(self, processes: Processes) -> Callable[[], Iterable[Batch]]:
        """Held-out batches, this process's share of them."""
        mine = self.texts.held_out[:EVALUATED][processes.rank :: processes.world]
        size = self.fields["block_size"]
        return lambda: held_out_batches(mine, self.readings.read, size, _BLOCKS)


@contextmanager
def prepared(
    options: TrainOptions, verifier: Verifier, work: Workspace, processes: Processes
) -> Iterator[Prepared]:
    """From the texts that the steps before it left in the folder; the verifier is freed at the end.

    Raises:
        DFlashError: the texts, or the drafter that the options describe, cannot be trained.
    """
    texts, weights = load_texts(options, verifier, work), verifier.weights
    _check_tokens([*texts.train, *texts.held_out], weights.sizes.n_vocab)
    fields = drafter_fields(options, weights, texts.train)
    check_fields(fields, weights.sizes)
    vocabulary = _vocabulary(texts, verifier, fields["dflash_config"]["mask_token_id"])
    with _readings(options, verifier, fields, work, processes) as readings:
        yield Prepared(
            options,
            verifier,
            work.read_account(),
            texts,
            fields,
            vocabulary.to(processes.device),
            readings,
        )


def _readings(
    options: TrainOptions,
    verifier: Verifier,
    fields: dict[str, Any],
    work: Workspace,
    processes: Processes,
) -> Readings:
    """Of this process: each keeps what it has read in a folder of its own."""
    tapped = layer_inputs(fields["dflash_config"]["target_layer_ids"])
    reader = verifier.reader(tapped, n_ctx=options.data.max_length)
    folder = work.readings / f"{processes.rank}-of-{processes.world}"
    limit = int(options.cache_gb * 1e9 / processes.world)
    return Readings(reader, Store(folder, reader.n_features, TOP_K, limit))


def _check_tokens(conversations: Sequence[Conversation], n_vocab: int) -> None:
    highest = max(max(text.tokens) for text in conversations)
    if highest >= n_vocab:
        raise DFlashError(
            f"token {highest} in the texts, the verifier has {n_vocab}: they are another model's"
        )


def _vocabulary(texts: Texts, verifier: Verifier, mask_token: int) -> Vocabulary:
    """Over the tokens of all texts: what a text never holds is hardly ever the verifier's word."""
    tokens = sorted({t for c in [*texts.train, *texts.held_out] for t in c.tokens})
    return Vocabulary(
        torch.from_numpy(verifier.weights.embedding),
        torch.from_numpy(verifier.weights.head),
        mask_token,
        torch.tensor(tokens),
    )
