"""The tokens that a trained drafter's GGUF can propose, and what the report promises of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dflash_local.convert.verifiers.tokenizer import Tokenizer
from training import ASKED, MODELS, VERIFIER

from dflash_local.cli.train import main
from dflash_local.train.conversations import Conversation, read_conversations, split
from dflash_local.train.draft_vocab import head_size, proposed_tokens, token_counts

N_VOCAB, HELD_OUT = 384, 0.5
# A drafter that is good already, so that what a smaller head loses can be seen.
SMALL = [
    *("--init", str(MODELS / "dflash-b8"), "--steps", "1", "--learning-rate", "0"),
    *("--max-tokens", "80", "--max-length", "160", "--at-once", "8", "--held-out", str(HELD_OUT)),
    *("--temperatures", "0", "--blocks", "4", "--threads", "1"),
]


def train(out: Path, *arguments: str) -> int:
    prompts = out.parent / "prompts.txt"
    prompts.write_text("\n".join(ASKED) + "\n")
    command = ["--verifier", str(VERIFIER), "--out", str(out), "--prompts", str(prompts)]
    return main([*command, *SMALL, *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("draft-vocab") / "out"
    assert train(out) == 0
    return out


@pytest.fixture(scope="module")
def texts(trained: Path) -> list[Conversation]:
    """Those that were trained on."""
    return split(read_conversations(trained / "work" / "conversations.jsonl"), HELD_OUT)[0]


@pytest.fixture(scope="module")
def ends() -> set[int]:
    with Tokenizer(VERIFIER) as tokenizer:
        return set(tokenizer.end_tokens())


def report_of(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


def promised(out: Path) -> float:
    """Drafts accepted a block, as torch has it; the real loop agrees."""
    report = report_of(out)
    accepted = float(report["by_width"]["trained"][-1]["accepted"])
    real = report["simulation"]
    assert abs(real["accepted"] - accepted) <= 2 * real["error"]
    return accepted


def test_the_gguf_proposes_the_tokens_of_the_texts_and_every_end(
    trained: Path, texts: list[Conversation], ends: set[int]
) -> None:
    held = {token for text in texts for token in text.tokens}
    assert proposed_tokens(trained / "drafter.gguf") == sorted(held | ends)
    assert report_of(trained)["draft_vocab"] == {"tokens": len(held | ends), "of": N_VOCAB}
    line = f"drafter.gguf can propose {len(held | ends)} of the verifier's {N_VOCAB} tokens"
    assert line in (trained / "report.md").read_text()
    assert json.loads((trained / "config.json").read_text())["vocab_size"] == N_VOCAB
    promised(trained)


def test_fewer_tokens_are_the_most_frequent_ones_and_the_estimate_is_over_them(
    trained: Path, texts: list[Conversation], ends: set[int], tmp_path: Path
) -> None:
    out, n = tmp_path / "out", 24
    shutil.copytree(trained, out)
    assert train(out, "export", "--draft-vocab", str(n)) == 0
    said = Counter(token for text in texts for token in text.tokens[text.start :])
    tokens = proposed_tokens(out / "drafter.gguf")
    assert tokens is not None
    assert len(tokens) == n == report_of(out)["draft_vocab"]["tokens"]
    assert ends <= {*tokens}
    rarest = min(said[token] for token in {*tokens} - ends)
    assert rarest >= max(count for token, count in said.items() if token not in tokens)
    real = report_of(out)["simulation"]
    assert promised(out) < promised(trained) - 2 * real["error"], "the gate sees what was left out"
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (trained / weights).read_bytes()


def test_all_of_them_are_the_verifiers_head(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    assert train(out, "export", "--draft-vocab", "all") == 0
    assert proposed_tokens(out / "drafter.gguf") is None
    assert report_of(out)["draft_vocab"] == {"tokens": N_VOCAB, "of": N_VOCAB}
    promised(out)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("1", "--draft-vocab: found 1, expected from 2, "),
        ("385", "to 384, all of the verifier's; or `all`"),
    ],
)
def test_a_head_that_cannot_be_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str, words: str
) -> None:
    out = tmp_path / "out"
    assert train(out, "--draft-vocab", wanted) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_something_else_than_a_number_or_all_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path / "out", "--draft-vocab", "most")
    words = "--draft-vocab: 'most' is not a whole number of at least 1; nor is it `all`"
    assert words in capsys.readouterr().err


def test_tokens_of_prompts_alone_come_behind_those_of_answers() -> None:
    texts = [Conversation((5, 6, 7, 7), 2), Conversation((5, 8, 7), 2)]
    assert token_counts(texts, 10).tolist() == [0, 0, 0, 0, 0, 1, 1, 4, 1, 0]


def test_texts_with_most_of_the_vocabulary_get_the_whole_head() -> None:
    counts = np.zeros(20, np.int64)
    counts[:9] = 3
    assert head_size(None, counts, [4]) == 9
    assert head_size(None, counts, [19]) == 10
    assert head_size(None, counts, [18, 19]) is None
    assert head_size("all", counts, [4]) is None
    assert head_size(15, counts, [4]) == 15
    assert head_size(20, counts, [4]) is None
