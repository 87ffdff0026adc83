"""Closing: it ends what is at work, in whatever thread."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import at_work
import pytest
from at_work import LONG_PROMPT, PROMPTS, SOON, Worker, answer, in_a_child, start, wait_until
from conftest import MakeLlama
from llama_cpp import LogitsProcessorList, StoppingCriteriaList

from dflash_local import BackendError, Cancelled, Llama

# pytest finds fixtures by the names of a module.
drafter = at_work.drafter


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


@pytest.mark.slow
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
