"""``dflash-convert SRC``: a trained drafter to GGUF."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from ..converter import ConvertReport, convert
from ..layouts.attention import ATTENTION
from ..writing.encode import DEFAULT_OUT_TYPE, OUT_TYPES
from .output import PROGRAM, megabytes, progress_bar, run, warn

DESCRIPTION = "Convert a trained DFlash drafter to GGUF, for dflash-local and llama.cpp."
EPILOG = """\
The verifier's GGUF gives the tokenizer. Without --verifier it is looked for beside the
checkpoint, then by the name in config.json in the local Hugging Face cache.

  dflash-convert my-drafter --verifier Qwen3-4B-Q4_K_M.gguf
  dflash-convert my-drafter/model.safetensors -o drafter.gguf --outtype q8_0
  dflash-convert z-lab/Qwen3-4B-DFlash-b16 --verifier Qwen3-4B-Q4_K_M.gguf

other verbs (dflash-convert VERB --help says more; a folder of that name is ./VERB):
  show FILE.gguf                       what a drafter's GGUF holds, and what is wrong with it
  check FILE.gguf --verifier V.gguf    whether it fits, and drafts as its checkpoint does
  compare A.gguf B.gguf                keys and tensors that differ
  migrate OLD.gguf -o NEW.gguf         a fork's GGUF (dflash-draft) as llama.cpp's
  count CORPUS --verifier V.gguf -o F  counts of its tokens, for --frequencies
"""


def main(argv: list[str]) -> int:
    """Convert; 0, or 1 on an error."""
    arguments = _parser().parse_args(argv)
    return run(lambda: _convert(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="folder with config.json and safetensors, a safetensors file in it, or a Hugging "
        "Face id",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
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
    parser.add_argument(
        "--revision", metavar="R", help="branch, tag or commit of a Hugging Face id"
    )
    parser.add_argument(
        "--attention",
        choices=list(ATTENTION),
        help="inside a block, for a drafter trained with both, of which libllama runs one",
    )
    _add_vocabulary(parser)
    return parser


def _add_vocabulary(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a smaller draft vocabulary")
    group.add_argument(
        "--draft-vocab", metavar="N", type=int, help="keep the N tokens most worth proposing"
    )
    group.add_argument("--frequencies", metavar="FILE", help="token ids and their counts")
    group.add_argument(
        "--corpus", metavar="FILE", help="text to count, like the verifier's answers"
    )


def _version() -> str:
    return version("dflash-local")


def _convert(arguments: argparse.Namespace) -> int:
    with progress_bar() as progress:
        report = convert(
            arguments.source,
            arguments.verifier,
            arguments.output,
            revision=arguments.revision,
            outtype=arguments.outtype,
            attention=arguments.attention,
            draft_vocab=arguments.draft_vocab,
            frequencies=arguments.frequencies,
            corpus=arguments.corpus,
            progress=progress,
        )
    _print(report)
    return 0


def _print(report: ConvertReport) -> None:
    warn(report.warnings)
    print(
        f"{report.output}: {report.n_tensors} tensors, {report.outtype}, "
        f"{megabytes(report.n_bytes)}, tokenizer of {report.verifier.name}"
    )
    if report.coverage is not None:
        print(f"the draft vocabulary covers {report.coverage:.2%} of the tokens counted")
