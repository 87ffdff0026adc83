"""What features cost: ms of a decode without them, by the native tap and by the callback tap.

    python benchmarks/taps.py [--verifier V.gguf] [--layers 1 8 15] [--places cpu rpc]

The verifier has to be of an architecture with both taps, such as `llama`; by default it is the
demo's, and the layers are those that its drafter reads. Its three contexts decode made up tokens in
turn: blocks as a step verifies them, with the logits of all rows, and a prompt with those of the
last. The table has medians. "rpc" has all layers on an RPC server on this machine, a device whose
memory is not the CPU's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive
from dflash_local.machine.openmp import spin_briefly
from dflash_local.machine.other_work import OtherWork

if TYPE_CHECKING:
    from dflash_local import Llama, _core

WITHOUT, NATIVE, CALLBACK = "no features", "native", "callback"
NODE = "l_out"


class Taps:
    """Verifiers on three contexts of one model, by what gives their features."""

    def __init__(self, llm: Llama, layers: Sequence[int], stack: ExitStack) -> None:
        from dflash_local import _core
        from dflash_local.runtime import observing, seam

        def verifier(node: str | None, layers: Sequence[int]) -> _core.Verifier:
            watch = observing.node_watch() if node else None
            context = stack.enter_context(seam.watched_context(llm, llm.context_params, watch))
            tap: dict[str, Any] = {"watch": watch, "node": node or ""}
            return _core.Verifier(context, max_rows=llm.n_batch, feature_layers=layers, **tap)

        self.verifiers = {
            WITHOUT: verifier(None, []),
            NATIVE: verifier(None, layers),
            CALLBACK: verifier(NODE, layers),
        }

    def milliseconds(self, tokens: Any, top_k: int, looks: int) -> dict[str, float]:
        """Medians of decodes of these tokens from the beginning, each time another one first."""
        found: dict[str, list[float]] = {name: [] for name in self.verifiers}
        names = list(found)
        for look in range(looks + 1):  # the first builds graphs
            shift = look % len(names)
            for name in names[shift:] + names[:shift]:
                found[name].append(1e3 * _seconds(self.verifiers[name], tokens, top_k))
        return {name: median(times[1:]) for name, times in found.items()}


def _seconds(verifier: _core.Verifier, tokens: Any, top_k: int) -> float:
    from dflash_local import _core

    _core.read(verifier, tokens, top_k)  # another number of rows was decoded last
    start = time.perf_counter()
    _core.read(verifier, tokens, top_k)
    return time.perf_counter() - start


def measure(args: argparse.Namespace, place: str) -> list[tuple[str, dict[str, float]]]:
    """What was decoded, and the milliseconds by tap."""
    import numpy as np

    from dflash_local import Llama

    sizes = {"n_ctx": args.prompt, "n_batch": args.prompt, "n_ubatch": args.prompt}
    threads = {"n_threads": args.threads, "n_threads_batch": args.threads}
    with ExitStack() as stack:
        rpc = stack.enter_context(_server(args.threads) if place == "rpc" else nullcontext())
        llm = stack.enter_context(Llama(args.verifier, rpc=rpc, **sizes, **threads))
        taps = Taps(llm, args.layers, stack)
        tokens = np.random.default_rng(1).integers(0, llm.n_vocab(), args.prompt, np.int32)
        rows = [(f"{n} row(s)", taps.milliseconds(tokens[:n], 1, args.looks)) for n in args.rows]
        prompt = taps.milliseconds(tokens, 0, max(3, args.looks // 4))
        return [*rows, (f"prompt of {args.prompt}", prompt)]


def _server(n_threads: int) -> AbstractContextManager[str]:
    from rpc import server

    return server(n_threads)


def main(args: argparse.Namespace) -> int:
    """Returns the exit status."""
    spin_briefly()  # before libllama is loaded

    from dflash_local.files import demo_pair
    from dflash_local.files.drafter_file import read_drafter

    args.verifier = args.verifier or demo_pair.verifier()
    args.layers = args.layers or read_drafter(demo_pair.drafter()).target_layers
    others = OtherWork()
    print(
        f"{args.verifier.name}, inputs of layers {', '.join(map(str, args.layers))}, ms a decode\n"
    )
    print(f"| place | decode | {WITHOUT} | {NATIVE} | {CALLBACK} | {CALLBACK} - {NATIVE} |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    for place in args.places:
        for what, times in measure(args, place):
            cells = [*times.values(), times[CALLBACK] - times[NATIVE]]
            print(f"| {place} | {what} | {' | '.join(f'{ms:.2f}' for ms in cells)} |", flush=True)
    if (busy := others.share()) > OtherWork.TOO_MUCH:
        print(f"\nOther processes took {busy:.0%} of the CPUs: the times are not to be trusted.")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--verifier", type=Path, metavar="V.gguf", help="default: the demo's")
    add("--layers", type=positive, nargs="+", metavar="N", help="default: the demo drafter's")
    add("--places", nargs="+", choices=("cpu", "rpc"), default=["cpu", "rpc"])
    add("--rows", type=positive, nargs="+", default=[1, 4, 8], metavar="N")
    add("--prompt", type=positive, default=256, metavar="N", help="tokens of the prompt")
    add("--looks", type=positive, default=40, metavar="N", help="at each number of rows")
    add("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
