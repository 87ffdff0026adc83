"""dflash-convert against upstream's convert_hf_to_gguf.py, on one synthetic checkpoint.

    python benchmarks/convert.py [--upstream LLAMA_CPP] [--layers N] [--hidden N] [--rounds N]

Each conversion is a process, the two take turns, seconds and ratios are medians over the rounds,
memory is the most of any. "loaded" is the ratio once each has its libraries in memory. Upstream's
converter needs torch and transformers; without --upstream it comes out of the source of the
llama-cpp-python that is installed, fetched by pip once. A machine with other work on it gives other
seconds, but about the same ratios.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from converting.checkpoint import write_inputs
from converting.measure import CONVERTERS, Row, measure
from converting.upstream import check_modules, checkout
from rich.console import Console
from rich.table import Table

from dflash_local import DFlashError

OUT_TYPES = ("f16", "bf16", "q8_0")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upstream", type=Path, metavar="LLAMA_CPP", help="a checkout")
    parser.add_argument("--layers", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument(
        "--hidden", type=int, default=2048, help="a multiple of 256 (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="for files of a moment (default: the system's)")
    return parser.parse_args()


def table(rows: list[Row]) -> Table:
    result = Table("type")
    for title in ("ours\ns", "upstream\ns", "ratio", "ratio,\nloaded", "ours\nMB", "upstream\nMB"):
        result.add_column(title, justify="right")
    result.add_column("tensors")
    for row in rows:
        result.add_row(
            row.outtype,
            *(f"{row.median(name):.2f}" for name in CONVERTERS),
            f"{row.ratio:.2f}",
            f"{row.loaded_ratio:.2f}",
            *(f"{row.peak(name):.0f}" for name in CONVERTERS),
            f"{row.n_different} differ" if row.n_different else f"{row.n_tensors} equal",
        )
    return result


def main(options: argparse.Namespace) -> int:
    """Returns 1 where the benchmark cannot run or the results differ."""
    console, err = Console(), Console(stderr=True)
    try:
        check_modules()
        upstream = checkout(options.upstream)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            inputs = write_inputs(Path(folder), options.layers, options.hidden)
            with err.status("") as status:
                rows = measure(inputs, upstream, OUT_TYPES, options.rounds, status.update)
            size = inputs.n_bytes
    except (DFlashError, OSError) as error:
        err.print(f"convert.py: {error}", markup=False, highlight=False)
        return 1
    console.print(
        f"{options.layers} layers, hidden size {options.hidden}, {size / 1e6:.0f} MB in BF16, "
        f"medians of {options.rounds} rounds"
    )
    console.print(table(rows))
    return int(any(row.n_different for row in rows))


if __name__ == "__main__":
    sys.exit(main(arguments()))
