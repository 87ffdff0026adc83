"""``dflash-convert check``: whether a drafter's GGUF fits a verifier."""

from __future__ import annotations

import argparse

from ..checking.drafter_check import CheckReport, check
from .output import PROGRAM, print_json, run, warn


def main(argv: list[str]) -> int:
    """Run the verb: 0 fits, 1 does not."""
    arguments = _parser().parse_args(argv)
    return run(lambda: _check(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} check",
        description="Whether a drafter fits a verifier: the files, the pair, a block drafted in "
        "libllama, and with --source what the checkpoint itself computes. Exit code 0 says that "
        "it fits.",
    )
    parser.add_argument("drafter", metavar="FILE.gguf")
    parser.add_argument("--verifier", metavar="V.gguf", required=True)
    parser.add_argument(
        "--source", metavar="SRC", help="the checkpoint FILE.gguf was converted from"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, default=1, help="for libllama (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    return parser


def _check(arguments: argparse.Namespace) -> int:
    report = check(
        arguments.drafter,
        arguments.verifier,
        source=arguments.source,
        n_threads=max(1, arguments.threads),
    )
    if arguments.json:
        print_json(report, fits=report.fits)
    else:
        _print(report)
    return 0 if report.fits else 1


def _print(report: CheckReport) -> None:
    warn(report.warnings)
    for problem in report.problems:
        print(f"problem: {problem}")
    if report.drafted is not None:
        print(f"drafted in libllama: {report.drafted!r}")
    if report.source is not None and report.fits:
        print(f"against the checkpoint: {report.source.sentence}")
    verdict = "fits" if report.fits else "does not fit"
    print(f"{report.drafter} {verdict} {report.verifier}")
