"""Widths decided step by step: the same text, and costs that are measured, learned and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import F32
from exactness import generated, greedy, session_on, tiny_prompts
from waiting import PATIENCE

import dflash_local
from dflash_local.runtime import learned
from dflash_local.runtime.learned import Learned

KINDS = ("dflash-b8", "dflash2-b8", "dspark-b8", "dspark-b7-anchor")
N_TOKENS = 60
#: One thread and F32: a row is rounded the same, whatever is decoded beside it.
EXACT: dict[str, Any] = {**F32, "n_ctx": 512, "n_threads": 1, "n_threads_batch": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))
    return tmp_path / "learned"


@pytest.fixture(scope="module")
def plain(tiny_verifier: Path) -> llama_cpp.Llama:
    with closing(llama_cpp.Llama(str(tiny_verifier), verbose=False, **EXACT)) as llm:
        yield llm


def adaptive(verifier: Path, drafter: Path, **options: Any) -> dflash_local.Llama:
    return dflash_local.Llama(verifier, drafter=drafter, **{**EXACT, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_equal_plain_decoding(
    kind: str, plain: llama_cpp.Llama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    with adaptive(tiny_verifier, tiny_drafters[kind]) as llm:
        assert llm.width is None
        for prompt in tiny_prompts(plain, 8, seed=5):
            assert greedy(llm, prompt, N_TOKENS) == greedy(plain, prompt, N_TOKENS)
        stats = llm.stats.total
        # Every step is counted once, by what was drafted and by what was verified of it.
        assert sum(stats.drafted_per_width) == sum(stats.verified_per_width) == stats.n_steps
        verified = stats.verified_per_width
        assert sum(width * n for width, n in enumerate(verified)) == stats.n_drafted
        assert sum(stats.drafted_per_width[1:]) > 0, "it never tried"


def test_sampled_tokens_equal_plain_decoding_with_the_same_seed(
    plain: llama_cpp.Llama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    with adaptive(tiny_verifier, tiny_drafters["dflash-b8"]) as llm:
        for seed, prompt in enumerate(tiny_prompts(plain, 8, seed=6)):
            texts = []
            for model in (llm, plain):
                model.set_seed(seed)
                texts.append(generated(model.generate(prompt, temp=0.9), N_TOKENS))
            assert texts[0] == texts[1]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that can be measured is, however busy the machine."""
    monkeypatch.setattr(learned, "_CALIBRATION_SECONDS", PATIENCE)


@pytest.mark.usefixtures("patient")
def test_costs_are_measured_when_a_pair_is_loaded(
    tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    with adaptive(tiny_verifier, tiny_drafters["dflash-b8"]) as llm:
        assert llm.session is not None
        known = llm.session.learned()
        assert known is not None
        assert len(known["verify"]) == len(known["draft"]) == 8
        assert known["accepted"] == []
        assert all(seconds > 0 for seconds in known["verify"])
        assert all(seconds > 0 for seconds in known["draft"][1:])
        assert llm.session.tokens == []
    with adaptive(tiny_verifier, tiny_drafters["dflash-b8"], width=3) as llm:
        assert llm.session is not None
        assert llm.session.learned()["verify"] == [0.0] * 8, "a fixed width has nothing to decide"


def test_what_was_learned_is_kept_for_the_next_session(
    cache: Path, plain: llama_cpp.Llama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    prompts = tiny_prompts(plain, 4, seed=7)
    drafter = tiny_drafters["dflash-b8"]
    with adaptive(tiny_verifier, drafter) as llm:
        first = llm.session.learned()
        greedy(llm, prompts[0], 4)
    (file,) = cache.iterdir()
    assert kept_in(file) == kept_of(first), "a few tokens teach nothing"
    with adaptive(tiny_verifier, drafter) as llm:
        for prompt in prompts:
            greedy(llm, prompt, N_TOKENS)
        last = llm.session.learned()
    assert kept_in(file) == kept_of(last) != kept_of(first)
    with adaptive(tiny_verifier, drafter) as llm:
        assert llm.session.learned()["verify"] == pytest.approx(last["verify"])
        # What is usual is remembered as if seen a few times: near, not equal.
        again = llm.session.learned()["accepted"]
        assert len(again) <= 7
        assert again == pytest.approx(last["accepted"], abs=0.1)
    with adaptive(tiny_verifier, drafter, n_threads=2) as llm:
        assert llm.session.learned()["verify"] != last["verify"], "other threads, other costs"


def kept_in(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def kept_of(learned: dict[str, Any]) -> dict[str, Any]:
    return {"contexts": learned["contexts"], "accepted": learned["accepted"]}


def test_costs_of_long_contexts_are_kept_beside_those_of_short_ones(
    cache: Path, plain: llama_cpp.Llama, tiny_drafters: dict[str, Path]
) -> None:
    (prompt,) = tiny_prompts(plain, 1, seed=7)
    known = {"n_context": 0, "verify": [1.0] * 8, "draft": [0.1] * 8}
    doubts = {"verify_doubt": [0.1] * 8, "draft_doubt": [0.1] * 8}
    short, long = {**known, **doubts}, {**known, **doubts, "n_context": 1024, "verify": [3.0] * 8}
    with session_on(plain, tiny_drafters["dflash-b8"]) as session:
        session.restore(contexts=[short, long], accepted=[])
        session.sync(prompt)
        kept = Learned({"pair": "this one"})
        for _ in range(40):
            session.step()
        kept.keep(session)
    (file,) = cache.iterdir()
    contexts = kept_in(file)["contexts"]
    assert [context["n_context"] for context in contexts] == [0, 1024]
    assert contexts[0]["verify"][0] < 1, "it was seen since"
    assert contexts[1]["verify"] == pytest.approx(long["verify"])
    with session_on(plain, tiny_drafters["dflash-b8"]) as session:
        kept.begin(session)
        learned = session.learned()
        assert learned is not None
        assert learned["verify"] == pytest.approx(contexts[0]["verify"]), "it begins with the short"
        assert learned["verify_doubt"][7] > contexts[0]["verify_doubt"][7], "with more doubt"
        again = [context["verify"] for context in learned["contexts"]]
        assert again == [pytest.approx(context["verify"]) for context in contexts]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"contexts": [], "accepted": "all"}',
        '{"contexts": [{"n_context": 0, "verify": [1, 2], "draft": [1, 2]}], "accepted": [0.5]}',
        '{"contexts": [{"n_context": 0, "verify": [1, 2], "draft": [1, 2], '
        '"verify_doubt": [0, 1], "draft_doubt": [0, 1]}], "accepted": [0.5]}',
        '{"contexts": [{"n_context": "0", "verify": 1, "draft": [1, 2], '
        '"verify_doubt": [0, 1], "draft_doubt": [0, 1]}], "accepted": [0.5]}',
    ],
)
def test_what_cannot_be_read_is_measured_again(
    damage: str,
    cache: Path,
    plain: llama_cpp.Llama,
    tiny_drafters: dict[str, Path],
) -> None:
    with session_on(plain, tiny_drafters["dflash-b8"]) as session:
        kept = Learned({"pair": "this one"})
        kept.begin(session)
        for prompt in tiny_prompts(plain, 2, seed=8):
            session.sync(prompt)
            for _ in range(20):
                session.step()
        kept.keep(session)
    (file,) = cache.iterdir()
    file.write_text(damage)
    with session_on(plain, tiny_drafters["dflash-b8"]) as session:
        kept.begin(session)
        assert all(seconds > 0 for seconds in session.learned()["verify"])


def test_a_cache_that_cannot_be_written_is_no_matter(
    cache: Path, plain: llama_cpp.Llama, tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    cache.write_text("a file where the folder should be")
    with adaptive(tiny_verifier, tiny_drafters["dflash-b8"]) as llm:
        for prompt in tiny_prompts(plain, 2, seed=9):
            greedy(llm, prompt, N_TOKENS)


def test_a_model_that_nobody_closed_goes_quietly(
    tiny_verifier: Path, tiny_drafters: dict[str, Path]
) -> None:
    script = (
        "import sys, dflash_local\n"
        "one = {'n_threads': 1, 'n_threads_batch': 1}\n"
        "llm = dflash_local.Llama(sys.argv[1], drafter=sys.argv[2], **one)\n"
        "for _, token in zip(range(200), llm.generate([1, 14, 88], temp=1.0)):\n"
        "    pass\n"
        "assert llm.stats.total.n_steps > 32\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_verifier), str(tiny_drafters["dflash-b8"])],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_measuring_comes_before_the_first_prompt(
    plain: llama_cpp.Llama, tiny_drafters: dict[str, Path]
) -> None:
    (prompt,) = tiny_prompts(plain, 1, seed=10)
    with session_on(plain, tiny_drafters["dflash-b8"]) as session:
        session.calibrate(0.1)
        session.sync(prompt)
        with pytest.raises(ValueError, match="before the first prompt"):
            session.calibrate(0.1)
        one = {name: [0.1] for name in ("verify", "draft", "verify_doubt", "draft_doubt")}
        with pytest.raises(ValueError, match="another width"):
            session.restore(contexts=[{"n_context": 0, **one}], accepted=[0.5] * 8)
        with pytest.raises(ValueError, match="0 or more"):
            session.width = -1
        session.width = None
        assert session.width is None
