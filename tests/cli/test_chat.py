"""``dflash-local chat`` as its users meet it through pipes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import chats
import pytest
from chats import CHAT, MODELS, QUESTION, TINY, chat, posix_only
from waiting import PATIENCE

from dflash_local.files import demo_pair

pytestmark = chats.needs_the_demo
# pytest finds fixtures by the names of a module.
cache = chats.cache


@pytest.mark.slow
def test_one_answer_drafts_and_writes_its_statistics(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    done = chat("-p", QUESTION, "--max-tokens", "48", "--width", "4", "--stats-json", str(file))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "tokens/s" not in done.stdout
    assert "photosynthesis" in done.stdout.lower()
    assert done.stdout.endswith("\n")
    facts = json.loads(file.read_text())
    assert 0 < facts["accepted"] < facts["drafted"]
    assert sum(facts["accepted_per_position"]) == facts["accepted"]
    assert facts["acceptance_length"] > 1.2
    assert facts["acceptance_rate"] == pytest.approx(facts["accepted"] / facts["drafted"])
    assert (facts["tokens"], facts["width"], facts["n_threads"]) == (48, 4, 1)
    assert facts["tokens_per_second"] > 0
    assert 0 < facts["seconds_to_first_token"] < facts["seconds_total"]
    assert set(facts["seconds"]) == {"prefill", "inject", "draft", "verify", "sample"}
    assert facts["verifier"] == str(demo_pair.verifier())
    assert facts["drafter"] == str(demo_pair.drafter())
    assert list(tmp_path.iterdir()) == [file]


def test_widths_are_adaptive_unless_one_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    length = ["--max-tokens", "48", "--stats-json", str(file)]
    assert chat(*TINY, "-p", "Who is anna?", *length).returncode == 0
    facts = json.loads(file.read_text())
    assert facts["width"] is None
    drafted, verified = facts["drafted_per_width"], facts["verified_per_width"]
    assert sum(drafted) == sum(verified) > 0
    assert sum(width * count for width, count in enumerate(verified)) == facts["drafted"]
    assert len(verified) <= len(drafted) <= 8

    assert chat(*TINY, "-p", "Who is anna?", *length, "--width", "3").returncode == 0
    facts = json.loads(file.read_text())
    assert facts["width"] == 3
    assert set(facts["drafted_per_width"][:3]) == {0}


@pytest.mark.slow
def test_piped_input_is_one_question_and_plain_says_the_same() -> None:
    piped = chat("--max-tokens", "16", stdin=QUESTION)
    plain = chat("--plain", "-p", QUESTION, "--max-tokens", "16")
    assert piped.returncode == plain.returncode == 0
    # In BF16 the two round differently, so only the beginning is certain to be the same.
    assert piped.stdout[:16] == plain.stdout[:16] != ""


def test_empty_input_exits_cleanly() -> None:
    done = chat(stdin="")
    assert done.returncode == 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_verifier_without_a_drafter_decodes_plainly_and_says_so(tmp_path: Path) -> None:
    verifier = shutil.copy(MODELS / "verifier-f32.gguf", tmp_path / "alone.gguf")
    done = chat("--verifier", str(verifier), "-p", "Hi", "--max-tokens", "4")
    assert done.returncode == 0
    assert "warning: no drafter was found for alone.gguf, so decoding is plain" in done.stderr
    assert "dflash-local train" in done.stderr


@pytest.mark.parametrize("drafter", [(), ("--drafter", "auto")])
def test_a_drafter_beside_the_verifier_is_found(tmp_path: Path, drafter: tuple[str, ...]) -> None:
    verifier = shutil.copy(MODELS / "verifier-f32.gguf", tmp_path / "v.gguf")
    sidecar = shutil.copy(MODELS / "dflash-b8.gguf", tmp_path / "dflash-v.gguf")
    file = tmp_path / "s.json"
    options = ("--width", "4", "-p", "Who is anna?", "--max-tokens", "16")
    done = chat("--verifier", str(verifier), *drafter, *options, "--stats-json", str(file))
    assert done.returncode == 0, done.stderr
    facts = json.loads(file.read_text())
    assert facts["drafter"] == str(sidecar)
    assert facts["drafted"] > 0


def test_a_name_that_means_nothing_gets_one_clear_line() -> None:
    done = chat("--verifier", "qwen3-8", "-p", "Hi")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "did you mean 'qwen3-8b'?" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"", b"not a model at all", b"GGUF\x03\0\0\0"])
def test_a_bad_verifier_gets_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "bad.gguf"
    if content is not None:
        file.write_bytes(content)
    done = chat("--verifier", str(file), "--plain", "-p", "Hi")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(file) in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--width", "-1"],
        ["--temperature", "cold"],
        ["--plain", "--width", "4"],
        ["-p", " "],
        ["--stats-json", "no/such/folder/s.json"],
    ],
)
def test_mistyped_options_are_refused_before_anything_loads(arguments: list[str]) -> None:
    done = chat(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


@pytest.mark.slow
def test_a_question_too_long_for_the_context_is_an_error() -> None:
    done = chat("--n-ctx", "256", stdin="word " * 400)
    assert done.returncode == 1
    assert "--n-ctx" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@posix_only
def test_a_reader_that_leaves_ends_the_program_quietly() -> None:
    process = subprocess.Popen(
        [*CHAT, "-p", QUESTION, "--max-tokens", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=PATIENCE) == 0
