"""``benchmarks/peers.py``: options, the arithmetic of its table, and a run on the tiny pair."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import options, output, prompts, summary  # noqa: E402
from peers.answer import (  # noqa: E402
    ADAPTIVE,
    OURS,
    STOCK,
    TORCH,
    UPSTREAM,
    Answer,
    Record,
    Variant,
)
from peers.engine import UnavailableError  # noqa: E402
from peers.engine_torch import _n_drafted  # noqa: E402
from peers.measure import _turned  # noqa: E402
from peers.worker import Worker  # noqa: E402

from dflash_local.bench.measures import Spread  # noqa: E402
from dflash_local.bench.suite import Prompt  # noqa: E402

MODELS = ROOT / "tests" / "models"
has_xllamacpp = find_spec("xllamacpp") is not None


def answer(n_tokens: int, seconds: float, **changes: Any) -> Answer:
    """A recorded answer; plain unless drafts are given."""
    plain: dict[str, Any] = {
        "seconds_to_first": 0.25,
        "n_steps": n_tokens - 1,
        "n_drafted": 0,
        "n_accepted": 0,
        "output": "same",
    }
    return Answer(n_tokens=n_tokens, seconds=seconds, **{**plain, **changes})


def record(engine: str, width: int, prompt: int, result: Answer, round_: int = 0) -> Record:
    return Record("BF16", Variant(engine, width), prompt, round_, result)


def recorded_run() -> list[Record]:
    """Two prompts; stock at 10 and 20 tokens a second, upstream's build at 5 and 10."""
    drafts = {"n_steps": 4, "n_drafted": 12, "n_accepted": 6}
    return [
        record(STOCK, 0, 0, answer(11, 1.0)),
        record(STOCK, 0, 1, answer(11, 0.5)),
        record(OURS, 2, 0, answer(11, 0.5, **drafts)),
        record(OURS, 2, 1, answer(11, 0.5, **drafts, output="another")),
        record(OURS, 4, 0, answer(11, 0.8, **drafts)),
        record(OURS, 4, 1, answer(11, 1.0, **drafts)),
        record(ADAPTIVE, 7, 0, answer(11, 0.5, n_steps=7, n_drafted=4, n_accepted=3)),
        record(ADAPTIVE, 7, 1, answer(11, 0.5)),
        record(UPSTREAM, 0, 0, answer(11, 2.0)),
        record(UPSTREAM, 0, 1, answer(11, 1.0)),
        record(UPSTREAM, 1, 0, answer(11, 1.0, n_steps=8, n_drafted=8, n_accepted=2)),
        record(UPSTREAM, 1, 1, answer(11, 0.25, n_steps=7, n_drafted=8, n_accepted=3)),
        record(UPSTREAM, 3, 0, answer(11, 2.0, **drafts)),
        record(UPSTREAM, 3, 1, answer(11, 1.0, **drafts)),
    ]


def row_of(rows: list[summary.Row], engine: str, width: int) -> summary.Row:
    (row,) = [row for row in rows if (row.engine, row.width) == (engine, width)]
    return row


# ---- arithmetic ------------------------------------------------------------------------------


def test_decoding_speed_leaves_the_first_token_out() -> None:
    assert answer(11, 2.0).seconds_per_token == pytest.approx(0.2)
    assert answer(1, 0.0).seconds_per_token is None


def test_each_engine_is_compared_with_its_own_plain_decoding() -> None:
    assert Variant(OURS, 4).plain == Variant(STOCK, 0)
    assert Variant(ADAPTIVE, 7).plain == Variant(STOCK, 0)
    assert Variant(UPSTREAM, 3).plain == Variant(UPSTREAM, 0)
    assert Variant("xllamacpp eagle3", 3).plain == Variant(UPSTREAM, 0)
    assert Variant(TORCH, 7).plain == Variant(TORCH, 0)


def test_rows_hold_paired_speedups_and_absolute_figures() -> None:
    rows = summary.rows(recorded_run())
    ours = row_of(rows, OURS, 2)
    assert ours.tokens_per_second == Spread(20.0, 20.0, 20.0, n=2)
    assert ours.speedup == Spread(1.5, 1.25, 1.75, n=2)  # 2 and 1, paired by prompt
    assert ours.speedup_total == pytest.approx((1.0 + 0.5) / (0.5 + 0.5))
    assert ours.acceptance_length == pytest.approx(20 / 8)
    assert (ours.n_answers, ours.n_tokens) == (2, 22)
    assert (ours.n_drafted, ours.n_accepted) == (24, 12)
    assert ours.same == 0.5
    assert ours.seconds_to_first == 0.25
    upstream = row_of(rows, UPSTREAM, 1)
    assert upstream.speedup.median == pytest.approx(3.0)  # 2 and 4 over its own plain
    assert upstream.speedup_total == pytest.approx(3.0 / 1.25)
    assert (ours.disagrees, upstream.disagrees) == (False, True)
    assert upstream.tokens_per_second.median == pytest.approx(25.0)
    assert upstream.acceptance_length == pytest.approx(20 / 15)
    plain = row_of(rows, UPSTREAM, 0)
    assert plain.speedup == Spread(1.0, 1.0, 1.0, n=2)
    assert plain.acceptance_length == 1.0


def test_rounds_are_paired_with_their_own_plain_answers() -> None:
    records = [
        record(STOCK, 0, 0, answer(11, 1.0), round_=0),
        record(STOCK, 0, 0, answer(11, 4.0), round_=1),  # the machine was busy
        record(OURS, 2, 0, answer(11, 0.5), round_=0),
        record(OURS, 2, 0, answer(11, 2.0), round_=1),
        record(OURS, 2, 0, answer(11, 9.0), round_=2),  # nothing to pair it with
    ]
    row = row_of(summary.rows(records), OURS, 2)
    assert row.speedup == Spread(2.0, 2.0, 2.0, n=2)
    assert row.n_answers == 2


def test_best_width_and_upstreams_default_are_marked() -> None:
    notes = {(row.engine, row.width): row.note for row in summary.rows(recorded_run())}
    assert notes == {
        (STOCK, 0): "plain",
        (OURS, 2): "best",
        (OURS, 4): "",
        (ADAPTIVE, 7): "",
        (UPSTREAM, 0): "plain",
        (UPSTREAM, 1): "best",
        (UPSTREAM, 3): "default",
    }
    only = [r for r in recorded_run() if r.variant.engine == UPSTREAM and r.variant.width != 1]
    assert row_of(summary.rows(only), UPSTREAM, 3).note == "default"  # the only one is not "best"


def test_answers_of_one_token_and_engines_without_plain_give_no_row() -> None:
    assert summary.rows([record(OURS, 2, 0, answer(11, 1.0))]) == []
    assert summary.rows([record(STOCK, 0, 0, answer(1, 0.0))]) == []


def test_variants_take_turns_in_going_first() -> None:
    variants = [Variant(OURS, width) for width in range(3)]
    firsts = [_turned(variants, n)[0].width for n in range(4)]
    assert firsts == [0, 1, 2, 0]
    assert sorted(v.width for v in _turned(variants, 2)) == [0, 1, 2]
    assert _turned([], 3) == []


def test_torchs_drafts_are_counted_as_cut_at_the_end() -> None:
    assert _n_drafted([3, 3, 1], width=7, max_tokens=24) == 21
    assert _n_drafted([3, 3, 1], width=7, max_tokens=8) == 7 + 4 + 1
    assert _n_drafted([], width=7, max_tokens=8) == 0


# ---- output ----------------------------------------------------------------------------------


def report() -> output.Report:
    facts = {
        "date": "2026-01-01",
        "hardware": {"cpu": "Some CPU", "logical_cpus": 2, "features": ["AVX2"]},
        "versions": {"dflash-local": "0.1.0", "xllamacpp": "1"},
        "options": {"threads": 2, "max_tokens": 48, "flash_attn": "default"},
    }
    records = recorded_run()
    rows, skipped = summary.rows(records), {TORCH: "torch cannot be imported"}
    return output.Report(facts, rows, skipped, records=records)


def test_piped_output_is_markdown() -> None:
    stream = io.StringIO()
    output.print_report(report(), Console(file=stream, width=40))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("| weights | engine | width |")
    assert (
        "| BF16 | dflash-local | 2 | 20.0 (20.0-20.0) | 1.50 (1.25-1.75) | 1.50 | 2.50 | 50% "
        "| best |" in lines
    )
    verdict = "- BF16: our best 1.50x at width 2 (20.0 tokens/s), upstream's best 3.00x at width 1"
    assert any(line.startswith(verdict) and "default 1.00x at width 3" in line for line in lines)
    adaptive = (
        "- BF16: ours adaptive 1.50x (20.0 tokens/s), 1.00x our best, 0.50x upstream's best, "
        "1.50x upstream's default"
    )
    assert adaptive in lines
    (apart,) = [line for line in lines if "disagree" in line]
    assert apart.startswith(f"- BF16, {UPSTREAM} at width 1: the median answer and all answers ")
    assert "3.00x and 2.40x: long answers gain less than most" in apart
    assert any(line.startswith(f"| BF16 | {ADAPTIVE} | 0-7 | 20.0 ") for line in lines)
    assert f"- {TORCH}: skipped: torch cannot be imported" in lines
    assert all(line.count("|") == 10 for line in lines if line.startswith("|"))


def test_without_upstream_adaptive_widths_are_told_beside_our_best() -> None:
    rows = summary.rows(r for r in recorded_run() if not r.variant.engine.startswith(UPSTREAM))
    line = "BF16: ours adaptive 1.50x (20.0 tokens/s), 1.00x our best"
    assert output.verdicts(rows) == [line]


def test_terminal_output_is_a_table() -> None:
    stream = io.StringIO()
    output.print_report(report(), Console(file=stream, force_terminal=True, width=120))
    text = stream.getvalue()
    assert "|---" not in text
    assert "1.50 (1.25-1.75)" in text


def test_json_holds_every_answer_so_that_the_rows_can_be_made_again(tmp_path: Path) -> None:
    output.write_json(report(), tmp_path / "o.json")
    content = json.loads((tmp_path / "o.json").read_text())
    again = [
        Record(
            entry.pop("weights"),
            Variant(entry.pop("engine"), entry.pop("width")),
            entry.pop("prompt"),
            entry.pop("round"),
            Answer(**entry),
        )
        for entry in content["answers"]
    ]
    assert summary.rows(again) == report().rows
    assert content["skipped"] == {TORCH: "torch cannot be imported"}


def test_csv_has_a_line_a_row_with_machine_and_versions(tmp_path: Path) -> None:
    output.write_csv(report(), tmp_path / "o.csv")
    with (tmp_path / "o.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 7
    best = next(line for line in lines if (line["engine"], line["width"]) == (OURS, "2"))
    assert (best["speedup_median"], best["cpu"], best["version xllamacpp"]) == (
        "1.5",
        "Some CPU",
        "1",
    )


# ---- options and prompts ---------------------------------------------------------------------


def test_quick_gives_way_to_what_is_asked_for() -> None:
    quick = options.parse(["--quick", "--rounds", "1"])
    assert (quick.widths, quick.max_tokens, quick.rounds) == ((1, 2, 3, 5, 7), 48, 1)
    assert quick.minutes is not None
    assert options.parse([]).minutes is None


def test_quick_leaves_a_verifier_of_ones_own_as_it_is(tiny_verifier: Path) -> None:
    pair = ["--verifier", str(tiny_verifier), "--drafter", str(MODELS / "dflash-b8.gguf")]
    assert options.parse(["--quick", *pair]).weights == ("as-is",)
    assert options.parse(["--quick", "--weights", "q8_0", *pair]).weights == ("Q8_0",)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--weights", "Q3"], "expected some of BF16"),
        (["--widths", "0,1"], "whole numbers from 1"),
        (["--max-tokens", "1"], "at least 2"),
        (["--verifier", __file__], "belong together"),
        (["--eagle3", "nowhere.gguf"], "is no file"),
        (["--torch-drafter", "nowhere"], "is no folder"),
        (["--csv", "nowhere/o.csv"], "does not exist"),
        (["--peers", "vllm"], "expected some of xllamacpp"),
    ],
)
def test_mistakes_end_with_a_message(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        options.parse(argv)
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_prompts_take_the_categories_in_turn() -> None:
    asked = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")]
    found = prompts.in_turn([Prompt(id=name, category=kind, text="x") for name, kind in asked])
    assert [prompt.id for prompt in found] == ["a1", "b1", "c1", "a2"]


def test_prompts_go_through_the_verifiers_template(tiny_verifier: Path) -> None:
    chat = Prompt(id="1", category="", messages=({"role": "user", "content": "Who is anna?"},))
    bare = Prompt(id="2", category="", text="anna is")
    vocabulary = prompts.tokenize(tiny_verifier, [chat, bare])
    assert vocabulary.prompts[0][0] == 1  # <|im_start|>
    assert len(vocabulary.prompts[0]) > len(vocabulary.prompts[1]) > 0
    assert 1 not in vocabulary.prompts[1]
    assert 2 in vocabulary.end_tokens  # <|im_end|>


# ---- engines ---------------------------------------------------------------------------------


def test_an_engine_that_cannot_run_says_why() -> None:
    with pytest.raises(UnavailableError, match="--torch-drafter"):
        Worker("torch", {"torch_drafter": None})
    with pytest.raises(UnavailableError, match="cannot be started"):
        Worker("torch", {}, python="no-such-python")


def peers(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "peers.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_file_that_is_no_drafter_is_told_without_a_traceback(tiny_verifier: Path) -> None:
    done = peers("--verifier", str(tiny_verifier), "--drafter", str(tiny_verifier))
    assert done.returncode == 1
    assert "expected 'dflash'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_on_the_tiny_pair(
    tiny_verifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))
    asked = tmp_path / "p.jsonl"
    texts = ["Who is anna?", "Give me june as JSON."]
    asked.write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
    pair = ["--verifier", str(tiny_verifier), "--drafter", str(MODELS / "dflash-b8.gguf")]
    amount = ["--prompts", str(asked), "--max-tokens", "24", "--rounds", "1", "--threads", "1"]
    widths = ["--widths", "1,7", "--n-max", "1,3,7"]
    files = ["--json", str(tmp_path / "o.json"), "--csv", str(tmp_path / "o.csv")]
    done = peers(*pair, *amount, *widths, *files)
    assert done.returncode == 0, done.stderr
    assert "| as-is | dflash-local | 7 |" in done.stdout
    content = json.loads((tmp_path / "o.json").read_text())
    rows = {(row["engine"], row["width"]): row for row in content["rows"]}
    wanted = {(STOCK, 0), (OURS, 0), (OURS, 1), (OURS, 7), (ADAPTIVE, 7)}
    if has_xllamacpp:
        wanted |= {(UPSTREAM, width) for width in (0, 1, 3, 7)}
    assert rows.keys() == wanted
    for (engine, width), row in rows.items():
        assert row["n_answers"] == 2
        assert row["tokens_per_second"]["median"] > 0
        if width > 0 and engine != ADAPTIVE:  # that one may well decode plainly
            assert 0 < row["n_accepted"] <= row["n_drafted"], engine
            assert row["acceptance_length"] > 1
        if width == 7 and engine != ADAPTIVE:
            assert row["n_accepted"] < row["n_drafted"], engine
    assert "as-is: ours adaptive " in done.stdout
    assert TORCH in content["skipped"]
    assert "torch-drafter" in content["skipped"][TORCH]
    assert "skipped" in done.stdout
