"""What the tests of training share: the tiny verifier's own answers, and settings for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dflash_local.train import shape
from dflash_local.train.answerer import Answerer, Question, Sampling
from dflash_local.train.capture import Capturer, Reading
from dflash_local.train.conversations import Conversation
from dflash_local.train.verifiers.gguf_template import Template

MODELS = Path(__file__).parents[1] / "models"
VERIFIER = MODELS / "verifier-f32.gguf"
MASK = 3
TARGET_LAYER_IDS = (0, 1, 2)
N_CTX = 256
ASKED = [
    *(f"Who is {name}?" for name in ("anna", "june", "tom", "mia", "leo", "ben", "eva", "max")),
    *(f"Give me {name} as JSON." for name in ("anna", "june", "tom", "mia", "leo", "ben", "eva")),
    *(f"Start at {n} and add {n + 3}, 4 times." for n in range(2, 12)),
    *(f"Tell a story of {n} lines about the owl." for n in range(3, 8)),
]


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(VERIFIER)


def answers(n: int = len(ASKED), max_tokens: int = 48) -> list[Conversation]:
    """Greedy answers of the tiny verifier."""
    template = Template(VERIFIER)
    prompts = [template.prompt([{"role": "user", "content": text}]) for text in ASKED[:n]]
    with Answerer(VERIFIER, n_slots=8, n_ctx=N_CTX, n_threads=1) as answerer:
        written = answerer.answer([Question(p, Sampling(), max_tokens) for p in prompts])
    return [Conversation((*p, *answer), len(p)) for p, answer in zip(prompts, written, strict=True)]


def readings(conversations: list[Conversation], top_k: int = 4) -> dict[Conversation, Reading]:
    """What the tiny verifier makes of them."""
    layers = [layer + 1 for layer in TARGET_LAYER_IDS]
    with Capturer(VERIFIER, layers, n_ctx=N_CTX, n_threads=1) as capturer:
        return {text: capturer.read(text.tokens, top_k) for text in conversations}


def fields(sizes: Any, **changes: Any) -> dict[str, Any]:
    """config.json of a drafter of one layer and blocks of five."""
    settings = {
        "n_layer": 1,
        "block_size": 5,
        "target_layer_ids": TARGET_LAYER_IDS,
        "mask_token": MASK,
    }
    return shape.config_fields(sizes, **{**settings, **changes})


def best(reading: Reading) -> np.ndarray:
    """The verifier's best next token after each token."""
    return reading.ids[:, 0]
