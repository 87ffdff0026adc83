"""Tokens a second with the verifier on an RPC server, by the delay of the network.

    python benchmarks/rpc.py [--delays 0 1 5 20] [--json FILE] [--prompts P.jsonl]

A server on this machine stands behind a delay each way. Stock ``llama_cpp.Llama`` without a
drafter, a fixed width and adaptive widths answer the same prompts in turn, all of them on that
server; medians over answers. "direct" is ggml's own connection, "relay" the one that reads ahead
(docs/rpc.md). The first answer of each is not counted, the first token of an answer neither.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import natural, non_negative, positive
from dflash_local.machine.openmp import spin_briefly
from dflash_local.machine.other_work import OtherWork

if TYPE_CHECKING:
    import llama_cpp

HERE = Path(__file__).resolve().parent
DRAFTER = HERE.parent / "drafters" / "smollm2-135m-python-classes" / "drafter.gguf"
sys.path.append(str(HERE.parent / "drafters" / "workloads"))
SEEN = 1000  # of the workload's prompts its drafter has seen so many
PATHS = ("direct", "relay")

Speeds = dict[str, list[float]]


@contextlib.contextmanager
def child(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that ends with the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, *command], text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def server(n_threads: int) -> Iterator[str]:
    """The endpoint of an RPC server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--port", str(port), "--threads", str(n_threads))
    with child("-m", "dflash_local", "rpc-server", *options) as process:
        assert process.stdout is not None
        threading.Thread(target=process.stdout.read, daemon=True).start()
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the RPC server did not start")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def delayed(endpoint: str, milliseconds: float) -> Iterator[str]:
    """An endpoint that is so far away, each way."""
    with child(str(HERE / "delay.py"), endpoint, str(milliseconds)) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"


@contextlib.contextmanager
def nothing_learned() -> Iterator[None]:
    """Adaptive widths begin without costs: those of another delay are no help."""
    before = os.environ.get("DFLASH_LOCAL_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DFLASH_LOCAL_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("DFLASH_LOCAL_CACHE")
            if before is not None:
                os.environ["DFLASH_LOCAL_CACHE"] = before


def round_trip(milliseconds: float) -> float:
    """Milliseconds that a byte really takes there and back."""
    with socket.create_server(("127.0.0.1", 0)) as echo:
        threading.Thread(target=_echo, args=(echo,), daemon=True).start()
        with delayed(f"127.0.0.1:{echo.getsockname()[1]}", milliseconds) as endpoint:
            host, port = endpoint.split(":")
            with socket.create_connection((host, int(port))) as line:
                return 1e3 * median(_ping(line) for _ in range(20))


def _echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while byte := connection.recv(1):
            connection.sendall(byte)


def _ping(line: socket.socket) -> float:
    start = time.perf_counter()
    line.sendall(b".")
    line.recv(1)
    return time.perf_counter() - start


class Engines:
    """The three that answer, on one server; they keep its connection together."""

    def __init__(self, args: argparse.Namespace, rpc: Sequence[str], stack: ExitStack) -> None:
        import llama_cpp

        from dflash_local import Llama
        from dflash_local.runtime.parent import construct
        from dflash_local.runtime.placement import verifier_devices

        common = {"n_ctx": args.n_ctx, "n_threads": args.threads, "verbose": False}
        common["n_threads_batch"] = args.threads
        stock = llama_cpp.Llama.__new__(llama_cpp.Llama)
        construct(stock, str(args.verifier), verifier_devices(rpc), n_gpu_layers=-1, **common)
        ours: dict[str, Any] = {"drafter": args.drafter, "rpc": rpc, **common}
        self.by_name: dict[str, llama_cpp.Llama] = {
            "plain": stack.enter_context(closing(stock)),
            f"width {args.width}": stack.enter_context(
                Llama(args.verifier, width=args.width, **ours)
            ),
            "adaptive": stack.enter_context(Llama(args.verifier, **ours)),
        }

    def speeds(self, prompts: list[list[int]], rounds: int, most: int) -> Speeds:
        """Tokens a second of each answer after the first; each time another one goes first."""
        found: Speeds = {name: [] for name in self.by_name}
        names = list(found)
        for number in range(rounds):
            for index, prompt in enumerate(prompts):
                shift = (number + index) % len(names)
                for name in names[shift:] + names[:shift]:
                    found[name].append(self._speed(name, prompt, most))
        return {name: speeds[1:] or speeds for name, speeds in found.items()}

    def _speed(self, name: str, prompt: list[int], most: int) -> float:
        from dflash_local.bench.asking import ask

        llm = self.by_name[name]
        llm.reset()
        tokens, times, _, _ = ask(llm, prompt, most, 0.0)
        return (len(tokens) - 1) / (times[-1] - times[0])


def measure(args: argparse.Namespace, prompts: list[list[int]]) -> Iterator[dict[str, Any]]:
    """A row for each delay and path."""
    from dflash_local.machine.rpc import relayed

    for milliseconds in args.delays:
        there_and_back = round_trip(milliseconds)
        for path in PATHS:
            with ExitStack() as stack:
                stack.enter_context(nothing_learned())
                endpoint = stack.enter_context(server(args.threads))
                rpc: Sequence[str] = [stack.enter_context(delayed(endpoint, milliseconds))]
                if path == "relay":
                    rpc = stack.enter_context(relayed(rpc))
                engines = Engines(args, rpc, stack)
                speeds = engines.speeds(prompts, args.rounds, args.max_tokens)
            yield {
                "delay_ms": milliseconds,
                "round_trip_ms": there_and_back,
                "path": path,
                "tokens_per_second": speeds,
            }


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: medians, and beside them their ratio to plain decoding."""
    names = list(rows[0]["tokens_per_second"])
    yield f"| delay each way | round trip | connection | {' | '.join(names)} |"
    yield f"|---|---:|---|{'---:|' * len(names)}"
    for row in rows:
        medians = {name: median(speeds) for name, speeds in row["tokens_per_second"].items()}
        cells = [f"{medians['plain']:.1f}"]
        cells += [f"{medians[n]:.1f} ({medians[n] / medians['plain']:.2f}x)" for n in names[1:]]
        trip = f"{row['round_trip_ms']:.1f} ms"
        yield f"| {row['delay_ms']:g} ms | {trip} | {row['path']} | {' | '.join(cells)} |"


def main(args: argparse.Namespace) -> int:
    """Returns the exit status."""
    spin_briefly()  # before libllama is loaded

    from dflash_local.files import demo_pair
    from dflash_local.train.verifiers.gguf_template import Template

    args.verifier = args.verifier or demo_pair.verifier()
    template = Template(args.verifier)
    prompts = [template.prompt(messages) for messages in _messages(args)]
    others = OtherWork()
    rows = []
    for row in measure(args, prompts):
        rows.append(row)
        print("\n".join(table([row])), file=sys.stderr, flush=True)
    busy = others.share()
    print("\n".join(table(rows)))
    if busy > OtherWork.TOO_MUCH:
        print(f"\nOther processes took {busy:.0%} of the CPUs: the times are not to be trusted.")
    if args.json is not None:
        report = {"verifier": args.verifier.name, "other_work": busy, "rows": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _messages(args: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """Of the prompts: a file's, or the workload's that its drafter has not seen."""
    from python_classes import prompts as python_classes

    from dflash_local.bench.suite import load_prompts

    if args.prompts is not None:
        return [list(prompt.messages) for prompt in load_prompts(args.prompts)]
    unseen = islice(python_classes(), SEEN, SEEN + args.n_prompts)
    return [[{"role": "user", "content": text}] for text in unseen]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--verifier", type=Path, metavar="V.gguf", help="default: the demo's, in BF16")
    add("--drafter", type=Path, metavar="D.gguf", default=DRAFTER, help="default: the workload's")
    add("--prompts", type=Path, metavar="P.jsonl", help="default: unseen ones of the workload")
    add("--n-prompts", type=positive, default=4, metavar="N", help="of the workload")
    add("--delays", type=non_negative, nargs="+", default=[0.0, 1.0, 5.0, 20.0], metavar="MS")
    add("--width", type=natural, default=5, metavar="N", help="the fixed one")
    add("--rounds", type=positive, default=2, metavar="N")
    add("--max-tokens", type=positive, default=64, metavar="N")
    add("--n-ctx", type=positive, default=1024, metavar="N")
    add("--threads", type=positive, default=physical_cores(), metavar="N")
    add("--json", type=Path, metavar="FILE", help="write every answer's speed there")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
