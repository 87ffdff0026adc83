"""A training on the texts that the steps before it left in the folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dflash_local.errors import DFlashError

from . import shape
from .capture import Reading
from .conversations import Conversation
from .data import load_texts
from .examples import Examples, held_out_batches
from .loop import Fit
from .model import Drafter, Vocabulary, drafter_config
from .options import TrainOptions
from .processes import Processes
from .rope import in_one_spelling
from .store import Store
from .verifier import Sizes, Verifier, Weights
from .warm_start import calibrate, can_warm_start, warm_start
from .workspace import Workspace

TOP_K = 8  # of the verifier's tokens at each position
EVALUATED = 100  # held-out texts looked at while training
_BLOCKS = 32  # of each


class Training:
    """Verifier, drafter and texts, ready to fit; close it to free the verifier."""

    def __init__(
        self, options: TrainOptions, verifier: Verifier, work: Workspace, processes: Processes
    ) -> None:
        self.options = options
        texts = load_texts(options, verifier, work)
        self.train, self.held_out = texts.train, texts.held_out
        self.asked, self.used = work.read_account(), texts.used
        self.verifier, weights = verifier, verifier.weights
        _check_tokens([*self.train, *self.held_out], weights.sizes.n_vocab)
        self.fields = drafter_fields(options, weights, self.train)
        _check_fields(self.fields, weights.sizes)
        tapped = [layer + 1 for layer in self.fields["dflash_config"]["target_layer_ids"]]
        self._reader = verifier.reader(tapped, n_ctx=options.data.max_length)
        rank = f"{processes.rank}-of-{processes.world}"
        limit = int(options.cache_gb * 1e9 / processes.world)
        self._store = Store(work.readings / rank, self._reader.n_features, TOP_K, limit)
        self.vocabulary = _vocabulary(self)
        self.fit = Fit(
            self.untrained(),
            self.vocabulary,
            self.examples,
            self.looked_at(processes),
            options.fit,
            work.folder,
            processes,
        )

    @property
    def examples(self) -> Examples:
        """Batches of the training texts."""
        fit = self.options.fit
        return Examples(
            self.train,
            self.read,
            batch_size=fit.batch_size,
            n_blocks=fit.n_blocks,
            block_size=self.fields["block_size"],
            noise=fit.noise,
            seed=fit.seed,
        )

    def untrained(self) -> Drafter:
        """The drafter as training finds it, the same each time."""
        torch.manual_seed(self.options.fit.seed)
        drafter, wanted = Drafter(drafter_config(self.fields)), self.options.shape
        weights = self.verifier.weights
        if wanted.init is not None:
            load_weights(drafter, wanted.init)
        elif not wanted.cold and can_warm_start(weights, self.fields["num_hidden_layers"]):
            warm_start(drafter, weights)
            drafter.to(self.vocabulary.device)
            batch = self.examples.batch(0).to(self.vocabulary.device)
            calibrate(drafter, self.vocabulary, batch, weights)
        return drafter.to(self.vocabulary.device)

    def trained(self) -> Drafter:
        """The drafter that did best on held-out text."""
        drafter = Drafter(drafter_config(self.fields))
        drafter.load_state_dict(self.fit.best)
        return drafter.to(self.vocabulary.device)

    def looked_at(self, processes: Processes) -> Callable[[], Any]:
        """Held-out batches, this process's share of them."""
        mine = self.held_out[:EVALUATED][processes.rank :: processes.world]
        return lambda: held_out_batches(mine, self.read, self.fields["block_size"], _BLOCKS)

    def read(self, conversation: Conversation) -> Reading:
        """What the verifier makes of a text: kept from an earlier time, or read now."""
        key = sha256(np.asarray(conversation.tokens, np.int32).tobytes()).hexdigest()[:24]
        if key in self._store:
            return self._store.get(key)
        reading = self._reader.read(conversation.tokens, TOP_K)
        if not self._store.has_room(len(reading.ids)):
            return reading
        self._store.put(key, reading)
        return self._store.get(key)  # rounded, as it will be from now on

    def close(self) -> None:
        """Frees the verifier."""
        self._reader.close()


def _check_tokens(conversations: Sequence[Conversation], n_vocab: int) -> None:
    highest = max(max(text.tokens) for text in conversations)
    if highest >= n_vocab:
        raise DFlashError(
            f"token {highest} in the texts, the verifier has {n_vocab}: they are another model's"
        )


def _check_fields(fields: dict[str, Any], sizes: Sizes) -> None:
    """What a drafter to be trained has to be; raises DFlashError with every problem."""
    draft = fields["dflash_config"]
    ids, last = draft["target_layer_ids"], sizes.n_layer - 2
    problems = [
        f"{name}: found {found}, expected {wanted}"
        for name, found, wanted, good in (
            ("block", fields["block_size"], "2 to 256", 2 <= fields["block_size"] <= 256),
            (
                "layers",
                fields["num_hidden_layers"],
                f"1 to {sizes.n_layer}",
                1 <= fields["num_hidden_layers"] <= sizes.n_layer,
            ),
            (
                "target layers",
                ids,
                f"different ones from 0 to {last}",
                bool(ids) and len({*ids}) == len(ids) and 0 <= min(ids) <= max(ids) <= last,
            ),
            (
                "mask token",
                draft["mask_token_id"],
                f"below {sizes.n_vocab}",
                0 <= draft["mask_token_id"] < sizes.n_vocab,
            ),
            (
                "hidden size",
                fields["hidden_size"],
                f"the verifier's {sizes.n_embd}",
                fields["hidden_size"] == sizes.n_embd,
            ),
        )
        if not good
    ]
    if problems:
        raise DFlashError(
            "the drafter cannot be trained:" + "".join(f"\n  - {p}" for p in problems)
        )


def _published(folder: Path) -> dict[str, Any]:
    """config.json of a drafter in z-lab's layout; raises DFlashError where it is another."""
    fields: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8-sig"))
    draft = fields.get("dflash_config")
    known = isinstance(draft, dict) and {"mask_token_id", "target_layer_ids"} <= set(draft)
    windowed = fields.get("use_sliding_window") or fields.get("is_causal")
    if fields.get("architectures") != ["DFlashDraftModel"] or not known or windowed:
        raise DFlashError(
            f"{folder / 'config.json'}: training goes on from z-lab's DFlashDraftModel with "
            "`dflash_config` and without sliding or causal layers only"
        )
    fields.setdefault("block_size", draft.get("block_size", 16) if draft else 16)
    return in_one_spelling(fields, str(folder / "config.json"))


def _vocabulary(training: Training) -> Vocabulary:
    """Over the tokens of all texts: what a text never holds is hardly ever the verifier's word."""
    tokens = sorted({t for c in [*training.train, *training.held_out] for t in c.tokens})
    return Vocabulary(
        torch.from_numpy(training.verifier.weights.embedding),
        torch.from_numpy(training.verifier.weights.head),
        training.fields["dflash_config"]["mask_token_id"],
        torch.tensor(tokens),
    )


def drafter_fields(
    options: TrainOptions, verifier: Weights, train: Sequence[Conversation]
) -> dict[str, Any]:
    """config.json of the drafter to be trained."""
    if options.shape.init is not None:
        return _published(options.shape.init)
    wanted, sizes = options.shape, verifier.sizes
    made = shape.config_fields(
        sizes,
        n_layer=wanted.layers or shape.default_layers(sizes),
        block_size=wanted.block or shape.default_block(sizes),
        target_layer_ids=wanted.target_layers or shape.default_target_layers(sizes.n_layer),
        mask_token=verifier.mask_token(train) if wanted.mask_token is None else wanted.mask_token,
    )
    if options.data.thinking is not None:
        made["dflash_config"]["enable_thinking"] = options.data.thinking
    return made


def load_weights(drafter: Drafter, folder: Path) -> None:
    """The weights of a checkpoint in the published layout."""
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
        drafter.load_state_dict({name: value.float() for name, value in state.items()})
    except (RuntimeError, SafetensorError) as error:
        raise DFlashError(f"{path} does not hold what its config.json says: {error}") from error
