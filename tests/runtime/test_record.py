"""Finished answers in a folder: which are kept, and that the record is private and bounded."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from waiting import PATIENCE

from dflash_local import DFlashError, Llama
from dflash_local.cli.loading import load
from dflash_local.cli.options import parse
from dflash_local.record.folder import RecordFolder, segments_of
from dflash_local.record.heartbeat import Heartbeat, is_at_work
from dflash_local.record.reading import Recorded, read_record

MODELS = Path(__file__).parents[1] / "models"
VERIFIER, DRAFTER = MODELS / "verifier-f32.gguf", MODELS / "dflash-b8.gguf"
ASKED = [{"role": "user", "content": "Who is anna?"}]
posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes and devices of POSIX")


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    """One model; the tests give it folders of their own."""
    with Llama(VERIFIER, drafter=DRAFTER, width=7, n_ctx=512, n_threads=1) as model:
        yield model


@pytest.fixture
def folder(llm: Any, tmp_path: Path) -> Path:
    """Where ``llm`` records for this test."""
    record_in(llm, tmp_path / "record")
    return tmp_path / "record"


def record_in(llm: Any, path: Path) -> None:
    from dflash_local.record.recorder import Recorder
    from dflash_local.record.source import source_of

    llm._recorder = Recorder(RecordFolder(path), source_of(llm), llm._warn)


def answers(folder: Path) -> list[Recorded]:
    record = read_record(folder)
    assert record.n_spoiled == 0
    return record.answers


def tokens_of(llm: Any, prompt: list[int], n: int) -> list[int]:
    made = llm.generate(prompt, temp=0.0)
    out = [token for _, token in zip(range(n), made, strict=False)]
    made.close()
    return out


# ---- which answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_kept_with_its_prompt(llm: Any, folder: Path, stream: bool) -> None:
    said = llm.create_chat_completion(ASKED, max_tokens=9, temperature=0.0, stream=stream)
    if stream:
        assert list(said)[-1]["choices"][0]["finish_reason"] == "length"
    (one,) = answers(folder)
    prompt, answer = list(one.tokens[: one.start]), list(one.tokens[one.start :])
    assert len(answer) == 9
    assert not one.ended
    assert tokens_of(llm, prompt, 9) == answer
    source = read_record(folder).sources[one.source]
    assert Path(source.verifier) == VERIFIER
    assert Path(str(source.drafter)) == DRAFTER
    assert source.chat_template == llm.metadata["tokenizer.chat_template"]
    (line,) = (line for line in segments_of(folder)[0].read_text().split("\n") if line)
    assert json.loads(line)["settings"] == {"temp": 0.0}


def test_an_answer_that_came_to_its_end_is_kept_with_the_token_that_ends_it(
    llm: Any, folder: Path
) -> None:
    said = llm.create_chat_completion(ASKED, max_tokens=300, temperature=0.0)
    assert said["choices"][0]["finish_reason"] == "stop"
    (one,) = answers(folder)
    assert one.ended
    assert llama_cpp.llama_vocab_is_eog(llm._model.vocab, one.tokens[-1])
    tokens_of(llm, list(one.tokens[: one.start]), len(one.tokens) - one.start)
    assert answers(folder) == [one, one], "of `generate`, which is left after its last token"


def test_an_answer_that_is_broken_off_is_not_kept(llm: Any, folder: Path) -> None:
    stream = llm.create_chat_completion(ASKED, max_tokens=30, temperature=0.0, stream=True)
    for _ in range(4):
        next(stream)
    stream.close()
    tokens_of(llm, llm.tokenize(b"Who is anna?"), 3)
    assert answers(folder) == []


def test_a_stop_string_ends_an_answer(llm: Any, folder: Path) -> None:
    text = llm.create_chat_completion(ASKED, max_tokens=20, temperature=0.0)
    word = text["choices"][0]["message"]["content"].split()[2]
    said = llm.create_chat_completion(ASKED, max_tokens=20, temperature=0.0, stop=[word])
    assert said["choices"][0]["finish_reason"] == "stop"
    whole, stopped = answers(folder)
    assert not stopped.ended
    assert stopped.tokens == whole.tokens[: len(stopped.tokens)]


def test_nothing_is_kept_where_nobody_asked_for_it(llm: Any, tmp_path: Path) -> None:
    llm._recorder = None
    llm.create_chat_completion(ASKED, max_tokens=4)
    assert list(tmp_path.iterdir()) == []


def test_the_argument_and_the_option_of_chat(tmp_path: Path) -> None:
    files = ["--verifier", str(VERIFIER), "--threads", "1", "--n-ctx", "256"]
    options = parse([*files, "--drafter", str(DRAFTER), "--record", str(tmp_path / "kept")])
    with load(options, (VERIFIER, DRAFTER)) as llm:
        llm.create_chat_completion(ASKED, max_tokens=3)
    assert len(answers(tmp_path / "kept")) == 1


def test_the_bench_keeps_each_answer_once(tmp_path: Path) -> None:
    from dflash_local.bench.measuring import measure
    from dflash_local.bench.runner import BenchOptions
    from dflash_local.bench.suite import load_prompts

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Who is {n}?"}) + "\n" for n in ("anna", "tom")))
    options = BenchOptions(
        VERIFIER, DRAFTER, 1, (0, 2), max_tokens=6, n_ctx=512, record=tmp_path / "kept"
    )
    measure(options, load_prompts(rows))
    assert len(answers(tmp_path / "kept")) == 2


# ---- the folder --------------------------------------------------------------------------------


@posix_only
def test_files_are_the_users_alone(llm: Any, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        record_in(llm, tmp_path / "record")
        llm.create_chat_completion(ASKED, max_tokens=3)
    finally:
        os.umask(before)
    for path in [tmp_path / "record", *(tmp_path / "record").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    text = (tmp_path / "record" / "README").read_text()
    assert "What is kept" in text
    assert "delete this folder" in text


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds other files"):
        Llama(VERIFIER, record=tmp_path)
    with pytest.raises(DFlashError, match="no answers were recorded here"):
        read_record(tmp_path)


def test_the_oldest_answers_make_room(tmp_path: Path) -> None:
    folder = RecordFolder(tmp_path / "record", max_bytes=16_000)
    for number in range(600):
        folder.append(json.dumps({"number": number, "text": "x" * 80}))
    sizes = [path.stat().st_size for path in folder.segments()]
    assert 12_000 < sum(sizes) <= 16_000
    lines = "".join(path.read_text() for path in folder.segments()).split("\n")
    kept = [json.loads(line)["number"] for line in lines if line]
    assert kept == list(range(kept[0], 600)), "the newest, in order"


WRITES = """
import sys
from pathlib import Path
from dflash_local.record.folder import RecordFolder

folder = RecordFolder(Path(sys.argv[1]), max_bytes=1 << 20)
for number in range(300):
    folder.append(f'{{"writer": {sys.argv[2]}, "number": {number}, "text": "{"x" * 600}"}}')
"""


def test_processes_write_at_once(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path / "record"), str(number)])
        for number in range(3)
    ]
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0, 0]
    text = "".join(path.read_text() for path in segments_of(tmp_path / "record"))
    rows = [json.loads(line) for line in text.split("\n") if line]
    for number in range(3):
        assert [r["number"] for r in rows if r["writer"] == number] == list(range(300))


def test_what_a_crash_cut_off_costs_that_answer_only(llm: Any, folder: Path) -> None:
    llm.create_chat_completion(ASKED, max_tokens=3)
    (segment,) = segments_of(folder)
    with segment.open("ab") as file:
        file.write(b'\n{"at":1,"source":"0","tok')
    llm.create_chat_completion(ASKED, max_tokens=4)
    record = read_record(folder)
    assert [len(one.tokens) - one.start for one in record.answers] == [3, 4]
    assert record.n_spoiled == 1


# ---- nothing is disturbed ----------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_on_a_full_disk_answers_go_on_and_recording_stops(llm: Any, folder: Path) -> None:
    (folder / "answers-00000001.jsonl").symlink_to("/dev/full")
    wanted = llm.create_chat_completion  # the same call twice
    with pytest.warns(RuntimeWarning, match="answers are no longer recorded: .*space"):
        first = wanted(ASKED, max_tokens=5, temperature=0.0)
    (folder / "answers-00000001.jsonl").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = wanted(ASKED, max_tokens=5, temperature=0.0)
    assert first["choices"] == second["choices"]
    assert answers(folder) == []


def test_a_folder_that_was_deleted_is_not_made_again(llm: Any, folder: Path) -> None:
    llm._warned.clear()
    shutil.rmtree(folder)
    with pytest.warns(RuntimeWarning, match="answers are no longer recorded"):
        llm.create_chat_completion(ASKED, max_tokens=5)
    assert not folder.exists()


# ---- who is at work ----------------------------------------------------------------------------


def test_others_can_tell_that_an_answer_is_made(llm: Any, folder: Path) -> None:
    assert not is_at_work(folder)
    stream = llm.create_chat_completion(ASKED, max_tokens=8, stream=True)
    for _ in range(3):
        next(stream)
    assert is_at_work(folder)
    stream.close()


def test_a_mark_grows_old(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path)
    heart.begin()
    assert is_at_work(tmp_path), "a prompt that is read"
    marked = (tmp_path / ".at-work").stat().st_mtime
    os.utime(tmp_path / ".at-work", (marked - 120, marked - 120))
    assert not is_at_work(tmp_path)
    heart.beat()
    assert is_at_work(tmp_path)
