"""The steps of a training, each of which finds what the ones before it left in the folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dflash_local.errors import DFlashError

from . import conversations as texts
from . import shape
from .capture import Reading
from .conversations import Conversation
from .endpoint import Endpoint
from .examples import Examples, held_out_batches
from .generate import Question, Sampling
from .loop import Fit
from .model import Drafter, Vocabulary, drafter_config
from .options import TrainOptions
from .processes import Processes
from .prompts import Asked, as_they_are, questions_of, read_prompts, synthesize
from .rope import in_one_spelling
from .store import Store
from .verifier import ChatTokenizer, Generator, Sizes, Verifier, Weights
from .warm_start import calibrate, can_warm_start, warm_start
from .workspace import Workspace

TOP_K = 8  # of the verifier's tokens at each position
_GROUP = 16  # answers of a slot that are made, and kept, together
EVALUATED = 100  # held-out texts looked at while training
_BLOCKS = 32  # of each

#: (what is being done, done, in all)
Progress = Callable[[str, int, int], None]


# ---- 1. prompts ----------------------------------------------------------------------------


def make_prompts(
    options: TrainOptions, verifier: Verifier, work: Workspace, progress: Progress
) -> None:
    """Writes the prompts as tokens; with answers that are there already, the conversations."""
    if work.prompts.is_file():
        return
    template = verifier.tokenizer(options.data.thinking)
    asked = _asked(options, verifier, template, progress)
    if options.data.as_is:
        found = [c for one in asked for c in as_they_are(one, template)]
        if not found:
            raise DFlashError("--as-is: there is no answer of the assistant's in the prompts")
        work.write_lines(work.conversations, map(texts.to_line, found))
    prompts = (
        [] if options.data.as_is else [p for one in asked for p in questions_of(one, template)]
    )
    room = options.data.max_length - options.data.max_tokens
    fitting = {tuple(prompt): None for prompt in prompts if 0 < len(prompt) <= room}
    long = sum(len(prompt) > room for prompt in prompts)
    if long:
        warnings.warn(
            f"{long} of {len(prompts)} prompts are longer than {room} tokens and left out: "
            "--max-length less --max-tokens is what a prompt may have",
            stacklevel=2,
        )
    work.write_lines(work.prompts, (f"{list(prompt)}\n" for prompt in fitting))


def _asked(
    options: TrainOptions, verifier: Verifier, template: ChatTokenizer, progress: Progress
) -> list[Asked]:
    data = options.data
    asked = [] if data.prompts is None else read_prompts(data.prompts)
    if data.synthesize:
        with verifier.generator(n_slots=data.at_once, n_ctx=data.max_length) as answerer:
            tell = partial(progress, "prompts")
            made = synthesize(
                answerer,
                template,
                data.synthesize,
                seed=options.fit.seed,
                progress=lambda done, _: tell(done, data.synthesize),
            )
        asked += [Asked(messages=({"role": "user", "content": text},)) for text in made]
    if not asked and not data.tokens:
        raise DFlashError("nothing to train on: name --prompts, --tokens, or --synthesize N")
    return asked


# ---- 2. answers ----------------------------------------------------------------------------


def make_answers(
    options: TrainOptions, verifier: Verifier, work: Workspace, progress: Progress
) -> None:
    """The verifier answers every prompt, a group at a time: a group is kept whole or begun anew,
    so that an interrupted run ends with the same texts."""
    prompts = work.read_prompts()
    n_done = 0 if options.data.as_is else len(work.read_conversations())
    if options.data.as_is or n_done >= len(prompts):
        return
    size = _GROUP * options.data.at_once
    n_done -= n_done % size
    work.keep_conversations(n_done)
    with _answering(options, verifier) as answerer:
        for first in range(n_done, len(prompts), size):
            group = list(enumerate(prompts))[first : first + size]
            progress("answers", first, len(prompts))
            questions = [
                Question(p, _sampling(options, i), options.data.max_tokens) for i, p in group
            ]
            answers = answerer.answer(questions, _from(progress, first, len(prompts)))
            work.append(
                Conversation((*p, *answer), len(p))
                for (_, p), answer in zip(group, answers, strict=True)
            )


def _answering(options: TrainOptions, verifier: Verifier) -> AbstractContextManager[Generator]:
    data = options.data
    if data.endpoint is None:
        return verifier.generator(n_slots=data.at_once, n_ctx=data.max_length)
    template = verifier.tokenizer(data.thinking)
    return nullcontext(Endpoint(data.endpoint, template, data.at_once))


def _from(progress: Progress, first: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _tokens: progress("answers", first + done, total)


def _sampling(options: TrainOptions, index: int) -> Sampling:
    temperatures = options.data.temperatures
    return Sampling(temperatures[index % len(temperatures)], seed=options.fit.seed + index)


def load_texts(
    options: TrainOptions, work: Workspace
) -> tuple[list[Conversation], list[Conversation]]:
    """What is trained on, and what is held out.

    Raises:
        DFlashError: there are too few for a batch.
    """
    found = work.read_conversations()
    for path in options.data.tokens:
        found += texts.read_conversations(path)
    cut = (texts.cut(c, options.data.max_length) for c in found)
    usable = [c for c in cut if c is not None]
    train, held_out = texts.split(usable, options.data.held_out)
    if len(train) < options.fit.batch_size:
        raise DFlashError(
            f"{len(train)} conversations to train on and {len(held_out)} held out; expected "
            f"{options.fit.batch_size} and 1 at least: give more prompts"
        )
    return train, held_out


# ---- 3. fit --------------------------------------------------------------------------------


class Training:
    """Verifier, drafter and texts, ready to fit; close it to free the verifier."""

    def __init__(
        self, options: TrainOptions, verifier: Verifier, work: Workspace, processes: Processes
    ) -> None:
        self.options = options
        self.train, self.held_out = load_texts(options, work)
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
