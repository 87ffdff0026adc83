"""Threads, cancelling and closing: whoever comes waits, and what is at work can be stopped."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MODELS, MakeLlama
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

from dflash_local import BackendError, Cancelled, Llama

PROMPTS = ("the brown", "12 + 7 =", "anna is", "<|im_start|>user\nWho is anna?<|im_end|>\n")
LONG_PROMPT = list(range(20, 380)) * 22  # 7,920 tokens
#: So many seconds nothing may take that only has to end; a decode of the tiny models takes 1 ms.
SOON = 5.0


@pytest.fixture(scope="module", params=["plain", "dflash-b8"])
def drafter(request: pytest.FixtureRequest, tiny_drafters: dict[str, Path]) -> Path | None:
    return tiny_drafters.get(request.param)


@pytest.fixture(scope="module")
def expected(make_module_llama: MakeLlama, tiny_verifier: Path) -> dict[str, list[int]]:
    """Forty greedy tokens after each prompt, from the parent."""
    parent = make_module_llama(llama_cpp.Llama, tiny_verifier)
    out = {}
    for prompt in PROMPTS:
        parent.reset()
        out[prompt] = answer(parent, prompt, 40)
    return out


@pytest.fixture(scope="module")
def shared(make_module_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None) -> Llama:
    llm: Llama = make_module_llama(Llama, tiny_verifier, drafter=drafter)
    return llm


@pytest.fixture
def llm(shared: Llama, monkeypatch: pytest.MonkeyPatch) -> Llama:
    shared.reset()
    monkeypatch.setattr(shared, "turn_timeout", 60)  # a test that waits for ever tells nothing
    return shared


@pytest.fixture(scope="module")
def reader(make_module_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None) -> Llama:
    """Reads long prompts in small chunks."""
    llm: Llama = make_module_llama(
        Llama, tiny_verifier, drafter=drafter, n_ctx=8192, n_batch=64, n_ubatch=64
    )
    return llm


def start(llm: Any, prompt: str, **options: Any) -> Any:
    return llm.generate(llm.tokenize(prompt.encode(), special=True), temp=0.0, **options)


def answer(llm: Any, prompt: str, n: int = 40, **options: Any) -> list[int]:
    return list(itertools.islice(start(llm, prompt, **options), n))


class Worker(threading.Thread):
    """Runs a function; ``result`` is what it returned or raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.result = error

    def ended(self, seconds: float = 60.0) -> Any:
        self.join(seconds)
        assert not self.is_alive()
        return self.result


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_a_child(program: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a program that may end the process; VERIFIER and DRAFTER are its models."""
    head = (
        "import sys, threading\n"
        "from dflash_local import Llama\n"
        f"VERIFIER = {str(MODELS / 'verifier-f32.gguf')!r}\n"
        f"DRAFTER = {str(MODELS / 'dflash-b8.gguf')!r}\n"
        "OPTIONS = dict(n_ctx=256, n_threads=1, n_threads_batch=1, width=4)\n"
    )
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", head + program],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


# ---- loading -------------------------------------------------------------------------------


def test_two_threads_load_a_pair_each_at_the_same_time() -> None:
    done = in_a_child("""
import llama_cpp, ctypes
def callback():
    found, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(found), ctypes.byref(data))
    return ctypes.cast(found, ctypes.c_void_p).value
before = callback()
def work():
    for _ in range(10):
        with Llama(VERIFIER, drafter=DRAFTER, **OPTIONS) as llm:
            llm("anna is", max_tokens=4)
threads = [threading.Thread(target=work) for _ in range(2)]
[t.start() for t in threads]; [t.join() for t in threads]
assert callback() == before
print("done")
""")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


def test_loading_leaves_what_other_threads_print_alone() -> None:
    done = in_a_child("""
import os
loading = True
written = 0
def write():
    global written
    while loading:
        os.write(1, b"%d\\n" % written); os.write(2, b"%d\\n" % written)
        written += 1
def load():
    for _ in range(10):
        Llama(VERIFIER, drafter=DRAFTER, **OPTIONS).close()
        Llama(VERIFIER, **OPTIONS).close()
writer = threading.Thread(target=write)
writer.start()
loaders = [threading.Thread(target=load) for _ in range(2)]
[t.start() for t in loaders]; [t.join() for t in loaders]
loading = False
writer.join()
os.write(1, b"all %d\\n" % written); os.write(2, b"all %d\\n" % written)
""")
    assert done.returncode == 0, done.stderr[-2000:]
    for text in (done.stdout, done.stderr):
        *lines, last = text.splitlines()
        assert last == f"all {len(lines)}"
        assert lines == [str(i) for i in range(len(lines))]


# ---- a call from a second thread -----------------------------------------------------------


def test_calls_from_many_threads_wait_their_turn(llm: Llama, expected: dict[str, Any]) -> None:
    with ThreadPoolExecutor(8) as pool:
        prompts = [*PROMPTS] * 8
        assert list(pool.map(lambda p: answer(llm, p), prompts)) == [expected[p] for p in prompts]


def test_completions_from_many_threads_are_the_right_ones(llm: Llama) -> None:
    def ask(prompt: str) -> str:
        done = llm.create_completion(prompt, max_tokens=30, temperature=0)
        text: str = done["choices"][0]["text"]
        return text

    alone = {prompt: ask(prompt) for prompt in PROMPTS}
    with ThreadPoolExecutor(8) as pool:
        prompts = [*PROMPTS] * 6
        assert list(pool.map(ask, prompts)) == [alone[p] for p in prompts]


def test_a_second_thread_waits_for_the_whole_answer(llm: Llama, expected: dict[str, Any]) -> None:
    first = start(llm, PROMPTS[0])
    begun = list(itertools.islice(first, 5))
    second = Worker(lambda: answer(llm, PROMPTS[1]))
    wait_until(lambda: llm._turns.n_waiting)
    rest = list(itertools.islice(first, 35))
    assert second.is_alive()
    first.close()
    assert begun + rest == expected[PROMPTS[0]]
    assert second.ended() == expected[PROMPTS[1]]


def test_the_time_that_a_call_waits_can_be_bounded(llm: Llama, expected: dict[str, Any]) -> None:
    first = start(llm, PROMPTS[0])
    begun = [next(first)]
    llm.turn_timeout = 0.01
    for call in (lambda: answer(llm, PROMPTS[1]), lambda: llm.eval([5]), llm.reset):
        error = Worker(call).ended()
        assert isinstance(error, BackendError)
        assert "another thread" in str(error)
        assert "0.01 s" in str(error)
    assert begun + list(itertools.islice(first, 39)) == expected[PROMPTS[0]]


def test_a_state_is_saved_between_two_tokens_of_another_thread(
    llm: Llama, expected: dict[str, Any]
) -> None:
    first = start(llm, PROMPTS[0])
    begun = list(itertools.islice(first, 7))
    state = Worker(llm.save_state).ended()
    assert begun + list(itertools.islice(first, 33)) == expected[PROMPTS[0]]
    first.close()
    llm.load_state(state)
    assert llm.n_tokens == state.n_tokens


def test_waiting_ends_when_the_model_is_closed(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=drafter)
    first = start(llm, PROMPTS[0])
    next(first)
    second = Worker(lambda: answer(llm, PROMPTS[1]))
    wait_until(lambda: llm._turns.n_waiting)
    llm.close()
    error = second.ended(SOON)
    assert isinstance(error, BackendError)
    assert "closed" in str(error)


# ---- cancelling ----------------------------------------------------------------------------


def ways_to_cancel(llm: Llama) -> list[Callable[[], Any]]:
    assert llm.session is not None
    return [llm.cancel, llm.session.cancel]


def test_a_long_read_is_cancelled(reader: Llama, expected: dict[str, Any]) -> None:
    for cancel in ways_to_cancel(reader):
        reader.reset()
        thread = Worker(lambda: reader.create_completion(LONG_PROMPT, max_tokens=4))
        wait_until(lambda: reader.n_tokens > 100)
        cancel()
        assert isinstance(thread.ended(SOON), Cancelled)
        assert 0 < reader.n_tokens < len(LONG_PROMPT)
        assert reader.stats.last.n_prompt == reader.n_tokens
        assert answer(reader, PROMPTS[0]) == expected[PROMPTS[0]]


def test_a_chunk_is_cut_short(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None, expected: dict[str, Any]
) -> None:
    """One chunk of thousands of tokens takes seconds: the whole prompt is one decode."""
    size = {"n_ctx": 8192, "n_batch": 8192, "n_ubatch": 8192}
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, **size)
    thread = Worker(lambda: llm.eval(LONG_PROMPT))
    wait_until(lambda: llm._turns.at_work)
    time.sleep(0.05)
    assert llm.cancel(wait=True, timeout=SOON)
    assert isinstance(thread.ended(SOON), Cancelled)
    assert llm.n_tokens == 0
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]


def test_an_embedding_is_cancelled(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    size = {"n_ctx": 8192, "n_batch": 8192, "n_ubatch": 8192}
    pooling = llama_cpp.LLAMA_POOLING_TYPE_NONE
    llm = make_llama(
        Llama, tiny_verifier, drafter=drafter, embedding=True, pooling_type=pooling, **size
    )
    thread = Worker(lambda: llm.embed("anna " * 4000))
    wait_until(lambda: llm._turns.at_work)
    time.sleep(0.05)
    assert llm.cancel(wait=True, timeout=SOON)
    assert isinstance(thread.ended(SOON), Cancelled)
    assert llm.n_tokens == 0


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_a_streaming_answer_is_cancelled_between_its_tokens(
    llm: Llama, expected: dict[str, Any], k: int, by_row: bool
) -> None:
    options = {"logits_processor": LogitsProcessorList([lambda _, row: row])} if by_row else {}
    generator = start(llm, PROMPTS[0], **options)
    assert list(itertools.islice(generator, k)) == expected[PROMPTS[0]][:k]
    llm.cancel()
    with pytest.raises(Cancelled):
        next(generator)
    assert list(generator) == []
    assert llm.n_tokens == len(llm.tokenize(PROMPTS[0].encode())) + k - 1
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]


def test_a_stream_of_another_thread_is_cancelled(llm: Llama, expected: dict[str, Any]) -> None:
    chunks: list[Any] = []

    def stream() -> None:
        for chunk in llm.create_completion(PROMPTS[0], max_tokens=400, temperature=0, stream=True):
            chunks.append(chunk)
            time.sleep(0.001)

    for cancel in ways_to_cancel(llm):
        chunks.clear()
        thread = Worker(stream)
        wait_until(lambda: len(chunks) > 3)
        cancel()
        assert isinstance(thread.ended(SOON), Cancelled)
        assert len(chunks) < 300
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]


def test_a_cancel_while_nothing_is_at_work_reaches_nobody(
    llm: Llama, expected: dict[str, Any]
) -> None:
    llm.cancel()
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]
    llm.cancel()
    llm.eval([5, 6, 7])
    llm.save_state()


def test_stop_and_ask_again_at_once(llm: Llama, expected: dict[str, Any]) -> None:
    for i in range(200):
        old = Worker(lambda: answer(llm, PROMPTS[1], 400))
        wait_until(lambda: llm._turns.answering)
        llm.cancel()
        prompt = PROMPTS[i % len(PROMPTS)]
        assert answer(llm, prompt, 10) == expected[prompt][:10]
        assert isinstance(old.ended(), Cancelled)


def test_a_thousand_random_cancellations(llm: Llama, expected: dict[str, Any]) -> None:
    """Every answer is right as far as it came, and the model stays in agreement with itself."""
    rng = random.Random(5)
    at_work = threading.Event()
    done = threading.Event()
    n_cancelled = 0

    def cancel() -> None:
        while not done.is_set():
            at_work.wait(1)
            time.sleep(rng.random() * 0.004)
            llm.cancel()

    thread = Worker(cancel)
    for i in itertools.count():
        prompt = PROMPTS[i % len(PROMPTS)]
        found: list[int] = []
        at_work.set()
        try:
            for token in itertools.islice(start(llm, prompt), 40):
                found.append(token)
        except Cancelled:
            n_cancelled += 1
        at_work.clear()
        assert found == expected[prompt][: len(found)]
        if n_cancelled == 1000:
            break
    done.set()
    thread.ended()
    for prompt in PROMPTS:
        assert answer(llm, prompt) == expected[prompt]


def test_who_waits_for_the_end_of_a_call_does_not_wait_for_the_next_ones(
    reader: Llama, expected: dict[str, Any]
) -> None:
    reader.reset()
    first = Worker(lambda: reader.create_completion(LONG_PROMPT, max_tokens=4))
    wait_until(lambda: reader.n_tokens > 100)
    second = Worker(lambda: reader.create_completion(LONG_PROMPT[5:], max_tokens=4))
    wait_until(lambda: reader._turns.n_waiting)
    assert reader.cancel(wait=True, timeout=SOON)
    assert second.is_alive()
    assert isinstance(first.ended(), Cancelled)
    reader.cancel()
    second.ended()
    assert answer(reader, PROMPTS[0]) == expected[PROMPTS[0]]


def test_a_signal_handler_may_cancel(llm: Llama, expected: dict[str, Any]) -> None:
    """It runs in the thread that is at work, so it must not wait for itself."""
    calls = itertools.count()

    def hook(*_: Any) -> bool:
        if next(calls) == 6:
            assert llm.cancel(wait=True)
        return False

    generator = start(llm, PROMPTS[0], stopping_criteria=StoppingCriteriaList([hook]))
    found: list[int] = []
    with pytest.raises(Cancelled):
        found.extend(generator)
    assert found == expected[PROMPTS[0]][: len(found)]
    assert 6 <= len(found) <= 7
    assert answer(llm, PROMPTS[0]) == expected[PROMPTS[0]]


# ---- closing -------------------------------------------------------------------------------


@pytest.fixture(params=["by step", "logits processor", "logits_all"])
def closing(
    request: pytest.FixtureRequest,
    make_llama: MakeLlama,
    tiny_verifier: Path,
    drafter: Path | None,
) -> tuple[Llama, Any]:
    """A model and a running answer of it, in each of the ways that it is made."""
    options = {"logits_all": True} if request.param == "logits_all" else {}
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, **options)
    hooks = {}
    if request.param == "logits processor":
        hooks["logits_processor"] = LogitsProcessorList([lambda _, row: row])
    return llm, start(llm, PROMPTS[0], **hooks)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8])
def test_no_token_comes_after_close(closing: tuple[Llama, Any], k: int) -> None:
    llm, generator = closing
    list(itertools.islice(generator, k))
    llm.close()
    with pytest.raises(BackendError, match="closed"):
        next(generator)
    assert list(generator) == []


def test_close_ends_a_long_read_of_another_thread(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=drafter, n_ctx=8192, n_batch=64)
    thread = Worker(lambda: llm.create_completion(LONG_PROMPT, max_tokens=4))
    wait_until(lambda: llm.n_tokens > 100)
    started = time.monotonic()
    llm.close()
    assert time.monotonic() - started < SOON
    assert isinstance(thread.ended(SOON), (Cancelled, BackendError))


@pytest.mark.parametrize("hook", ["stopping criterion", "logits processor"])
def test_a_hook_may_close_the_model(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None, hook: str
) -> None:
    """The models are freed when the call that runs the hook has ended."""
    llm = make_llama(Llama, tiny_verifier, drafter=drafter)
    calls = itertools.count()

    def close_at_sixth(_: Any, row: Any) -> Any:
        if next(calls) == 5:
            llm.close()
        return row if hook == "logits processor" else False

    options: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([close_at_sixth])}
    if hook == "logits processor":
        options = {"logits_processor": LogitsProcessorList([close_at_sixth])}
    with pytest.raises(BackendError, match="closed"):
        list(start(llm, PROMPTS[0], **options))
    assert llm._model.model is None
    with pytest.raises(BackendError, match="closed"):
        llm.eval([5])


def test_many_threads_close_at_once(
    make_llama: MakeLlama, tiny_verifier: Path, drafter: Path | None
) -> None:
    llm = make_llama(Llama, tiny_verifier, drafter=drafter)
    answer(llm, PROMPTS[0], 5)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: llm.close(), range(8))) == [None] * 8


@pytest.mark.parametrize(
    "work",
    [
        "llm = llm or Llama(VERIFIER, drafter=DRAFTER, **OPTIONS); ask(llm)",
        "llm = llm or Llama(VERIFIER, **OPTIONS); ask(llm)",
        "Llama(VERIFIER, drafter=DRAFTER, **OPTIONS).close(); begun.set()",
    ],
    ids=["drafting", "plain", "loading"],
)
def test_daemon_threads_at_work_do_not_disturb_the_end_of_the_process(work: str) -> None:
    """Whoever takes the GIL in C++ while the interpreter finalizes ends the process."""
    for _ in range(6):
        done = in_a_child(f"""
def ask(llm):
    for chunk in llm("anna is", max_tokens=100, stream=True):
        begun.set()
def work():
    llm = None
    while True:
        {work}
begun = threading.Event()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
begun.wait()
import atexit, time
atexit.register(lambda: print("done", time.monotonic() - ended < 4.5))
from dflash_local import _api
atexit.unregister(_api._core.prepare_exit)
atexit.register(_api._core.prepare_exit, 5.0)
ended = time.monotonic()
""")
        assert (done.returncode, done.stdout) == (0, "done True\n"), done.stderr[-2000:]
