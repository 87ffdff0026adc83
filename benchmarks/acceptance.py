"""How far drafters get on greedy answers to prompts that none of them was trained on, by width.

    python benchmarks/acceptance.py --prompts FILE.jsonl --drafter DIR [DIR ...] [--verifier V.gguf]

The verifier answers the prompts (as `dflash-local train` takes them by `--prompts` or `--tokens`),
reads its answers, and every drafter (a checkpoint in the published layout) drafts at every token of
them, in torch, blocks of every width. The steps that decoding would have taken follow from that;
tests/train/test_train_acceptance.py holds them against the real loop. An n-gram drafter stands
beside.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dflash_local.cli.cores import physical_cores
from dflash_local.cli.numbers import positive
from dflash_local.files import demo_pair
from dflash_local.files.layer_ids import layer_inputs
from dflash_local.rows.reader import read_rows
from dflash_local.train import ngram
from dflash_local.train.acceptance import Ints, blocks_of, counts_of_model
from dflash_local.train.answerer import Answerer, Question, Sampling
from dflash_local.train.capture import Capturer
from dflash_local.train.checkpoint import load_weights
from dflash_local.train.conversations import Conversation, read_conversations
from dflash_local.train.model import DrafterModel, Vocabulary, drafter_config
from dflash_local.train.questions import questions_of, read_prompts
from dflash_local.train.verifiers.gguf_template import Template
from dflash_local.train.verifiers.verifier_file import VerifierFile

_AT_ONCE = 32
_MAX_LENGTH = 1024


def main(arguments: argparse.Namespace) -> int:
    """Returns the exit status."""
    torch.set_num_threads(arguments.threads)
    verifier = arguments.verifier or demo_pair.verifier()
    widths = list(range(1, arguments.widest + 1))
    for path in arguments.prompts:
        texts = _greedy_answers(arguments, verifier, path)
        steps = {"n-gram": _of_ngram(arguments, verifier, texts, widths)}
        for folder in arguments.drafter:
            steps[folder.name] = _of_drafter(arguments, verifier, folder, texts, widths)
        print(f"\n{path.name}: {len(texts)} answers, {sum(map(_n_drafted_for, texts))} tokens\n")
        _show(steps, widths)
    return 0


def _greedy_answers(
    arguments: argparse.Namespace, verifier: Path, path: Path
) -> list[Conversation]:
    asked = dict.fromkeys(_asked(verifier, path))
    prompts = [p for p in asked if len(p) + arguments.max_tokens <= _MAX_LENGTH][: arguments.most]
    with Answerer(
        verifier, n_slots=_AT_ONCE, n_ctx=_MAX_LENGTH, n_threads=arguments.threads
    ) as answerer:
        answers = answerer.answer(
            [Question(prompt, Sampling(), arguments.max_tokens) for prompt in prompts]
        )
    texts = [Conversation((*p, *a), len(p)) for p, a in zip(prompts, answers, strict=True)]
    return [text for text in texts if _n_drafted_for(text)]


def _asked(verifier: Path, path: Path) -> Iterator[tuple[int, ...]]:
    first = next(read_rows(path, plain=True), None)
    if first is not None and isinstance(first.value, dict) and "tokens" in first.value:
        yield from (text.prompt for text in read_conversations(path))
        return
    template = Template(verifier)
    for one in read_prompts(path):
        yield from map(tuple, questions_of(one, template))


def _n_drafted_for(text: Conversation) -> int:
    """Tokens of an answer but its first, which comes with the prompt."""
    return len(text.tokens) - text.start - 1


def _of_drafter(
    arguments: argparse.Namespace,
    verifier: Path,
    folder: Path,
    texts: Sequence[Conversation],
    widths: Sequence[int],
) -> dict[int, Ints]:
    """Drafts accepted in each step, by width."""
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = DrafterModel(drafter_config(fields)).eval()
    load_weights(model, folder)
    file, draft = VerifierFile(verifier), fields["dflash_config"]
    vocabulary = Vocabulary(
        torch.from_numpy(file.embedding), torch.from_numpy(file.head), draft["mask_token_id"]
    )
    layers = layer_inputs(draft["target_layer_ids"])
    able = [width for width in widths if width < model.block_size]
    with _capturer(arguments, verifier, layers) as capturer:
        anchored = ((t, capturer.read(t.tokens, 1), _anchors(t)) for t in texts)
        found = list(counts_of_model(model, vocabulary, anchored, able))
    return _steps(({w: one[w] for w in able} for one in found), able)


def _of_ngram(
    arguments: argparse.Namespace,
    verifier: Path,
    texts: Sequence[Conversation],
    widths: Sequence[int],
) -> dict[int, Ints]:
    with _capturer(arguments, verifier, []) as capturer:
        counts = [
            ngram.accepted_drafts([(t, capturer.read(t.tokens, 1), _anchors(t))], max(widths))
            for t in texts
        ]
    return _steps(({w: one.clip(max=w) for w in widths} for one in counts), widths)


def _capturer(arguments: argparse.Namespace, verifier: Path, layers: Sequence[int]) -> Capturer:
    return Capturer(verifier, layers, n_ctx=_MAX_LENGTH, n_threads=arguments.threads)


def _anchors(text: Conversation) -> range:
    return range(text.start, len(text.tokens) - 1)


def _steps(counts: Iterator[dict[int, Ints]], widths: Sequence[int]) -> dict[int, Ints]:
    texts = list(counts)
    return {w: np.concatenate([blocks_of(one[w]) for one in texts]) for w in widths}


def _show(steps: dict[str, dict[int, Ints]], widths: Sequence[int]) -> None:
    print("Acceptance length by width:\n")
    _row("", map(str, widths))
    _row("---", ["---:"] * len(widths))
    for name, by_width in steps.items():
        _row(name, (f"{1 + by_width[w].mean():.2f}" if w in by_width else "" for w in widths))
    for width in widths[1:]:
        print(f"\nShare of blocks of width {width} in which at least so many were accepted:\n")
        _row("", map(str, range(1, width + 1)))
        _row("---", ["---:"] * width)
        for name, by_width in steps.items():
            if width in by_width:
                _row(name, (f"{(by_width[width] > k).mean():.0%}" for k in range(width)))


def _row(name: str, cells: Sequence[str] | Iterator[str]) -> None:
    print("| " + " | ".join([name, *cells]) + " |")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verifier", type=Path, metavar="V.gguf", help="default: the demo's")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE.jsonl")
    parser.add_argument("--drafter", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--most", type=positive, default=100, metavar="N", help="prompts of a file")
    parser.add_argument("--max-tokens", type=positive, default=128, metavar="N", help="an answer")
    parser.add_argument("--widest", type=positive, default=7, metavar="N", help="drafts a block")
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))
