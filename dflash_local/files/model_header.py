"""What the file of a model says of it, read without loading it."""

from __future__ import annotations

from pathlib import Path

from .gguf_header import GGUFHeader

TEMPLATE_KEY = "tokenizer.chat_template"
#: Tokens of context where nobody says how many.
DEFAULT_N_CTX = 4096


def usual_context(verifier: Path) -> int:
    """``DEFAULT_N_CTX``, or the tokens of context that it was trained on where those are fewer.

    Raises:
        ModelError: it is no GGUF file.
    """
    header = GGUFHeader(verifier)
    trained = header.get(f"{header.get('general.architecture')}.context_length", DEFAULT_N_CTX)
    return min(DEFAULT_N_CTX, int(trained))


def chat_template(header: GGUFHeader) -> str | None:
    """The template that messages are written by; None where there is none."""
    found = header.get(TEMPLATE_KEY)
    return found if isinstance(found, str) else None
