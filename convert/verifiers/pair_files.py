"""A verifier's file as pairing sees it, without loading it."""

from __future__ import annotations

from dflash_local.gguf_header import GGUFHeader
from dflash_local.pairing import VerifierInfo
from dflash_local.token_lists import token_types

from .verifier import Verifier


def verifier_info(verifier: Verifier) -> VerifierInfo:
    """What pairing compares with a drafter's file."""
    header = GGUFHeader(verifier.path)
    template = header.get("tokenizer.chat_template")
    return VerifierInfo(
        path=verifier.path,
        architecture=verifier.architecture,
        n_embd=verifier.n_embd,
        n_layer=verifier.n_layer,
        tokens=header.get("tokenizer.ggml.tokens"),
        chat_template=template if isinstance(template, str) else None,
        token_types=token_types(header),
    )
