"""What training needs of a verifier, whatever it is stored as: the seam between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dflash_local.rows.faithful import Settings, Tools
    from dflash_local.rows.messages import Message
    from dflash_local.train.answerer import Question
    from dflash_local.train.capture import Reading
    from dflash_local.train.conversations import Conversation

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sizes:
    """Of the verifier, as its file has them."""

    architecture: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ctx: int
    n_vocab: int
    rms_eps: float
    rope_theta: float


@dataclass(frozen=True)
class Identity:
    """What a report says of a verifier.

    Attributes:
        file: its name, without where it lies.
        fingerprint: tells it from its other versions.
        chat_template: as it is stored; None where there is none.
    """

    name: str
    file: str
    fingerprint: str
    chat_template: str | None


class Weights(Protocol):
    """Sizes and tensors, as F32 with rows first."""

    @property
    def sizes(self) -> Sizes: ...

    @property
    def embedding(self) -> Floats:
        """[n_vocab, n_embd]"""

    @property
    def head(self) -> Floats:
        """[n_vocab, n_embd]; the embedding where the two are tied."""

    @property
    def output_norm(self) -> Floats:
        """[n_embd]"""

    def has_part(self, layer: int, name: str) -> bool:
        """Whether a layer has a part that a drafter's layer can take over, by GGUF's name of it:
        attn_norm, attn_q, attn_k, attn_v, attn_output, attn_q_norm, attn_k_norm, ffn_norm,
        ffn_gate, ffn_up, ffn_down."""

    def part(self, layer: int, name: str) -> Floats:
        """That part; rows of q and k as a rotation of halves wants them."""

    def mask_token(self, texts: Iterable[Conversation]) -> int:
        """A token to stand for what is to be drafted: the verifier's own mask, else one that no
        text holds."""


class ChatTokenizer(Protocol):
    """Tokenizer and chat template."""

    def prompt(
        self, messages: Sequence[Message], tools: Tools = ..., settings: Settings | None = ...
    ) -> list[int]:
        """Tokens up to where the assistant begins; PromptError where they cannot be made.

        ``settings``: of the template, before those that the tokenizer was opened with.
        """

    def turn(
        self, messages: Sequence[Message], tools: Tools = ..., settings: Settings | None = ...
    ) -> list[int]:
        """Tokens of the last message, the assistant's, as the template writes it, with its end."""

    def writes_tools(self, messages: Sequence[Message], tools: Tools, settings: Settings) -> bool:
        """Whether the template tells the model of tools."""

    def text(self, text: str) -> list[int]:
        """Tokens of a text to be continued."""

    def user_header(self) -> list[int]:
        """Tokens up to where the user begins."""

    def answer(self, text: str, *, ended: bool) -> list[int]:
        """Tokens of an answer, with the end of the turn where it came to it."""

    @property
    def text_end(self) -> int:
        """The token that ends a text."""

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""

    def exact_text(self, tokens: Sequence[int]) -> str:
        """Text that a server makes these tokens of; a BOS it adds itself."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special ones."""


#: (answers done, tokens written)
Progress = Callable[[int, int], None]


class Generator(Protocol):
    """Answers questions."""

    def answer(self, questions: Sequence[Question], progress: Progress = ...) -> list[list[int]]:
        """The answers, an end of generation included, in the order of the questions; the same for
        the same questions."""


class Reader(Protocol):
    """Reads texts for their features."""

    @property
    def n_features(self) -> int:
        """Floats in a row of features."""

    def read(self, tokens: Sequence[int], top_k: int) -> Reading:
        """The features of a text, and the ``top_k`` tokens to follow each of its tokens."""

    def close(self) -> None:
        """Frees what reading needs."""


class Verifier(Protocol):
    """A model that drafters are trained for."""

    @property
    def gguf(self) -> Path | None:
        """The GGUF that a drafter is converted for and tried with; None where there is none."""

    @property
    def identity(self) -> Identity: ...

    @property
    def weights(self) -> Weights: ...

    def tokenizer(self, thinking: bool | None) -> ChatTokenizer:
        """``thinking``: how the template's switch is set; None leaves it alone."""

    def generator(self, *, n_slots: int, n_ctx: int) -> AbstractContextManager[Generator]:
        """Answers ``n_slots`` questions at once, of ``n_ctx`` tokens each with their answers."""

    def reader(self, target_layers: Sequence[int], *, n_ctx: int) -> Reader:
        """Reads texts of up to ``n_ctx`` tokens; the layers' *inputs* are the features."""
