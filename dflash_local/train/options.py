"""Everything that can be said about a training; defaults in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
        prompts: the user's file; see ``read_prompts``.
        synthesize: user turns that the verifier makes up.
        as_is: the answers in ``prompts`` are trained on as they are, the verifier writes none.
        tokens: files of conversations as tokens, already answered.
        endpoint: a server that answers instead of this process, its address up to "/v1".
        thinking: of the chat template, where it has such a switch; None leaves it alone.
        held_out: share that is never trained on.
        max_tokens: of an answer.
        max_length: tokens of a conversation; longer ones are cut.
        temperatures: answers take them in turn.
        at_once: answers in one batch.
        most_refused: share of the rows, or of a server's answers, that may be left out because they
            cannot be used; with more of them nothing is trained.
    """

    prompts: Path | None = None
    synthesize: int = 0
    as_is: bool = False
    tokens: tuple[Path, ...] = ()
    endpoint: str | None = None
    thinking: bool | None = None
    held_out: float = 0.05
    max_tokens: int = 300
    max_length: int = 1024
    temperatures: tuple[float, ...] = (0.0, 0.8)
    at_once: int = 32
    most_refused: float = 0.05


@dataclass(frozen=True)
class DrafterShape:
    """What the drafter looks like; None: by the verifier's size.

    Attributes:
        layers: of the drafter.
        block: tokens of a block, the anchor among them.
        target_layers: published ids, layers of the verifier whose outputs are read.
        mask_token: stands for tokens to be drafted; None: one that no text holds.
        init: a checkpoint to go on from.
        cold: begin with random weights, not with the verifier's last layers.
    """

    layers: int | None = None
    block: int | None = None
    target_layers: tuple[int, ...] | None = None
    mask_token: int | None = None
    init: Path | None = None
    cold: bool = False


@dataclass(frozen=True)
class FitOptions:
    """How a drafter is trained.

    Attributes:
        steps: updates of the weights.
        batch_size: texts an update, of all processes together.
        n_blocks: random blocks a text and pass.
        learning_rate: the highest, after warm-up; falls to 0 along a cosine.
        warm_up: share of the steps.
        clip: of the gradient's norm.
        noise: added to features, uniform in +- noise.
        soft: share of the loss over the verifier's probabilities instead of its best token.
        decay: weights positions by exp(-k / decay); None is D-PACE.
        evaluate_every: steps between two looks at held-out text; the state is kept then.
        patience: looks without a better one, after which training ends.
    """

    steps: int = 4000
    batch_size: int = 4
    n_blocks: int = 32
    learning_rate: float = 1e-3
    warm_up: float = 0.04
    clip: float = 1.0
    noise: float = 0.05
    soft: float = 0.5
    decay: float | None = None
    evaluate_every: int = 200
    patience: int = 10
    seed: int = 1


@dataclass(frozen=True)
class TrainOptions:
    """A training.

    Attributes:
        verifier: a GGUF file, the folder of a Hugging Face model, or its id, ``owner/name``.
        outtype: of the GGUF.
        draft_vocab: tokens that the GGUF's head has; None: those of the texts.
        force: export what drafts otherwise than training promised.
        gguf: the same verifier as GGUF, where ``verifier`` is none.
    """

    verifier: Path
    out: Path
    data: Data = field(default_factory=Data)
    shape: DrafterShape = field(default_factory=DrafterShape)
    fit: FitOptions = field(default_factory=FitOptions)
    threads: int = 1
    gpu_layers: int = 0
    cache_gb: float = 20.0
    outtype: str = "bf16"
    draft_vocab: int | Literal["all"] | None = None
    force: bool = False
    gguf: Path | None = None
