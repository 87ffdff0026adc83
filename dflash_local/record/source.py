"""What recorded answers are of: the models, the chat template, the context."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dflash_local.files.fingerprint import fingerprint

if TYPE_CHECKING:
    from dflash_local.runtime.llama import Llama


@dataclass(frozen=True)
class Source:
    """What answers are of.

    Attributes:
        verifier: its path.
        verifier_id: tells it from its other versions.
        drafter: its path; None: plain decoding.
        drafter_id: of the file at that time.
        chat_template: the verifier's, as text; None where it has none.
        chat_format: what llama_cpp was told to use instead.
        n_ctx: tokens that the context holds.
    """

    verifier: str
    verifier_id: str
    drafter: str | None
    drafter_id: str | None
    chat_template: str | None
    chat_format: str | None
    n_ctx: int

    def to_json(self) -> str:
        """As it stands in the folder ``models``."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def key(self) -> str:
        """Its file's name."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def source_of(llm: Llama) -> Source:
    """Of a loaded model; raises OSError where a file cannot be read."""
    verifier, drafter = Path(llm.model_path), llm.drafter_path
    template = (llm.metadata or {}).get("tokenizer.chat_template")
    return Source(
        str(verifier.absolute()),
        fingerprint(verifier),
        None if drafter is None else str(drafter.absolute()),
        None if drafter is None else fingerprint(drafter),
        None if template is None else str(template),
        llm.chat_format,
        llm.n_ctx(),
    )
