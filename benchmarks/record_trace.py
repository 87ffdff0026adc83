"""Records what a drafter proposes at every token of greedy answers, for tests of the widths.

    python benchmarks/record_trace.py V.gguf D.gguf PROMPTS.jsonl --out FILE [--tokens N]
    python benchmarks/record_trace.py V.gguf D.gguf PROMPTS.jsonl --out FILE --costs

The first answers some of the prompts and writes the file; the second measures what decodes cost on
this machine, which should be idle, and puts it into the file in place of what stood there.
`tests/cpp/test_recorded.cpp` replays such files; the format stands at their top.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

import llama_cpp

from dflash_local import Finish, Llama, Session
from dflash_local.bench.rendering import render
from dflash_local.bench.staircase import measure_staircase
from dflash_local.bench.suite import first_of_each, load_prompts
from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive

_N_CTX = 1024
_FORMAT = """\
# What a drafter proposes at every token of greedy answers: benchmarks/record_trace.py
#   widest W             drafts of its widest block
#   verify S S ...       seconds of a decode of an anchor and 0, 1, ... W drafts; if measured
#   draft S S ...        seconds of a block of 0, 1, ... W drafts; if measured
#   inject S             seconds of a row of features that the drafter takes in; if measured
#   prompt NAME T T ...  its tokens
#   answer T T ...       the verifier's, up to the end of generation or a limit
# and a line for each token of the answer but the last, with that token as the anchor: the drafts of
# a block of 1, of one of 2, ... of one of W. A draft is + where the answer has the same token
# there, else -, and the drafter's probability of it in thousandths, 999 at most.
"""


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    settings = {"n_ctx": _N_CTX, "n_threads": arguments.threads, "verbose": False}
    settings["n_threads_batch"] = arguments.threads
    prompts = first_of_each(load_prompts(arguments.prompts), arguments.per_category)
    with Llama(arguments.verifier, drafter=arguments.drafter, width=0, **settings) as llm:
        if llm.session is None or llm.session.drafter is None:
            sys.exit("nothing can be drafted on this verifier")
        asked = {prompt.id: render(llm, prompt) for prompt in prompts}
        if arguments.costs:
            with closing(llama_cpp.Llama(str(arguments.verifier), **settings)) as plain:
                _replace_costs(arguments.out, _costs(plain, llm, list(asked.values())))
        else:
            _record(llm.session, asked, arguments.tokens, arguments.out)
    return 0


def _record(session: Session, asked: Mapping[str, list[int]], n_tokens: int, path: Path) -> None:
    assert session.drafter is not None
    with path.open("w", encoding="utf-8") as out:
        out.write(f"{_FORMAT}widest {session.drafter.max_width}\n")
        for name, prompt in asked.items():
            answer = greedy_answer(session, prompt, n_tokens)
            out.write(f"prompt {name} {_joined(prompt)}\nanswer {_joined(answer)}\n")
            out.writelines(f"{line}\n" for line in anchor_lines(session, prompt, answer))
            out.flush()


def greedy_answer(session: Session, prompt: Sequence[int], n_tokens: int) -> list[int]:
    """What plain decoding answers."""
    session.width = 0
    session.sync(prompt)
    answer: list[int] = []
    while len(answer) < n_tokens:
        result = session.step()
        answer += result.tokens
        if result.finish is not Finish.none:
            break
    return answer


def anchor_lines(session: Session, prompt: Sequence[int], answer: Sequence[int]) -> Iterator[str]:
    """Of each token of the answer but the last: its blocks of every width."""
    assert session.drafter is not None
    session.width = 1  # at width 0 the drafter would be told nothing of the prompt
    session.sync(prompt)
    session.anchor(answer[0])
    for at, following in enumerate(answer[1:], 1):
        blocks = []
        for width in range(1, session.drafter.max_width + 1):
            session.width = width
            draft = session.propose()
            blocks.append(_written(draft.tokens, draft.confidence, answer[at : at + width]))
        session.commit([following])
        yield " ".join(blocks)


def _written(drafts: Sequence[int], confidence: Sequence[float], right: Sequence[int]) -> str:
    hits = [i < len(right) and token == right[i] for i, token in enumerate(drafts)]
    return "".join(
        f"{'+' if hit else '-'}{min(round(1000 * chance), 999):03}"
        for hit, chance in zip(hits, confidence, strict=True)
    )


def _costs(
    plain: llama_cpp.Llama, llm: Llama, prompts: Sequence[list[int]]
) -> dict[str, list[float]]:
    """Medians in seconds, by their key in the file."""
    stairs = measure_staircase(plain, llm, prompts[0])
    assert llm.session is not None
    inject = median(_seconds_a_row(llm.session, prompt) for prompt in prompts)
    return {"verify": stairs.verify, "draft": stairs.draft, "inject": [inject]}


def _seconds_a_row(session: Session, prompt: Sequence[int]) -> float:
    """Of a prompt that the drafter takes in."""
    session.width = 1
    session.rewind(0)
    session.sync(prompt)
    session.step()  # the first token is not drafted
    before = session.total_stats.seconds_inject
    session.propose()
    return (session.total_stats.seconds_inject - before) / len(prompt)


def _replace_costs(path: Path, costs: Mapping[str, Sequence[float]]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.split()[0] not in costs]
    at = next(i for i, line in enumerate(kept) if line.startswith("widest")) + 1
    kept[at:at] = [f"{key} {_joined(seconds)}" for key, seconds in costs.items()]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")


def _joined(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.6g}" for number in numbers)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verifier", type=Path, metavar="V.gguf")
    parser.add_argument("drafter", type=Path, metavar="D.gguf")
    parser.add_argument("prompts", type=Path, metavar="PROMPTS.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--tokens", type=positive, default=64, metavar="N", help="of an answer")
    few = "the first N prompts of each category"
    parser.add_argument("--per-category", type=positive, default=2, metavar="N", help=few)
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    parser.add_argument("--costs", action="store_true", help="measure what decodes cost")
    arguments = parser.parse_args(argv)
    if arguments.costs and not arguments.out.is_file():
        parser.error(f"--costs: {arguments.out} is no recording yet: run it without --costs first")
    return arguments


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))
