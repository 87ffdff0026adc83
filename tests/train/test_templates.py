"""Chat templates that refuse, leave out or need something: in training, in bench and in chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import templates
from templates import DRAFTER, Done, questions, run, with_template, write_rows

from dflash_local.cli import bench, chat
from dflash_local.errors import ModelError, PromptError
from dflash_local.rows.faithful import FaithfulTemplate, Rendered
from dflash_local.runtime.rendering import render_chat

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dflash_local.cli import train  # noqa: E402
from dflash_local.train.verifiers.gguf_template import Template  # noqa: E402
from dflash_local.train.verifiers.hf_template import HfTemplate  # noqa: E402
from dflash_local.train.workspace import Prompt  # noqa: E402

CASES = Path(__file__).parents[1] / "cases"
SMALL = ("--threads", "1", "--max-tokens", "8", "--max-length", "256")
USER = {"role": "user", "content": "Weather in oslo?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "oslo"}}}],
}
RAIN = {"role": "tool", "content": "rain"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def train_prompts(verifier: Path, out: Path, rows: Path, *arguments: object) -> Done:
    return run(
        train.main, "prompts", "--verifier", verifier, "--out", out, "--prompts", rows, *SMALL,
        *arguments,
    )  # fmt: skip


def written(verifier: Path, out: Path, name: str = "prompts") -> list[str]:
    """What was rendered for training, as text."""
    template = Template(verifier)
    lines = (out / "work" / f"{name}.jsonl").read_text().splitlines()
    return [template.exact_text(json.loads(line)["tokens"]) for line in lines]


def run_bench(verifier: Path, out: Path, rows: Path) -> Done:
    return run(
        bench.main, "--verifier", verifier, "--drafter", DRAFTER, "--prompts", rows, "--out", out,
        "--threads", "1", "--widths", "2", "--max-tokens", "2", "--repeat", "1",
    )  # fmt: skip


def run_chat(verifier: Path, *arguments: object) -> Done:
    return run(
        chat.main, "--verifier", verifier, "--plain", "--threads", "1", "--max-tokens", "2",
        "-p", "Hi", *arguments,
    )  # fmt: skip


# ---- what a template refuses ---------------------------------------------------------------


def test_a_row_that_the_template_refuses_is_left_out_and_shown(tmp_path: Path) -> None:
    verifier = with_template(tmp_path / "v.gguf", templates.STRICT)
    bad = {"messages": [{"role": "assistant", "content": "Hello."}, USER]}
    rows = write_rows(tmp_path / "r.jsonl", [*questions(20), bad])
    done = train_prompts(verifier, tmp_path / "out", rows)
    assert done.status == 0, done.err
    reason = "the chat template refuses these messages: roles must alternate"
    assert f"1 of 21 rows: {reason} (line 21: " in done.err
    assert '"content": "Hello."' in done.err, "an example"
    assert len(written(verifier, tmp_path / "out")) == 20


def test_too_many_of_them_stop_the_run_before_anything_is_made(tmp_path: Path) -> None:
    verifier = with_template(tmp_path / "v.gguf", templates.STRICT)
    bad = {"messages": [{"role": "assistant", "content": "Hello."}, USER]}
    rows = write_rows(tmp_path / "r.jsonl", [*questions(18), bad, bad])
    done = train_prompts(verifier, tmp_path / "out", rows, "--synthesize", "100000")
    assert done.status == 1
    assert "2 of 20 rows cannot be used, more than 5 % (--most-refused)" in done.err
    assert "line 19: the chat template refuses" in done.err
    # Nothing was made: the same folder may be used with other settings, or a better file.
    done = train_prompts(verifier, tmp_path / "out", rows, "--most-refused", "10%")
    assert done.status == 0, done.err
    assert train_prompts(verifier, tmp_path / "x", rows, "--most-refused", "110%").status == 2


@pytest.mark.parametrize(
    "template",
    [templates.REFUSING, templates.FILTERING, templates.UNDEFINED, templates.BROKEN],
    ids=["raises", "filter", "undefined", "syntax"],
)
def test_a_template_that_writes_nothing_is_told_in_a_line(tmp_path: Path, template: str) -> None:
    verifier = with_template(tmp_path / "v.gguf", template)
    rows = write_rows(tmp_path / "r.jsonl", questions(3))
    done = [
        train_prompts(verifier, tmp_path / "train", rows),
        run_bench(verifier, tmp_path / "bench", rows),
        run_chat(verifier),
    ]
    for one in done:
        assert one.status == 1
        assert "chat template" in one.err
    if template == templates.REFUSING:
        assert "prompt-1: the chat template refuses these messages: no messages" in done[1].err
    assert len(done[2].err.splitlines()) <= 2


def test_bench_names_the_row_that_cannot_be_asked(tmp_path: Path) -> None:
    verifier = with_template(tmp_path / "v.gguf", templates.STRICT)
    bad = {"messages": [{"role": "assistant", "content": "Hello."}, USER], "id": "strange"}
    done = run_bench(verifier, tmp_path / "b", write_rows(tmp_path / "r", [*questions(2), bad]))
    assert done.status == 1
    assert "strange: the chat template refuses these messages: roles must alternate" in done.err
    contents = CASES / "contents.jsonl"
    done = run_bench(verifier, tmp_path / "b", contents)
    assert done.status == 1
    assert "line 1: a content that is a number, expected text" in done.err


def test_a_template_that_is_none_is_a_models_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its chat template cannot be used"):
        Template(with_template(tmp_path / "v.gguf", templates.BROKEN))


# ---- no template ---------------------------------------------------------------------------


def test_a_model_without_a_template_is_not_asked_as_llama_2_unseen(tmp_path: Path) -> None:
    verifier = with_template(tmp_path / "v.gguf", None)
    rows = write_rows(tmp_path / "r.jsonl", questions(3))
    done = train_prompts(verifier, tmp_path / "out", rows)
    assert done.status == 1
    assert "this verifier's GGUF has no chat template" in done.err
    texts = write_rows(tmp_path / "t.jsonl", [{"prompt": "the grey cat"}] * 2)
    assert train_prompts(verifier, tmp_path / "out", texts).status == 0
    assert written(verifier, tmp_path / "out") == ["the grey cat"]
    for done in (run_bench(verifier, tmp_path / "b", rows), run_chat(verifier)):
        assert done.status == 0, done.err
        assert "no chat template" in done.err
        assert "[INST]" in done.err


# ---- calls of tools, parts, other roles ----------------------------------------------------


@pytest.mark.parametrize("template", [templates.CONCATENATING, templates.PRINTING])
def test_calls_that_the_template_cannot_write_are_left_out(tmp_path: Path, template: str) -> None:
    verifier = with_template(tmp_path / "v.gguf", template)
    called = [{"messages": [USER, CALL, RAIN]}]
    rows = write_rows(tmp_path / "r.jsonl", [*questions(20), *called])
    done = train_prompts(verifier, tmp_path / "out", rows)
    assert done.status == 0, done.err
    assert "1 of 21 rows: the chat template does not write the calls of tools" in done.err
    assert not any("None" in text or "[{" in text for text in written(verifier, tmp_path / "out"))


def test_calls_are_written_where_the_template_can(tmp_path: Path) -> None:
    verifier = with_template(tmp_path / "v.gguf", templates.CALLING)
    rows = CASES / "calls.jsonl"
    done = train_prompts(verifier, tmp_path / "out", rows, "--most-refused", "50%")
    assert done.status == 0, done.err
    texts = written(verifier, tmp_path / "out")
    call = '<call>weather {"city": "oslo"}</call>'
    tools = '<|im_start|>system\nTOOLS [{"type": "function"'
    assert [call in text for text in texts] == [False, True, False, True]
    assert [text.startswith(tools) for text in texts] == [True, True, False, False]


def test_arguments_are_text_where_the_template_wants_text(tmp_path: Path) -> None:
    for template in (templates.CALLING, templates.CALLING_WITH_TEXT):
        own = Template(with_template(tmp_path / "v.gguf", template))
        text = own.exact_text(own.prompt([USER, CALL, RAIN]))
        assert '<call>weather {"city": "oslo"}</call>' in text


def test_an_answer_that_is_a_call_is_trained_on_as_the_template_writes_it(tmp_path: Path) -> None:
    verifier = with_template(tmp_path / "v.gguf", templates.CALLING)
    rows = write_rows(tmp_path / "r.jsonl", [{"messages": [USER, CALL], "tools": TOOLS}])
    done = train_prompts(verifier, tmp_path / "out", rows, "--as-is")
    assert done.status == 0, done.err
    (line,) = (tmp_path / "out/work/conversations.jsonl").read_text().splitlines()
    text = json.loads(line)
    answer = Template(verifier).exact_text(text["tokens"][text["start"] :])
    assert answer == '<call>weather {"city": "oslo"}</call><|im_end|>'


def test_a_turn_that_the_template_leaves_out_is_told(tmp_path: Path) -> None:
    deaf = Template(with_template(tmp_path / "v.gguf", templates.DEAF))
    assert deaf.prompt([USER])
    for role in ("system", "tool"):
        with pytest.raises(PromptError, match=f"leaves out a turn of the role {role}"):
            deaf.prompt([{"role": role, "content": "Weather"}, USER])


def test_tools_and_settings_reach_the_template(tmp_path: Path) -> None:
    verifier = with_template(tmp_path / "v.gguf", templates.CALLING)
    row: dict[str, Any] = {"messages": [USER]}
    no_thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    wrong = {"chat_template_kwargs": {"enable_dreaming": True}}
    mine = {"chat_template_kwargs": {"add_generation_prompt": False}}
    given = [row, {**row, "tools": TOOLS}, {**row, **no_thinking}, {**row, "conversation_id": 3}]
    rows = write_rows(tmp_path / "r.jsonl", [*given, {**row, **wrong}, {**row, **mine}])
    done = train_prompts(verifier, tmp_path / "out", rows, "--most-refused", "0.5")
    assert done.status == 0, done.err
    plain, tools, quiet = written(verifier, tmp_path / "out")
    assert "TOOLS" not in plain
    assert tools == f"<|im_start|>system\nTOOLS {json.dumps(TOOLS)}<|im_end|>\n{plain}"
    assert quiet == f"NOTHINK{plain}"
    assert "fields that nobody reads: conversation_id (1 rows)" in done.err
    assert "1 of 4 prompts: a duplicate" in done.err
    assert "template has no setting enable_dreaming" in done.err
    assert "add_generation_prompt cannot be set" in done.err


def test_what_reaches_the_template_is_what_create_chat_completion_gives_it(tmp_path: Path) -> None:
    own = Template(with_template(tmp_path / "v.gguf", templates.CALLING))
    ours = own.prompt([USER], TOOLS)
    assert own.exact_text(ours) == render_chat(own.llm, [USER], TOOLS).text
    assert own.prompt([USER], TOOLS, {"enable_thinking": True}) == ours


def test_tools_that_the_template_does_not_write_are_told(tmp_path: Path) -> None:
    verifier = with_template(tmp_path / "v.gguf", templates.CONCATENATING)
    rows = write_rows(tmp_path / "r.jsonl", [{"messages": [USER], "tools": TOOLS}])
    done = train_prompts(verifier, tmp_path / "out", rows)
    assert done.status == 0
    assert "1 rows have tools that the chat template does not write" in done.err


def test_bench_asks_with_the_rows_tools(tmp_path: Path) -> None:
    from dflash_local.bench.rendering import render
    from dflash_local.bench.suite import load_prompts

    own = Template(with_template(tmp_path / "v.gguf", templates.CALLING))
    rows = write_rows(tmp_path / "r.jsonl", [{"messages": [USER], "tools": TOOLS, "odd": 1}])
    with pytest.warns(UserWarning, match=r"r.jsonl: fields that nobody reads: odd \(1 rows\)"):
        (prompt,) = load_prompts(rows)
    assert render(own.llm, prompt) == own.prompt([USER], TOOLS)
    broken = write_rows(tmp_path / "c.jsonl", [{"messages": [USER, CALL, RAIN]}])
    plain = Template(with_template(tmp_path / "v.gguf", templates.CONCATENATING))
    with pytest.raises(PromptError, match="does not write the calls"):
        render(plain.llm, load_prompts(broken)[0])


def test_a_kind_of_turn_is_looked_at_once() -> None:
    calls = []

    def render(messages: Any, *_: Any) -> Rendered:
        calls.append(len(messages))
        return Rendered("".join(f"{m['role']}: {m['content']}\n" for m in messages), [])

    faithful = FaithfulTemplate(render, lambda: "")
    for _ in range(50):
        faithful.prompt([{"role": "system", "content": "Be short."}, USER])
    assert len(calls) == 51


# ---- the end of a turn ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "keys", "end"),
    [
        (templates.CONCATENATING, {}, 2),
        (templates.CONCATENATING, {"eos": 0, "eot": 2}, 2),
        (templates.CONCATENATING, {"eos": 0}, 2),
        # The one that the template writes, not the one that the file names.
        (templates.CONCATENATING, {"eos": 2, "eot": 0}, 2),
        (templates.PRINTING.replace("<|im_end|>", "<|endoftext|>"), {"eos": 2}, 0),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", {"eos": 0, "eot": 2}, 2),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", {"eos": 0}, 0),
        (None, {"eos": 0, "eot": 2}, 0),
    ],
)
def test_an_answer_ends_as_the_template_ends_a_turn(
    tmp_path: Path, template: str | None, keys: dict[str, int], end: int
) -> None:
    own = Template(with_template(tmp_path / "v.gguf", template, **keys))
    assert own.answer("well", ended=True)[-1] == end
    assert own.is_end(end)
    assert own.text_end == keys.get("eos", 2)


@pytest.mark.parametrize(("eos", "ends", "expected"), [(0, [0, 2], 2), (2, [0, 2], 2), (0, [], 0)])
def test_of_several_ends_of_a_generation_the_templates_own_is_taken(
    tmp_path: Path, eos: int, ends: list[int], expected: int
) -> None:
    from tiny_hf import write_tokenizer
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos)
    template = HfTemplate(tokenizer, ends=ends)
    assert template.answer("well", ended=True)[-1] == expected


def test_a_hugging_face_template_is_held_to_the_same(tmp_path: Path) -> None:
    from tiny_hf import write_tokenizer
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ours, theirs = (
        HfTemplate(tokenizer),
        Template(with_template(tmp_path / "v.gguf", templates.CALLING)),
    )
    with pytest.raises(PromptError, match="does not write the calls"):
        ours.prompt([USER, CALL, RAIN])
    tokenizer.chat_template = templates.CALLING
    ours = HfTemplate(tokenizer, thinking=False)
    quiet = {"enable_thinking": False}
    asked = [USER, CALL, RAIN]
    assert ours.prompt(asked, TOOLS) == theirs.prompt(asked, TOOLS, quiet)
    assert ours.prompt(asked, TOOLS, {"enable_thinking": True}) == theirs.prompt(asked, TOOLS)
    assert ours.turn([USER, CALL]) == theirs.turn([USER, CALL], None, quiet)
    assert ours.writes_tools([USER], TOOLS, {})
    tokenizer.chat_template = templates.DEAF
    with pytest.raises(PromptError, match="leaves out a turn of the role system"):
        HfTemplate(tokenizer).prompt([{"role": "system", "content": "Hi"}, USER])


def test_prompts_of_a_folder_from_before_are_still_read() -> None:
    from dflash_local.train.workspace import _prompt

    assert _prompt([1, 2]) == Prompt((1, 2))
