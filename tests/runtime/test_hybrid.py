"""Verifiers with a recurrent part: their memory takes back only what it has snapshots of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from random_hybrid import write_lfm2

from dflash_local import Cancelled, Llama, Session
from dflash_local.files.gguf_header import GGUFHeader


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory, tiny_verifier: Path) -> Path:
    path = tmp_path_factory.mktemp("hybrid") / "lfm2.gguf"
    write_lfm2(path, GGUFHeader(tiny_verifier))
    return path


OPTIONS: dict[str, Any] = {
    "n_ctx": 256,
    "n_threads": 1,
    "n_threads_batch": 1,
    "type_k": llama_cpp.GGML_TYPE_F32,
    "type_v": llama_cpp.GGML_TYPE_F32,
}
PROMPTS = ([5, 40, 99, 7], [200, 3, 3, 17, 250, 44], [60, 61, 62, 63, 64, 65, 66, 67])


def greedy(llm: Any, prompt: list[int], n: int) -> list[int]:
    return list(islice(llm.generate(prompt, temp=0.0), n))


@pytest.fixture
def plain(hybrid: Path) -> Iterator[llama_cpp.Llama]:
    llm = llama_cpp.Llama(str(hybrid), verbose=False, **OPTIONS)
    yield llm
    llm.close()


@pytest.fixture
def llm(hybrid: Path, tiny_drafters: dict[str, Path]) -> Iterator[Llama]:
    with Llama(hybrid, drafter=tiny_drafters["dflash-b8"], width=7, **OPTIONS) as drafting:
        assert drafting._is_hybrid
        yield drafting


@pytest.fixture
def session(llm: Llama) -> Session:
    assert llm.session is not None
    return llm.session


def test_greedy_output_of_a_hybrid_verifier_equals_plain_decoding(
    plain: llama_cpp.Llama, llm: Llama
) -> None:
    for prompt in PROMPTS:
        assert greedy(llm, prompt, 40) == greedy(plain, prompt, 40)
    total = llm.stats.total
    assert 0 <= total.n_accepted < total.n_drafted


def test_costs_of_a_hybrid_verifier_are_measured_and_adaptive_output_equals_plain_decoding(
    plain: llama_cpp.Llama,
    hybrid: Path,
    tiny_drafters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))
    with Llama(hybrid, drafter=tiny_drafters["dflash-b8"], **OPTIONS) as llm:
        assert llm.width is None
        assert all(seconds > 0 for seconds in llm.session.learned()["verify"])
        for prompt in PROMPTS:
            assert greedy(llm, prompt, 40) == greedy(plain, prompt, 40)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:width")
@pytest.mark.parametrize("n_batch", [3, 4, 8, 9, 10])
@pytest.mark.parametrize("width", [None, 2, 7])
def test_a_small_batch_bounds_the_drafts_that_are_verified(
    plain: llama_cpp.Llama,
    hybrid: Path,
    tiny_drafters: dict[str, Path],
    n_batch: int,
    width: int | None,
) -> None:
    """libllama ends the process where its snapshots and two tokens do not fit in one n_ubatch."""
    drafter = tiny_drafters["dflash-b8"]
    with Llama(hybrid, drafter=drafter, width=width, **{**OPTIONS, "n_batch": n_batch}) as llm:
        assert llama_cpp.llama_n_rs_seq(llm.ctx) == min(width or 7, n_batch - 2)
        for prompt in PROMPTS:
            assert greedy(llm, prompt, 20) == greedy(plain, prompt, 20)
        assert len(llm.stats.total.verified_per_width) <= n_batch - 1


def test_a_width_that_the_snapshots_do_not_hold_is_said(
    hybrid: Path, tiny_drafters: dict[str, Path]
) -> None:
    with Llama(hybrid, drafter=tiny_drafters["dflash-b8"], width=2, **OPTIONS) as llm:
        with pytest.warns(RuntimeWarning, match="2 drafts at most"):
            llm.width = 5
        greedy(llm, PROMPTS[0], 20)
        assert len(llm.stats.total.verified_per_width) == 3


@pytest.mark.parametrize("n_taken", [1, 2, 3, 4])
def test_the_next_turn_reads_only_what_is_new(
    plain: llama_cpp.Llama, llm: Llama, n_taken: int
) -> None:
    """Also after an answer that ended inside a block with a rejected draft."""
    prompt = PROMPTS[1] * 8
    expected = greedy(plain, prompt, 12)
    generator = llm.generate(prompt, temp=0.0)
    begun = [next(generator)]
    begun.append(generator.send([*expected[1:4], *((t + 1) % 300 for t in expected[4:8])]))
    begun += islice(generator, n_taken - 1)
    assert begun == expected[: 1 + n_taken]
    generator.close()
    turn = [*prompt, *begun[:-1], 9, 8, 7]
    assert llm.n_tokens == len(turn) - 3
    assert greedy(llm, turn, 20) == greedy(plain, turn, 20)
    assert llm.stats.last.n_prompt == 3


@pytest.mark.parametrize("drafter", [None, "dflash-b8"])
def test_scores_of_a_prompt_are_the_parents(
    drafter: str | None, hybrid: Path, tiny_drafters: dict[str, Path]
) -> None:
    options = {**OPTIONS, "logits_all": True, "n_batch": 16}
    text = [token for prompt in PROMPTS for token in prompt]
    with closing(llama_cpp.Llama(str(hybrid), verbose=False, **options)) as stock:
        stock.eval(text)
        expected = np.array(stock.scores[: len(text)])
    with Llama(hybrid, drafter=drafter and tiny_drafters[drafter], **options) as llm:
        llm.eval(text)
        assert np.allclose(llm.scores[: len(text)], expected, atol=1e-4)


@pytest.mark.parametrize("n_taken", [1, 2, 5])
def test_without_a_drafter_answers_and_turns_are_the_parents(
    plain: llama_cpp.Llama, hybrid: Path, n_taken: int
) -> None:
    """What is sent cannot be taken back from such a memory, so it is not verified."""
    prompt = PROMPTS[1] * 8
    with Llama(hybrid, **OPTIONS) as llm:
        generator = llm.generate(prompt, temp=0.0)
        begun = [next(generator), generator.send([9, 9]), *islice(generator, 10)]
        assert begun == greedy(plain, prompt, 12)
        begun = greedy(llm, prompt, n_taken)  # reads it all again, as the parent does
        held = [*prompt, *begun[:-1]]
        assert greedy(llm, held, n_taken) == greedy(plain, held, n_taken)
        assert llm.stats.last.n_prompt == 0
        begun += greedy(llm, [*prompt, *begun], n_taken)
        turn = [*prompt, *begun[:-1], 9, 8, 7]
        assert greedy(llm, turn, 20) == greedy(plain, turn, 20)
        assert llm.stats.last.n_prompt == 3
        assert llm.stats.total.n_drafted == 0


@pytest.mark.slow
def test_a_read_that_was_cut_short_leaves_no_trace(plain: llama_cpp.Llama, llm: Llama) -> None:
    """A recurrent state is lost with it: the next prompt is read from its beginning."""
    expected = greedy(plain, PROMPTS[0], 20)
    assert greedy(llm, PROMPTS[0], 20) == expected
    long = [5 + i % 300 for i in range(200)]
    for _ in range(20):
        llm.reset()
        thread = threading.Thread(target=lambda: suppressed(lambda: llm.eval(long)))
        thread.start()
        while thread.is_alive():
            llm.cancel()
        assert greedy(llm, PROMPTS[0], 20) == expected
        assert greedy(llm, [*long, *PROMPTS[0]], 5) == greedy(plain, [*long, *PROMPTS[0]], 5)


def suppressed(work: Callable[[], None]) -> None:
    with suppress(Cancelled):
        work()


def test_rejected_drafts_are_taken_back_at_every_depth(
    plain: llama_cpp.Llama, session: Session
) -> None:
    prompt = PROMPTS[1]
    expected = greedy(plain, prompt, 60)
    session.sync(prompt)
    text = session.step().tokens
    depth = 0
    while len(text) < 48:
        right = expected[len(text) : len(text) + depth]
        draft = [*right, *((t + 1) % 300 for t in expected[len(text) + depth :][: 7 - depth])]
        result = session.step(draft=draft)
        assert result.n_accepted == depth
        text += result.tokens
        depth = (depth + 1) % 8
    assert text == expected[: len(text)]


def test_an_abandoned_generator_leaves_a_hybrid_verifier_usable(
    plain: llama_cpp.Llama, llm: Llama, session: Session
) -> None:
    prompt = PROMPTS[2]
    expected = greedy(plain, prompt, 24)
    for n in (1, 2, 3, 5, 8):
        generator = llm.generate(prompt, temp=0.0)
        assert list(islice(generator, n)) == expected[:n]
        generator.close()
        assert llm.n_tokens == session.n_past
    assert greedy(llm, prompt, 24) == expected


def plain_steps(session: Session, text: list[int], n: int) -> list[int]:
    while len(text) < n:
        text = text + session.step(draft=[]).tokens
    return text


def test_a_discarded_step_brings_back_no_state_of_another_text(
    plain: llama_cpp.Llama, session: Session
) -> None:
    # libllama takes back n_rs_seq rows whether or not the last decode wrote their snapshots.
    prompt = PROMPTS[0]
    expected = greedy(plain, prompt, 20)
    for n_drafts in range(8):
        session.sync(prompt)
        text = plain_steps(session, [], 4)
        session.propose(expected[4 : 4 + n_drafts])
        session.discard()
        session.sync([*prompt, *text])
        assert plain_steps(session, text, 16) == expected[:16]


def test_a_rewind_past_the_last_decode_reads_again(
    plain: llama_cpp.Llama, session: Session
) -> None:
    prompt = PROMPTS[0]
    expected = greedy(plain, prompt, 20)
    for back in range(1, 7):
        session.sync(prompt)
        text = plain_steps(session, [], 8)[: 8 - back]
        session.sync([*prompt, *text])
        assert plain_steps(session, text, 16) == expected[:16]


@pytest.mark.parametrize("width", [1, 3])
def test_a_prompt_that_leaves_the_last_one_before_the_oldest_snapshot_is_read_anew(
    plain: llama_cpp.Llama, hybrid: Path, tiny_drafters: dict[str, Path], width: int
) -> None:
    # A chunk of a prompt has more rows than there are snapshots.
    with Llama(hybrid, drafter=tiny_drafters["dflash-b8"], width=width, **OPTIONS) as llm:
        for n_shared in range(1, 9):
            for prompt in (PROMPTS[2], [*PROMPTS[2][:n_shared], 9, 8]):
                assert greedy(llm, prompt, 1) == greedy(plain, prompt, 1)


def test_after_a_prompt_that_is_cut_short_nothing_of_it_counts_as_read(
    plain: llama_cpp.Llama, llm: Llama, session: Session
) -> None:
    # The decode of a long chunk is cut short, and the state is lost with it.
    long = [*PROMPTS[0], *(5 + i % 300 for i in range(200))]
    expected = greedy(plain, PROMPTS[0], 20)
    n_cancelled = 0
    for delay in range(100):
        greedy(llm, PROMPTS[0], 1)
        stop = threading.Timer(delay * 1e-4, llm.cancel)
        stop.start()
        try:
            greedy(llm, long, 1)
        except Cancelled:
            n_cancelled += 1
            assert llm.n_tokens == session.n_past
        stop.join()
        if n_cancelled > 3:
            break
    assert n_cancelled > 0
    assert greedy(llm, PROMPTS[0], 20) == expected


def test_a_memory_without_snapshots_decodes_plainly_and_says_so(
    plain: llama_cpp.Llama,
    hybrid: Path,
    tiny_drafters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As libllama answers for qwen3next and minimax-01, whatever it was asked for.
    monkeypatch.setattr(llama_cpp, "llama_n_rs_seq", lambda _context: 0)
    with pytest.warns(RuntimeWarning, match="decoding plainly"):
        llm = Llama(hybrid, drafter=tiny_drafters["dflash-b8"], **OPTIONS)
    with llm:
        assert greedy(llm, PROMPTS[0], 20) == greedy(plain, PROMPTS[0], 20)
        assert llm.stats.total.n_drafted == 0


def test_there_is_nothing_to_sample_from_where_the_memory_was_lost(llm: Llama) -> None:
    """As with llama_cpp before anything was read."""
    llm.eval([5, 40, 99, 7, 61, 62, 63, 64, 65, 66])
    llm.n_tokens = 2  # whoever goes back so far leaves such a memory empty
    with pytest.raises(AssertionError):
        llm.sample()
    assert llm.n_tokens == 0
