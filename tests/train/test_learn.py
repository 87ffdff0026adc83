"""``dflash_local.learn`` on the tiny pair: what is learned, judged, put in place, taken back."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

from models.tiny_text import chat  # noqa: E402
from training import N_CTX, TARGET_LAYER_IDS, VERIFIER, answers  # noqa: E402
from waiting import wait_until  # noqa: E402

from dflash_local import DFlashError, Llama, train  # noqa: E402
from dflash_local.cli.learn import main  # noqa: E402
from dflash_local.cli.loading import find_pair  # noqa: E402
from dflash_local.cli.options import parse  # noqa: E402
from dflash_local.files.fingerprint import fingerprint  # noqa: E402
from dflash_local.learn import LearnOptions, learn, undo  # noqa: E402
from dflash_local.learn.pace import Pace  # noqa: E402
from dflash_local.learn.places import Places, put_in_place, swap_back  # noqa: E402
from dflash_local.learn.replay import Replayed, compare  # noqa: E402
from dflash_local.learn.texts import texts_of  # noqa: E402
from dflash_local.record.folder import RecordFolder  # noqa: E402
from dflash_local.record.heartbeat import Heartbeat  # noqa: E402
from dflash_local.record.reading import read_record  # noqa: E402
from dflash_local.record.recorder import Recorder  # noqa: E402
from dflash_local.record.source import Source  # noqa: E402
from dflash_local.train.answerer import Answerer, Question, Sampling  # noqa: E402
from dflash_local.train.conversations import Conversation  # noqa: E402
from dflash_local.train.draft_vocab import proposed_tokens  # noqa: E402
from dflash_local.train.from_gguf import checkpoint_of, matrix_type  # noqa: E402
from dflash_local.train.verifiers.gguf_template import Template  # noqa: E402

MODELS = Path(__file__).parents[1] / "models"
GOOD = MODELS / "dflash-b8.gguf"
torch.set_num_threads(1)


@cache
def traffic() -> list[Conversation]:
    """The tiny verifier's greedy answers to 90 different questions."""
    chance, asked = random.Random(5), {}
    template = Template(VERIFIER)
    while len(asked) < 90:
        question = chat(chance).partition("user\n")[2].partition("<|im_end|>")[0]
        asked[question] = template.prompt([{"role": "user", "content": question}])
    prompts = [prompt for prompt in asked.values() if len(prompt) < N_CTX - 40]
    with Answerer(VERIFIER, n_slots=16, n_ctx=N_CTX, n_threads=1) as answerer:
        said = answerer.answer([Question(p, Sampling(), 32) for p in prompts])
    return [Conversation((*p, *a), len(p)) for p, a in zip(prompts, said, strict=True)]


def record(folder: Path, drafter: Path, texts: list[Conversation]) -> None:
    """As a ``Llama`` of this pair would have."""
    source = Source(
        str(VERIFIER), fingerprint(VERIFIER), str(drafter), fingerprint(drafter), None, None, 512
    )
    recorder = Recorder(RecordFolder(folder), source, pytest.fail)
    for text in texts:
        answer = text.tokens[text.start :]
        recorder.add(text.prompt, answer, ended=False, settings={"temp": 0.0})


def options(folder: Path, **changes: Any) -> LearnOptions:
    """Enough time that steps are what ends the fit, on any machine."""
    return replace(LearnOptions(folder, minutes=60, most_steps=75, length=N_CTX), **changes)


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drafter that has been trained for two steps."""
    out = tmp_path_factory.mktemp("trained") / "drafter"
    rows = out.parent / "texts.jsonl"
    texts = ({"tokens": one.tokens, "start": one.start} for one in answers())
    rows.write_text("".join(json.dumps(one) + "\n" for one in texts))
    made = train.train(
        train.TrainOptions(
            VERIFIER,
            out,
            train.Data(tokens=(rows,), held_out=0.2, max_length=128),
            train.DrafterShape(layers=1, block=5, target_layers=TARGET_LAYER_IDS),
            train.FitOptions(steps=2, n_blocks=4, evaluate_every=2),
            threads=1,
            force=True,
        )
    )
    assert made.drafter is not None
    return made.drafter


# ---- the whole of it ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_drafter_that_learned_is_put_in_place_and_can_be_taken_back(
    beginner: Path, tmp_path: Path
) -> None:
    drafter = Path(shutil.copy(beginner, tmp_path / "drafter.gguf"))
    record(tmp_path / "record", drafter, traffic())
    outcome = learn(options(tmp_path / "record", learning_rate=5e-3))
    verdict = outcome.verdict
    assert outcome.in_place
    assert verdict.after > verdict.before + 2 * verdict.error
    assert verdict.n_dialogues >= 5
    assert drafter.read_bytes() != beginner.read_bytes()
    assert set(proposed_tokens(beginner) or []) <= set(proposed_tokens(drafter) or range(384))
    with Llama(VERIFIER, drafter=drafter, width=4, n_ctx=256, n_threads=1) as llm:
        llm.create_chat_completion([{"role": "user", "content": "Who is anna?"}], max_tokens=9)
        assert llm.stats.last.n_drafted > 0
    assert f"| after | {verdict.after:.3f} |" in outcome.report.read_text()
    (line,) = outcome.report.with_name("history.jsonl").read_text().splitlines()
    assert json.loads(line)["in_place"] is True
    assert not (tmp_path / "record" / "learning" / "work").exists()
    learned = drafter.read_bytes()
    assert undo(options(tmp_path / "record")).to == drafter
    assert drafter.read_bytes() == beginner.read_bytes()
    undo(options(tmp_path / "record"))
    assert drafter.read_bytes() == learned


def test_a_drafter_that_is_no_better_is_left_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that knows these texts, and a learning rate at which it learns nothing."""
    drafter = Path(shutil.copy(GOOD, tmp_path / "drafter.gguf"))
    record(tmp_path / "record", drafter, traffic())
    nice = os.nice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "nice", lambda _: nice(0))  # for good, which other tests would feel
        status = main(
            [str(tmp_path / "record"), "--minutes", "0", "--threads", "1", "--learning-rate", "0"]
        )
    told = capsys.readouterr()
    assert status == 0, told.err
    assert "not better beyond chance" in told.out
    assert drafter.read_bytes() == GOOD.read_bytes()
    assert [path.name for path in tmp_path.glob("*.gguf")] == ["drafter.gguf"]
    assert main([str(tmp_path / "record"), "--undo"]) == 1
    assert "nothing was put in place" in capsys.readouterr().err


def test_with_few_answers_it_says_how_many_are_wanted(tmp_path: Path) -> None:
    record(tmp_path / "record", GOOD, traffic()[:6])
    with pytest.raises(DFlashError, match=r"6 different answers of .* Go on recording"):
        learn(options(tmp_path / "record"))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DFlashError, match="no answers were recorded here"):
        learn(options(tmp_path))
    gone = Path(shutil.copy(GOOD, tmp_path / "gone.gguf"))
    record(tmp_path / "record", gone, traffic()[:2])
    gone.unlink()
    with pytest.raises(DFlashError, match=r"gone\.gguf: the drafter .* no longer there: --drafter"):
        learn(options(tmp_path / "record"))


def test_few_answers_are_parted_so_that_enough_is_replayed(tmp_path: Path) -> None:
    """By dialogue, and what was learned from once is not replayed when there are more answers."""
    learned_before: set[Conversation] = set()
    for n in (30, 40, 60, 80):
        folder = tmp_path / str(n)
        record(folder, GOOD, traffic()[:n])
        parts = texts_of(options(folder), read_record(folder), VERIFIER)
        assert len(set(parts.dialogues)) >= 5
        assert len(parts.held_out) <= 0.4 * n
        assert not set(parts.held_out) & set(parts.texts)
        assert not set(parts.held_out) & learned_before
        learned_before |= set(parts.texts)


# ---- weights back from a GGUF ------------------------------------------------------------------


def test_a_gguf_gives_back_the_checkpoint_it_was_made_of(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = checkpoint_of(GOOD, VERIFIER, tmp_path / "back")
    wanted, found = (load_file(d / "model.safetensors") for d in (MODELS / "dflash-b8", folder))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name].float(), value.float(), atol=1e-2, rtol=1e-2), name
    ours, theirs = (
        json.loads((d / "config.json").read_text()) for d in (MODELS / "dflash-b8", folder)
    )
    ignored = {"bos_token_id", "eos_token_id", "sliding_window", "rope_scaling"}
    for name in ours.keys() - ignored:
        close = pytest.approx(ours[name]) if isinstance(ours[name], float) else ours[name]
        assert theirs[name] == close, name
    assert matrix_type(GOOD) == "f16"


def test_kinds_that_are_not_trained_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DFlashError, match="its kind: found dspark, expected dflash"):
        checkpoint_of(MODELS / "dspark-b8.gguf", VERIFIER, tmp_path)


# ---- judging -----------------------------------------------------------------------------------


def test_better_is_what_chance_does_not_make() -> None:
    before = Replayed([[0, 1, 2, 1]] * 10)
    same = compare(before, before, range(10))
    assert (same.before, same.after, same.error) == (2.0, 2.0, 0.0)
    assert not same.is_better
    one_dialogue = Replayed([[4, 4, 4, 4], *[[0, 1, 2, 1]] * 9])
    assert not compare(before, one_dialogue, range(10)).is_better
    all_of_them = Replayed([[1, 2, 3, 1 + i % 2] for i in range(10)])
    verdict = compare(before, all_of_them, range(10))
    assert verdict.after == pytest.approx(2.875)
    assert verdict.is_better
    assert not compare(before, all_of_them, [0] * 10).is_better, "turns of one dialogue"


# ---- places ------------------------------------------------------------------------------------


def test_the_demos_drafter_is_left_alone_and_the_learned_one_is_used(tmp_path: Path) -> None:
    from dflash_local.files import demo_pair
    from dflash_local.learn.places import find

    folder, packaged = tmp_path / "record", demo_pair.drafter()
    record(folder, packaged, traffic()[:1])
    places = find(options(folder), read_record(folder))
    assert (places.drafter, places.to) == (packaged, folder / "drafter.gguf")
    put_in_place(GOOD, places)
    assert places.to.read_bytes() == GOOD.read_bytes()
    assert places.before.read_bytes() == packaged.read_bytes()
    assert find(options(folder), read_record(folder)).drafter == places.to, "it goes on from there"
    if find_spec(demo_pair.PACKAGE) is not None:
        assert find_pair(parse(["--record", str(folder)]))[1] == places.to, "chat does, too"
    swap_back(places)
    assert places.to.read_bytes() == packaged.read_bytes()


def test_the_place_is_whole_at_every_moment(tmp_path: Path) -> None:
    """Read again and again while it is replaced."""
    a, b = MODELS / "dflash-b8.gguf", MODELS / "dflash-b4.gguf"
    to = Path(shutil.copy(a, tmp_path / "drafter.gguf"))
    wanted, over, seen = {a.read_bytes(), b.read_bytes()}, threading.Event(), set()

    def read() -> None:
        while not over.is_set():
            seen.add(to.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        put_in_place((b, a)[number % 2], Places(VERIFIER, to, to))
    over.set()
    reader.join()
    assert seen <= wanted
    assert {path.name for path in tmp_path.iterdir()} == {"drafter.gguf", "drafter.gguf.before"}


# ---- politeness --------------------------------------------------------------------------------


def test_it_waits_while_a_model_answers(tmp_path: Path) -> None:
    said: list[str] = []
    pace, heart = Pace(tmp_path, 1.0, said.append), Heartbeat(tmp_path)
    heart.begin()
    waiting = threading.Thread(target=pace.make_way)
    waiting.start()
    wait_until(lambda: said, "it says that it waits")
    assert waiting.is_alive()
    past = time.time() - 60  # the answer ended a minute ago
    os.utime(tmp_path / ".at-work", (past, past))
    waiting.join()
    assert said == ["a model answers: learning waits until it has ended"]
    assert pace.paused > 0
    assert pace.worked < pace.paused + 60
