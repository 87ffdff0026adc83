"""The table of docs/verifiers.md, made from the table of taps, the tests and libllama.

    python tests/support/verifiers_page.py

writes it anew; tests/project/test_docs_verifiers.py holds the page against it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import llama_cpp
import tiny_architectures

from dflash_local.files.taps import TAPS, Tap

PAGE = Path(__file__).parents[2] / "docs" / "verifiers.md"
HEAD = (
    "| architecture | tap | inputs of layers | drafts are taken back | tried on |",
    "|---|---|---|---|---|",
)
#: What a tiny model of the tests has, by the keys of its file.
TRAITS = {
    "expert_count": "experts",
    "sliding_window": "a sliding window",
    "attn_logit_softcapping": "capped attention",
    "final_logit_softcapping": "capped logits",
    "residual_scale": "scaled residuals",
}
#: Models of the tests that transformers has no part in.
OTHERS = {
    "llama": "SmolLM2-135M, the trained tiny verifier, random experts",
    "lfm2": "a random one, beside plain decoding",
}


def table() -> list[str]:
    """The lines of the table.

    Raises:
        AttributeError: this libllama hides what it knows of architectures.
    """
    back = how_drafts_are_taken_back()
    return [*HEAD, *(_row(name, TAPS[name], back[name]) for name in sorted(TAPS))]


def how_drafts_are_taken_back() -> dict[str, str]:
    """By architecture, for each that libllama has."""
    # Functions of C++ by their mangled names: no header has them.
    lib = llama_cpp.llama_cpp._lib
    name_of, is_recurrent = lib._Z13llm_arch_name8llm_arch, lib._Z21llm_arch_is_recurrentRK8llm_arch
    is_hybrid = lib._Z18llm_arch_is_hybridRK8llm_arch
    has_snapshots = lib._Z29llm_arch_supports_rs_rollbackRK8llm_arch
    name_of.restype = ctypes.c_char_p
    for function in (is_recurrent, is_hybrid, has_snapshots):
        function.restype = ctypes.c_bool
    found = {}
    for number in count():
        name, kind = name_of(number).decode(), ctypes.byref(ctypes.c_int(number))
        if name == "(unknown)":
            return found
        forgets = is_recurrent(kind) or is_hybrid(kind)
        found[name] = _BACK[bool(forgets), bool(has_snapshots(kind))]
    raise AssertionError("there is no last architecture")


_BACK = {
    (False, False): "token by token",
    (True, True): "by snapshots",
    (True, False): "never: plain",
}


def _row(name: str, tap: Tap, back: str) -> str:
    how = "native" if tap.node is None else f"callback, `{tap.node}`"
    first, last = tap.layers(100)[0], "n" if tap.gives_last else "n - 1"
    return f"| `{name}` | {how} | {first} to {last} | {back} | {tried(name)} |"


def tried(name: str) -> str:
    """What a verifier of that architecture was tried on; empty: on nothing."""
    tiny = tiny_architectures.TINY.get(name)
    against = [] if tiny is None else [", ".join(["transformers", *_traits(tiny.keys)])]
    return "; ".join([*against, *([OTHERS[name]] if name in OTHERS else [])])


def _traits(keys: dict[str, Any]) -> Iterator[str]:
    return (trait for key, trait in TRAITS.items() if key in keys)


def split(page: str) -> tuple[str, list[str], str]:
    """What is before the table, its lines, and what is after it."""
    before, head, rest = page.partition(HEAD[0])
    rows, _, after = (head + rest).partition("\n\n")
    return before, rows.splitlines(), after


def main() -> None:
    """Writes the table anew."""
    before, _, after = split(PAGE.read_text(encoding="utf-8"))
    page = before + "\n".join(table()) + "\n\n" + after
    PAGE.write_text(page.rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
