"""Threads that load models and that call one: whoever comes waits."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import at_work
import pytest
from at_work import PROMPTS, SOON, Worker, answer, in_a_child, start, wait_until
from conftest import MakeLlama

from dflash_local import BackendError, Llama

# pytest finds fixtures by the names of a module.
drafter = at_work.drafter
expected = at_work.expected
shared = at_work.shared
llm = at_work.llm


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


@pytest.mark.slow
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
