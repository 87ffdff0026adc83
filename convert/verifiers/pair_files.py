"""A verifier's file as pairing sees it, without loading it."""

from __future__ import annotations

from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.model_header import chat_template
from dflash_local.files.pairing import VerifierInfo
from dflash_local.files.token_lists import token_types

from .verifier import Verifier


def verifier_info(verifier: Verifier) -> VerifierInfo:
    """What pairing compares with a drafter's file."""
    header = GGUFHeader(verifier.path)
    return VerifierInfo(
        path=verifier.path,
        architecture=verifier.architecture,
        n_embd=verifier.n_embd,
        n_layer=verifier.n_layer,
        tokens=header.get("tokenizer.ggml.tokens"),
        chat_template=chat_template(header),
        token_types=token_types(header),
    )
