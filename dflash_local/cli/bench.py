"""``dflash-local bench``: acceptance, throughput, latency and quality of a pair, in one report."""

from __future__ import annotations

import sys

from dflash_local.bench.measuring import measure
from dflash_local.bench.report import read_report
from dflash_local.bench.results_csv import write_csv
from dflash_local.bench.runner import BenchOptions
from dflash_local.bench.suite import SUITES, first_of_each, load_prompts
from dflash_local.cli.bench_options import Arguments, parse
from dflash_local.cli.bench_screen import show, shown
from dflash_local.cli.loading import find_both
from dflash_local.cli.warned import warnings_on_stderr
from dflash_local.errors import DFlashError
from dflash_local.files import demo_pair
from dflash_local.machine.busy import BusyWatch


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status."""
    arguments = parse(argv)
    try:
        with warnings_on_stderr("bench"):
            return _bench(arguments)
    except KeyboardInterrupt:
        print("dflash-local bench: interrupted, nothing was written", file=sys.stderr)
        return 130
    except (DFlashError, OSError, RuntimeError, ValueError) as error:
        print(f"dflash-local bench: {error}", file=sys.stderr)
        return 1


def _bench(arguments: Arguments) -> int:
    # All that can be wrong with files is told before anything runs for minutes.
    prompts = load_prompts(arguments.prompts or SUITES[arguments.suite])
    if arguments.per_category is not None:
        prompts = first_of_each(prompts, arguments.per_category)
    older = None if arguments.compare is None else read_report(arguments.compare)
    options = _options(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with shown() as progress, BusyWatch(options.threads):
        report = measure(options, prompts, progress)
    report.write(arguments.out, older)
    if arguments.csv is not None:
        write_csv(report.document, arguments.csv)
    show(report, older)
    print(f"\n{arguments.out / 'report.md'}")
    return 0


def _options(arguments: Arguments) -> BenchOptions:
    if (arguments.verifier is None) != (arguments.drafter is None):
        missing = "--drafter" if arguments.drafter is None else "--verifier"
        raise DFlashError(f"{missing} is missing: give both models, or none for the demo pair")
    verifier, drafter = find_both(arguments.verifier, arguments.drafter, demo_pair.drafter)
    return BenchOptions(
        verifier=verifier,
        drafter=drafter,
        threads=arguments.threads,
        widths=arguments.widths,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        repeat=arguments.repeat,
        n_ctx=arguments.n_ctx,
        gpu_layers=arguments.gpu_layers,
        rpc=arguments.rpc,
        seed=arguments.seed,
        kv_f32=arguments.kv_f32,
        long_answers=arguments.long_answers,
        record=arguments.record,
        exact=arguments.exact,
    )
