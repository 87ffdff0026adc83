"""Operations that ask questions, and end the answers in every way they can."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from .answers import TOKEN_WAYS, Question, pieces
from .model import Model
from .worker import Worker


def ask(worker: Worker) -> None:
    """The whole answer."""
    model = worker.model()
    answer(worker, model, worker.question(model))


def answer(worker: Worker, model: Model, question: Question) -> None:
    found: list[Any] = []
    complete = False
    name = f"question, {question.way}" + (", sampled" if question.seed is not None else "")
    with worker.during(name, model) as moved, worker.forgiving(model):
        for piece in pieces(model.llm, question):
            found.append(piece)
            moved()
        complete = True
    worker.check(model, question, found, complete=complete)


def abandon(worker: Worker) -> None:
    """A generator or a stream that is closed, or forgotten, after some of it."""
    model = worker.model()
    question = worker.question(model)
    leave = worker.rng.choice((_close, _drop, _forget_in_a_cycle, _drop_in_another_thread))
    found: list[Any] = []
    with worker.during(f"abandoned, {leave.__name__[1:]}", model), worker.forgiving(model):
        stream = pieces(model.llm, question)
        found += islice(stream, worker.part(question))
        worker.pause()
        holder = [stream]
        del stream
        forgotten = weakref.ref(holder[0])
        leave(holder)
        del holder
        while forgotten() is not None:  # another thread may be collecting, which began too early
            gc.collect()
    worker.check(model, question, found, complete=False)


def _close(holder: list[Any]) -> None:
    holder.pop().close()


def _drop(holder: list[Any]) -> None:
    holder.clear()


def _forget_in_a_cycle(holder: list[Any]) -> None:
    holder.append(holder)


def _drop_in_another_thread(holder: list[Any]) -> None:
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()


def hand_over(worker: Worker) -> None:
    """A generator that another thread goes on with."""
    model = worker.model()
    question = worker.question(model)
    found: list[Any] = []
    with worker.during("handed over", model), worker.forgiving(model):
        stream = pieces(model.llm, question)
        found += islice(stream, worker.part(question))
        _in_another_thread(lambda: _take(worker, model, stream, found))
        found += stream
    worker.check(model, question, found, complete=False)


def _take(worker: Worker, model: Model, stream: Iterator[Any], found: list[Any]) -> None:
    with worker.during("taken over", model):
        found.extend(islice(stream, 10))


def _in_another_thread(work: Callable[[], object]) -> None:
    errors: list[Exception] = []

    def guarded() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def give_up(worker: Worker) -> None:
    """Another question while a generator of the same thread is open: the older one is told."""
    model = worker.model()
    question = worker.question(model, *TOKEN_WAYS)
    found: list[Any] = []
    with worker.during("given up", model), worker.forgiving(model, given_up=True):
        older = pieces(model.llm, question)
        found += islice(older, worker.part(question))
        answer(worker, model, worker.question(model))
        next(older)
        worker.error(f"{model}: a generator went on after its thread had given it up")
    worker.check(model, question, found, complete=False)


def ask_at_once(worker: Worker) -> None:
    """Several threads, one model: each waits for its turn."""
    model = worker.model()
    asked = [worker.question(model) for _ in range(3)]
    threads = [threading.Thread(target=answer, args=(worker, model, q)) for q in asked]
    worker.shared.count("questions at once")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def go_on_from_a_state(worker: Worker) -> None:
    """Saves in the middle of an answer, does something else, goes on where it was."""
    model = worker.model()
    question = worker.question(model, "tokens")
    n = worker.part(question)
    with worker.during("state, saved and loaded", model), worker.forgiving(model):
        stream = pieces(model.llm, question)
        found = list(islice(stream, n))
        state = model.llm.save_state()
        if worker.rng.random() < 0.5:
            del stream
        answer(worker, model, worker.question(model))
        model.llm.load_state(state)
        tokens = [*model.llm.tokenize(question.prompt.encode()), *found]
        found += _first(model.llm.generate(tokens, temp=0.0), question.n_tokens - n)
        worker.check(model, question, found, complete=True)


def _first(generator: Any, n: int) -> Iterator[int]:
    yield from islice(generator, n)
    generator.close()
