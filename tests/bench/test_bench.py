"""``dflash-local bench`` end to end, on the tiny pair."""

from __future__ import annotations

import itertools
import json
import operator
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp
import psutil
import pytest
from waiting import PATIENCE, wait_until

from dflash_local.bench import asking
from dflash_local.bench.asking import ask
from dflash_local.bench.compare import compare
from dflash_local.bench.margins import find_differences
from dflash_local.bench.markdown import warnings as doubts
from dflash_local.bench.memory import LoadLog, resident_bytes
from dflash_local.bench.record import ADAPTIVE, PLAIN, Answer, answer_from_dict
from dflash_local.bench.rendering import render
from dflash_local.bench.report import derive, to_report
from dflash_local.bench.runner import BenchOptions, Run, _load, check_widths, run_bench
from dflash_local.bench.suite import Prompt
from dflash_local.errors import DFlashError
from dflash_local.machine.other_work import OtherWork
from dflash_local.runtime import generation

MODELS = Path(__file__).parents[1] / "models"
VERIFIER, DRAFTER = MODELS / "verifier-f32.gguf", MODELS / "dflash-b8.gguf"
PROMPTS = [
    Prompt("anna", "facts", ({"role": "user", "content": "Who is anna?"},)),
    Prompt("june", "json", ({"role": "user", "content": "Give me june as JSON."},)),
    Prompt("story", "prose", text="the grey cat"),
]
OPTIONS = BenchOptions(
    VERIFIER,
    DRAFTER,
    threads=1,
    widths=(0, 3, 7, None),
    max_tokens=40,
    repeat=2,
    n_ctx=512,
    kv_f32=True,
)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dflash_local", "bench", "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run() -> Run:
    return run_bench(OPTIONS, PROMPTS, lambda *_: None)


def test_every_mode_answers_every_prompt_in_every_round(run: Run) -> None:
    seen = {(a.mode, a.prompt, a.round) for a in run.answers}
    assert len(seen) == len(run.answers) == 5 * 3 * 2
    first = [answer.mode for answer in run.answers[:: len(run.modes)]]
    assert len(set(first)) > 1, "not always the same mode goes first"


def test_steps_account_for_every_token(run: Run) -> None:
    for answer in run.answers:
        assert len(answer.times) == answer.n_tokens <= 40
        assert answer.times == sorted(answer.times)
        if answer.mode == PLAIN:
            assert answer.steps == []
            continue
        widest = 7 if answer.mode == ADAPTIVE else int(answer.mode)
        emitted = sum(step.n_emitted for step in answer.steps)
        # The last step may hold tokens past the limit; they are computed, and not handed out.
        assert emitted + 1 - widest <= answer.n_tokens <= emitted + 1
        assert all(s.n_accepted <= s.n_drafted <= widest for s in answer.steps)
        assert all(s.n_emitted == s.n_accepted + 1 for s in answer.steps[:-1])
        measured = sum(sum(step.seconds.values()) for step in answer.steps)
        assert 0 < measured + sum(answer.seconds_prompt.values()) < answer.times[-1]


def test_drafts_are_accepted_and_rejected_and_nothing_changes(run: Run) -> None:
    steps = [step for answer in run.answers if answer.mode == "7" for step in answer.steps]
    assert 0 < sum(s.n_accepted for s in steps) < sum(s.n_drafted for s in steps)
    plain = {a.prompt: a.tokens for a in run.answers if a.mode == PLAIN}
    assert all(answer.tokens == plain[answer.prompt] for answer in run.answers)
    assert run.differences == []


def test_what_adaptive_widths_learned_is_kept(run: Run) -> None:
    assert run.learned is not None
    assert len(run.learned["verify"]) == len(run.learned["draft"]) == 8
    assert run.learned["verify"][0] > 0
    assert len(run.learned["accepted"]) <= 7


def test_adaptive_widths_have_a_model_of_their_own() -> None:
    with ExitStack() as stack:
        models = _load(OPTIONS, Run((0, 3, None), 7, 512), stack)
        assert models["0"] is models["3"] is not models[ADAPTIVE]
        assert (models["3"].width, models[ADAPTIVE].width) == (0, None)
    with ExitStack() as stack:
        assert _load(OPTIONS, Run((None,), 7, 512), stack).keys() == {PLAIN, ADAPTIVE}


def test_costs_are_measured_at_every_width(run: Run) -> None:
    assert run.staircase is not None
    assert len(run.staircase.verify) == len(run.staircase.draft) == 8
    assert run.staircase.plain > 0
    assert min(run.staircase.verify) > 0
    assert run.staircase.draft[0] == 0 < min(run.staircase.draft[1:])


def test_memory_is_libllamas_own_account(run: Run) -> None:
    memory = run.memory
    assert (memory.verifier, memory.drafter) == (VERIFIER.stat().st_size, DRAFTER.stat().st_size)
    contexts = (memory.plain_context, memory.verifier_context, memory.drafter_context)
    # F32 K and V of 2 heads of 16: 512 positions, 4 layers and 1 layer.
    kv = [context.kv if context else None for context in contexts]
    wanted = [512 * 2 * 4 * 2 * 16 * layers for layers in (4, 4, 1)]
    assert kv == pytest.approx(wanted, abs=0.01 * 1048576)  # its log has two digits of a MiB
    assert all(context and context.compute > 0 for context in contexts)
    assert resident_bytes() > 10_000_000


def test_a_slowed_session_is_found_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: a tenth of a second passes with each token."""
    tokens_of, late = generation.tokens_of, itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + seconds[-1])
    seconds = [0.0]

    def slowly(*arguments: Any) -> Iterator[int]:
        for token in tokens_of(*arguments):
            seconds.append(0.1 * next(late))
            yield token

    monkeypatch.setattr(asking, "time", clock)
    monkeypatch.setattr(generation, "tokens_of", slowly)
    slowed = run_bench(OPTIONS, PROMPTS, lambda *_: None)
    old, new = (to_report(derive(OPTIONS, r, PROMPTS)) for r in (run, slowed))
    changes = {(c.mode, c.measure): c for c in compare(old, new)}
    for mode in ("0", "3", "7"):
        assert changes[mode, "tokens_per_second"].beyond_noise
        assert changes[mode, "speed_up"].ratio < 0.5
    assert not changes["7", "acceptance_length"].beyond_noise
    slowest = max(changes[mode, "tokens_per_second"].ratio for mode in ("0", "3", "7"))
    assert changes[PLAIN, "tokens_per_second"].ratio > 2 * slowest


def test_work_of_other_processes_is_told_in_the_report(run: Run) -> None:
    others = OtherWork()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        worker = psutil.Process(process.pid)
        wait_until(lambda: worker.cpu_times().user > 0.3, "it works")
        with_it = others.processors()
        process.kill()
    assert with_it > 0.2, "it wanted a whole CPU"
    for share, told in ((0.5, True), (0.0, False)):
        report = to_report(derive(OPTIONS, run, PROMPTS, share))
        assert any("busy" in line for line in doubts(report)) == told


def test_prompts_are_rendered_as_a_chat_would(make_llama: Any) -> None:
    llm = make_llama(llama_cpp.Llama, VERIFIER)
    text = b"<|im_start|>user\nWho is anna?<|im_end|>\n<|im_start|>assistant\n"
    assert render(llm, PROMPTS[0]) == llm.tokenize(text, add_bos=False, special=True)


def test_margins_are_those_of_plain_decoding(make_llama: Any) -> None:
    llm = make_llama(llama_cpp.Llama, VERIFIER, logits_all=True)
    prompt = render(llm, PROMPTS[0])
    said, times, _, _ = ask(llm, prompt, 12, 0.0)
    rows = llm.scores[len(prompt) - 1 : len(prompt) + 11]
    expected = sorted(rows[5])[-1] - sorted(rows[5])[-2]
    other = [*said[:5], said[5] + 1, *said[6:]]
    answers = [
        Answer("anna", "facts", mode, 0, len(prompt), tokens, times)
        for mode, tokens in ((PLAIN, said), ("3", other), ("7", said))
    ]
    (difference,) = find_differences(llm, {"anna": prompt}, answers)
    assert (difference.mode, difference.position) == ("3", 5)
    assert difference.margin == pytest.approx(expected, rel=1e-4)


def test_widths_are_checked_before_anything_is_loaded() -> None:
    assert check_widths(None, 7) == (0, 1, 2, 4, 7, None)
    assert check_widths(None, 3) == (0, 1, 2, 3, None)
    assert check_widths([4, 1, 4], 7) == (1, 4)
    assert check_widths([None, 4], 7) == (4, None)
    with pytest.raises(DFlashError, match="no width to compare"):
        check_widths([], 7)
    with pytest.raises(DFlashError, match="width 8, 9: the drafter's block gives 7"):
        check_widths([8, 2, 9], 7)


def test_the_log_of_a_gpu_is_understood() -> None:
    log = LoadLog()
    for line in (
        "llama_prepare_model_devices: using device CUDA0 (NVIDIA H200) (0000:00:04.0) - 1 MiB free",
        "llama_context: constructing llama_context",
        "llama_kv_cache:      CUDA0 KV buffer size =   448.00 MiB",
        "llama_memory_recurrent:      CUDA0 RS buffer size =     2.00 MiB",
        "llama_context:  CUDA_Host  output buffer size =     0.50 MiB",
        "sched_reserve:      CUDA0 compute buffer size =   300.25 MiB",
        "sched_reserve:  CUDA_Host compute buffer size =    10.25 MiB",
    ):
        log.read(line)
    assert log.devices == ["CUDA0 (NVIDIA H200)"]
    (context,) = log.contexts
    assert (context.kv, context.compute) == (450 * 1048576, 311 * 1048576)


# ---- the command ---------------------------------------------------------------------------


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    chat = {
        "id": "anna",
        "category": "facts",
        "messages": [{"role": "user", "content": "Who is anna?"}],
        "answer": {"regex": "anna is .* years old"},
    }
    file.write_text(f"{json.dumps(chat)}\n{json.dumps({'prompt': 'the grey cat'})}\n")
    return file


def _pair(prompts: Path) -> list[str]:
    return ["--verifier", str(VERIFIER), "--drafter", str(DRAFTER), "--prompts", str(prompts)]


@pytest.mark.slow
def test_the_command_writes_a_report_and_compares_it(prompts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    common = [*_pair(prompts_file), "--max-tokens", "24", "--out", str(out)]
    done = bench(*common, "--csv", str(tmp_path / "csv"))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    text = (out / "report.md").read_text(encoding="utf-8")
    for word in (
        "## Speed", "## By category", "## Acceptance", "## Latency", "## Quality",
        "## Cost account", "## Memory", "| width 7 |", "facts", "break-even", "Drafting ",
        "## Adaptive widths", "| adaptive |", "Adaptive widths give ", "x the best fixed width",
    ):  # fmt: skip
        assert word in text
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["options"]["widths"] == [0, 1, 2, 4, 7]
    assert report["options"]["modes"][-1] == "adaptive"
    assert [found["category"] for found in report["adaptive"]] == ["all", "facts", "own"]
    overall = {s["mode"]: s for s in report["summaries"] if s["category"] == "all"}
    assert overall["7"]["acceptance_length"] > 1.5
    assert overall["7"]["n_answers"] == overall["plain"]["n_answers"] == 4
    assert overall["plain"]["score"] == overall["7"]["score"] == 1.0
    records = (out / "records.jsonl").read_text().splitlines()
    assert {answer_from_dict(json.loads(r)).mode for r in records} == set(overall)
    drawn = {"speed.png", "acceptance.png", "costs.png"} if find_spec("matplotlib") else set()
    assert {path.name for path in out.glob("*.png")} == drawn
    (csv,) = (tmp_path / "csv").glob("*.csv")
    assert ",adaptive," in csv.read_text()

    again = bench(*common, "--compare", str(out / "report.json"), "--widths", "4")
    assert again.returncode == 0, again.stderr
    assert "## Against the older report" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_adaptive_widths_alone_are_judged_too(prompts_file: Path, tmp_path: Path) -> None:
    done = bench(*_pair(prompts_file), "--widths", "adaptive", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["options"]["modes"] == ["plain", "adaptive"]
    assert report["adaptive"][0]["best"] is None
    # No width was run at which acceptance was measured: it follows from what was learned.
    lengths = [row["acceptance_length"] for row in report["costs"]["rows"]]
    known = report["learned"]["accepted"]
    expected = [1 + sum(itertools.accumulate(known[:width], operator.mul)) for width in range(8)]
    assert lengths == pytest.approx(expected)
    assert "(predicted)" in done.stdout


@pytest.mark.slow
def test_drawn_answers_are_scored_but_not_called_different(
    prompts_file: Path, tmp_path: Path
) -> None:
    arguments = ["--temperature", "0.8", "--repeat", "1", "--widths", "3", "--max-tokens", "12"]
    done = bench(*_pair(prompts_file), *arguments, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["differences"] == []
    assert [s["identical"] for s in report["summaries"] if s["mode"] == "3"] == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--widths", "9"], "at most"),
        (["--max-tokens", "500"], "--n-ctx"),
        (["--compare", "no-such-report.json"], "no-such-report.json"),
    ],
)
def test_mistakes_get_one_clear_line(
    prompts_file: Path, tmp_path: Path, arguments: list[str], word: str
) -> None:
    done = bench(*_pair(prompts_file), "--out", str(tmp_path), *arguments)
    assert done.returncode == 1
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_alone_is_refused(tmp_path: Path) -> None:
    done = bench("--verifier", str(VERIFIER), "--out", str(tmp_path))
    assert done.returncode == 1
    assert "--drafter is missing" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--widths", "2,adapt"], ["--max-tokens", "1"], ["--repeat", "0"], ["--out", __file__]],
)
def test_mistyped_options_are_refused_before_anything_loads(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = bench("--out", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
