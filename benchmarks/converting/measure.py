"""Both converters on one input, in turns: seconds, memory, and whether their tensors are equal."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dflash_local.convert.checking.comparison import compare

from dflash_local.errors import DFlashError

from .checkpoint import Inputs

CONVERTERS = ("ours", "upstream")
_TIMED = Path(__file__).with_name("timed.py")


@dataclass(frozen=True)
class Run:
    """One conversion.

    Attributes:
        seconds: from the start of the process to its end.
        loaded_seconds: of them, those after its libraries were loaded.
        megabytes: the peak of its memory.
    """

    seconds: float
    loaded_seconds: float
    megabytes: float


@dataclass
class Row:
    """One output type, with its runs by converter, and the tensors that differ in the results."""

    outtype: str
    runs: dict[str, list[Run]] = field(default_factory=lambda: {name: [] for name in CONVERTERS})
    n_tensors: int = 0
    n_different: int = 0

    def median(self, name: str) -> float:
        """Seconds of a converter."""
        return statistics.median(run.seconds for run in self.runs[name])

    def peak(self, name: str) -> float:
        """The most memory of any run of a converter, in MB."""
        return max(run.megabytes for run in self.runs[name])

    @property
    def ratio(self) -> float:
        """Our seconds over upstream's, median of the rounds."""
        pairs = zip(*(self.runs[name] for name in CONVERTERS), strict=True)
        return statistics.median(ours.seconds / theirs.seconds for ours, theirs in pairs)

    @property
    def loaded_ratio(self) -> float:
        """The same, once the libraries are loaded."""
        pairs = zip(*(self.runs[name] for name in CONVERTERS), strict=True)
        return statistics.median(a.loaded_seconds / b.loaded_seconds for a, b in pairs)


def measure(
    inputs: Inputs,
    upstream: Path,
    outtypes: Iterable[str],
    rounds: int,
    say: Callable[[str], None],
) -> list[Row]:
    """Convert to each type in each round by both."""
    rows = [Row(outtype) for outtype in outtypes]
    for i in range(rounds):
        for row in rows:
            say(f"round {i + 1} of {rounds}: {row.outtype}")
            _convert_by_both(row, inputs, upstream)
    return rows


def _convert_by_both(row: Row, inputs: Inputs, upstream: Path) -> None:
    script = str(upstream / "convert_hf_to_gguf.py")
    commands = {
        "ours": ["--verifier", str(inputs.verifier), "-o"],
        "upstream": [script, "--target-model-dir", str(inputs.target), "--outfile"],
    }
    outputs = [inputs.drafter.with_name(f"{name}.gguf") for name in CONVERTERS]
    for name, output in zip(CONVERTERS, outputs, strict=True):
        arguments = [*commands[name], str(output), "--outtype", row.outtype, str(inputs.drafter)]
        row.runs[name].append(_run(name, arguments, inputs.drafter.with_name("result.json")))
    if not row.n_tensors:
        found = compare(*outputs)
        row.n_tensors, row.n_different = found.n_tensors, len(found.tensors)
    for output in outputs:
        output.unlink()


def _run(name: str, arguments: list[str], result: Path) -> Run:
    command = [sys.executable, str(_TIMED), str(result), name, *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise DFlashError(f"{name} failed:\n{(done.stderr or done.stdout)[-3000:]}")
    return Run(seconds, **json.loads(result.read_text()))
