"""What a child process is to do, and the kinds of models that it does it with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llama_cpp

_MODELS = Path(__file__).resolve().parents[2] / "tests" / "models"
_TINY_DRAFTERS = ("dflash-b8", "dflash2-b8", "dspark-b7-anchor")

#: Exact, so that every answer has one right text: F32 weights and K/V, one thread.
EXACT: dict[str, Any] = {
    "n_ctx": 512,
    "n_threads": 1,
    "n_threads_batch": 1,
    "type_k": llama_cpp.GGML_TYPE_F32,
    "type_v": llama_cpp.GGML_TYPE_F32,
    "verbose": False,
}


@dataclass(frozen=True)
class Setup:
    """One child.

    Attributes:
        seed: of all its choices. What its threads do to each other is not repeated with it.
        seconds, warm_up: how long it works, and before that, before memory is first measured.
        threads: that work at once.
        folder: holds the hybrid verifier and stock's answers.
        demo: verifier and drafter of the demo pair; () to do without.
        interrupts: its main thread is interrupted by signals.
    """

    seed: int
    seconds: float
    warm_up: float
    threads: int
    folder: str
    demo: tuple[str, ...] = ()
    interrupts: bool = True

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Setup:
        fields = json.loads(text)
        return cls(**{**fields, "demo": tuple(fields["demo"])})


@dataclass(frozen=True)
class Kind:
    """A pair of files, or a verifier alone.

    Attributes:
        answers: under which name stock's answers to the same questions are found. The demo pair has
            none: in BF16 a batch rounds otherwise than a single row.
    """

    name: str
    verifier: Path
    drafter: Path | None
    answers: str | None


def hybrid_file(folder: str) -> Path:
    return Path(folder) / "hybrid.gguf"


def verifiers(folder: str) -> dict[str, Path]:
    """Those whose answers are known, by the name that their answers have."""
    return {"tiny": _MODELS / "verifier-f32.gguf", "hybrid": hybrid_file(folder)}


def kinds(setup: Setup) -> list[Kind]:
    files = verifiers(setup.folder)
    drafters = {name: _MODELS / f"{name}.gguf" for name in _TINY_DRAFTERS}
    made = [Kind(name, files["tiny"], path, "tiny") for name, path in drafters.items()]
    made += [Kind(f"{name}, no drafter", path, None, name) for name, path in files.items()]
    made.append(Kind("hybrid", files["hybrid"], drafters["dflash-b8"], "hybrid"))
    if setup.demo:
        made.append(Kind("demo", Path(setup.demo[0]), Path(setup.demo[1]), None))
    return made
