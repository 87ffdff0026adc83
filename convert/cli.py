"""The command ``dflash-convert``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dflash_local.errors import DFlashError

from .converter import ConvertReport, convert
from .encode import DEFAULT_OUT_TYPE, OUT_TYPES
from .writer import Progress

DESCRIPTION = "Convert a trained DFlash drafter to GGUF, for dflash-local and llama.cpp."
EPILOG = """\
The verifier's GGUF gives the tokenizer. Without --verifier it is looked for beside the
checkpoint, then by the name in config.json in the local Hugging Face cache.

  dflash-convert my-drafter --verifier Qwen3-4B-Q4_K_M.gguf
  dflash-convert my-drafter/model.safetensors -o drafter.gguf --outtype q8_0
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 on an error, 2 on wrong usage."""
    arguments = _parser().parse_args(argv)
    try:
        with _progress_bar() as progress:
            report = convert(
                arguments.source,
                arguments.verifier,
                arguments.output,
                outtype=arguments.outtype,
                progress=progress,
            )
    except (DFlashError, OSError) as error:
        print(f"dflash-convert: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dflash-convert: interrupted, nothing was written", file=sys.stderr)
        return 1
    _print_report(report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dflash-convert",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="folder with config.json and safetensors, or the model.safetensors in it",
    )
    parser.add_argument("--verifier", metavar="V.gguf", help="the verifier's GGUF")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.gguf",
        help="file or folder to write to (default: <folder>-<type>.gguf beside the safetensors)",
    )
    parser.add_argument(
        "--outtype",
        choices=list(OUT_TYPES),
        default=DEFAULT_OUT_TYPE,
        help="type of the matrices (default: %(default)s)",
    )
    return parser


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("writing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_report(report: ConvertReport) -> None:
    for warning in report.warnings:
        print(f"dflash-convert: warning: {warning}", file=sys.stderr)
    print(
        f"{report.output}: {report.n_tensors} tensors, {report.outtype}, "
        f"{report.n_bytes / 1e6:.1f} MB, tokenizer of {report.verifier.name}"
    )
