"""A pair measured, and the report that it gives: what the command ``bench`` calls."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_local.errors import DFlashError
from dflash_local.machine.other_work import OtherWork

from .compare import describe
from .markdown import to_markdown
from .pictures import draw_pictures
from .report import Document, Results, derive, to_report, write_report
from .runner import BenchOptions, Progress, run_bench
from .suite import SUITES, Prompt, load_prompts


@dataclass(frozen=True)
class Report:
    """What was measured of a pair.

    Attributes:
        results: the run and its measures, see ``Results``.
        document: the same as plain values, as ``report.json`` has it.
    """

    results: Results
    document: Document

    def changes(self, older: Document | None) -> list[str]:
        """What is other than in an older report, beyond noise; a line each, none without one."""
        return [] if older is None else describe(older, self.document)

    def to_markdown(self, older: Document | None = None) -> str:
        """The report to be read, with what changed since an older one."""
        return to_markdown(self.results, self.document, self.changes(older))

    def write(self, folder: Path, older: Document | None = None) -> None:
        """Writes ``report.json``, ``report.md``, ``records.jsonl`` and pictures into a folder.

        Without matplotlib there are no pictures, and a warning.

        Raises:
            OSError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_report(self.results, self.document, folder)
        (folder / "report.md").write_text(self.to_markdown(older), encoding="utf-8")
        try:
            draw_pictures(self.results, folder)
        except DFlashError as error:  # the figures are worth more than their pictures
            warnings.warn(str(error), stacklevel=2)


def measure(
    options: BenchOptions,
    prompts: Sequence[Prompt] | None = None,
    progress: Progress = lambda *_: None,
) -> Report:
    """Asks stock ``llama_cpp.Llama`` and the pair at every width the same prompts, turn by turn.

    Args:
        prompts: None: the suite of this package.
        progress: called with the answers done, those in all, and what is being done.

    Raises:
        DFlashError: a file, a width or a prompt that cannot be used.
        ValueError: libllama cannot load the verifier.
    """
    asked = load_prompts(SUITES["default"]) if prompts is None else prompts
    others = OtherWork()
    run = run_bench(options, asked, progress)
    results = derive(options, run, asked, others.share())
    return Report(results, to_report(results))
