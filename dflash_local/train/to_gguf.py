"""From a checkpoint that was trained to its GGUF: the one place where training calls convert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dflash_local.convert import convert
from dflash_local.convert.verifiers.tokenizer import Tokenizer
from dflash_local.convert.vocabularies.frequencies import write_frequencies
from dflash_local.errors import DFlashError

from .draft_vocab import head_size, kept_tokens, token_counts
from .options import TrainOptions
from .prepared import Prepared


def check_draft_vocab(options: TrainOptions, gguf: Path | None) -> None:
    """Whether a head of so many tokens can be made; raises DFlashError where it cannot."""
    wanted = options.draft_vocab
    if gguf is None or not isinstance(wanted, int):
        return
    with Tokenizer(gguf) as tokenizer:
        least, most = len(tokenizer.end_tokens()), tokenizer.n_vocab
    if not least <= wanted <= most:
        raise DFlashError(
            f"--draft-vocab: found {wanted}, expected from {least}, the tokens that end an answer, "
            f"to {most}, all of the verifier's; or `all`"
        )


def to_gguf(
    ready: Prepared, verifier: Path, folder: Path, target: Path, say: Callable[[str], None]
) -> None:
    """Converts a checkpoint's folder; the counts that its head was chosen by are left in there.

    Args:
        verifier: its GGUF.
        say: told what the user should know, a line each.
    """
    options = ready.options
    counts = token_counts(ready.texts.train, ready.verifier.weights.sizes.n_vocab)
    counts[kept_tokens(options.shape.init)] += 1
    with Tokenizer(verifier) as tokenizer:
        n_tokens = head_size(options.draft_vocab, counts, tokenizer.end_tokens())
    frequencies = folder / "token-counts.txt"
    write_frequencies(frequencies, counts)
    report = convert(
        folder,
        verifier,
        target,
        outtype=options.outtype,
        draft_vocab=n_tokens,
        frequencies=None if n_tokens is None else frequencies,
    )
    for line in (*report.warnings, *_reason(options.draft_vocab, n_tokens, len(counts))):
        say(line)


def _reason(wanted: int | str | None, n_tokens: int | None, n_all: int) -> list[str]:
    """Why the head is as it is, where the user has not said it."""
    if wanted is not None:
        return []
    if n_tokens is None:
        return ["drafter.gguf has the verifier's whole head: the texts hold most of its tokens"]
    return [
        f"drafter.gguf can propose the {n_tokens} tokens that the texts hold, of {n_all}: no other "
        "was trained (--draft-vocab)"
    ]
