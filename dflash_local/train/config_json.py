"""config.json of the drafter that a training makes: by its options, or that of a published one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dflash_local.errors import DFlashError

from . import shape
from .conversations import Conversation
from .options import TrainOptions
from .rope import in_one_spelling
from .verifiers.verifier import Sizes, Weights


def drafter_fields(
    options: TrainOptions, verifier: Weights, train: Sequence[Conversation]
) -> dict[str, Any]:
    """config.json of the drafter to be trained."""
    if options.shape.init is not None:
        return published_fields(options.shape.init)
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


def published_fields(folder: Path) -> dict[str, Any]:
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


def check_fields(fields: dict[str, Any], sizes: Sizes) -> None:
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
