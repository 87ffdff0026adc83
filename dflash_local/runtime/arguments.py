"""Arguments that nobody reads: ``llama_cpp.Llama`` takes them without a word."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable


def of_constructors(kind: type) -> set[str]:
    """What the parameters of a class's constructor, and of those that it inherits, are called."""
    own = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    parameters = [p for init in own for p in inspect.signature(init).parameters.values()]
    return {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def unknown(given: Iterable[str], known: Collection[str]) -> str | None:
    """What to say of the arguments that are not known; None where all are."""
    strange = [_with_guess(name, known) for name in given if name not in known]
    if not strange:
        return None
    return f"neither dflash_local.Llama nor llama_cpp.Llama has an argument {', '.join(strange)}"


def _with_guess(name: str, known: Collection[str]) -> str:
    guess = difflib.get_close_matches(name, sorted(known), n=1)
    return f"{name!r} (did you mean {guess[0]!r}?)" if guess else repr(name)
