"""Operations that come in between: cancels, closes, loads, settings, statistics."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

from dflash_local import BackendError, Llama, ModelError

from .answers import TOKEN_WAYS, pieces
from .asking import answer
from .model import Model
from .setup import EXACT
from .watch import LIMIT
from .worker import Worker


def cancel(worker: Worker) -> None:
    """At any moment, in one of its three ways, and sometimes with a question right after it."""
    model = worker.model()
    worker.pause()
    kind = worker.rng.choice(("llm.cancel()", "llm.cancel(wait=True)", "session.cancel()"))
    with worker.during(kind, model, LIMIT), model.cancelling():
        if kind == "llm.cancel(wait=True)":
            model.llm.cancel(wait=True)
        elif kind == "session.cancel()" and model.llm.session is not None:
            model.llm.session.cancel()
        else:
            model.llm.cancel()
    if worker.rng.random() < 0.5:
        answer(worker, model, worker.question(model))


def cancel_own(worker: Worker) -> None:
    """An answer that another thread cancels after a few tokens, and then the next one."""
    model = worker.model()
    question = worker.question(model)
    found: list[Any] = []
    with worker.during("cancelled while it runs", model), worker.forgiving(model):
        stream = pieces(model.llm, question)
        found += islice(stream, worker.part(question))
        with model.cancelling():
            thread = threading.Thread(target=model.llm.cancel)
            thread.start()
            found += stream
            thread.join()
    worker.check(model, question, found, complete=False)
    answer(worker, model, question)


def close(worker: Worker) -> None:
    """While others use it; twice at once, in part."""
    model = worker.model()
    worker.pause()
    if worker.rng.random() < 0.3:
        thread = threading.Thread(target=worker.close, args=(model,))
        thread.start()
        worker.close(model)
        thread.join()
    else:
        worker.close(model)
    _check_closed(worker, model)


def _check_closed(worker: Worker, model: Model) -> None:
    """Whatever is called now says that the model is closed; closing again does nothing."""
    llm = model.llm
    uses: tuple[Callable[[], object], ...] = (
        lambda: next(llm.generate([5, 6])),
        lambda: llm.eval([5, 6]),
        llm.reset,
        llm.save_state,
        lambda: llm.create_completion("the brown", max_tokens=2),
    )
    with worker.during("used after close", model):
        for use in uses:
            try:
                use()
                worker.error(f"{model}: a closed model was used")
            except BackendError as error:
                if "closed" not in str(error):
                    worker.error(f"{model}: {error!r} of a closed model")
        llm.stats.total.as_dict()
        llm.cancel()
        llm.close()


def close_under_a_generator(worker: Worker) -> None:
    """A generator is suspended, by row or by step, and its model closed elsewhere."""
    model = worker.model()
    question = worker.question(model)
    found: list[Any] = []
    with worker.during("closed under a generator", model), worker.forgiving(model):
        stream = pieces(model.llm, question)
        found += islice(stream, worker.part(question))
        if worker.rng.random() < 0.5:
            worker.close(model)
        else:
            thread = threading.Thread(target=worker.close, args=(model,))
            thread.start()
            thread.join()
        found += stream
    worker.check(model, question, found, complete=False)


def close_from_a_criterion(worker: Worker) -> None:
    model = worker.model()
    question = worker.question(model, "criterion")
    n = worker.part(question)
    found: list[Any] = []

    def criterion(*_: Any) -> bool:
        if len(found) == n:
            worker.close(model)
        return False

    with worker.during("closed from a criterion", model), worker.forgiving(model):
        for piece in pieces(model.llm, question, criterion):
            found.append(piece)
    worker.check(model, question, found, complete=False)


def load(worker: Worker) -> None:
    """Another model in a random place."""
    worker.fill(worker.rng.randrange(len(worker.shared.models)))


def load_two(worker: Worker) -> None:
    """Two loads at the same time; one of the models is forgotten instead of closed."""
    worker.shared.count("two loads at once")
    made: list[Model] = []
    kinds = [worker.rng.choice(worker.shared.kinds) for _ in range(2)]
    threads = [threading.Thread(target=lambda k=k: made.append(worker.load(k))) for k in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.close(made.pop())
    _forget(worker, made)


def _forget(worker: Worker, made: list[Model]) -> None:
    """Nobody closes it, and a generator of it is open."""
    with worker.during("forgotten without close", made[0]):
        stream = pieces(made[0].llm, worker.question(made[0], *TOKEN_WAYS))
        list(islice(stream, 3))
        made.clear()
        del stream
    gc.collect()


def load_what_does_not_fit(worker: Worker) -> None:
    kind = worker.rng.choice(worker.shared.kinds)
    with worker.during("load of a wrong drafter", f"a new {kind.name}"):
        try:
            Llama(kind.verifier, drafter=kind.verifier, **EXACT)
            worker.error("a verifier was taken for a drafter")
        except ModelError:
            pass


def set_width(worker: Worker) -> None:
    model = worker.model()
    with worker.during("width set", model), worker.forgiving(model):
        model.llm.width = worker.rng.choice((None, 0, 1, 2, 5, 7))


def read_statistics(worker: Worker) -> None:
    """From a thread that has nothing to do with the answer."""
    model = worker.model()
    with worker.during("statistics read", model):
        for _ in range(20):
            stats = model.llm.stats
            total = stats.total.as_dict()
            if total["n_accepted"] > total["n_drafted"]:
                worker.error(f"{model}: {total}")
            str(stats.last)
    with worker.during("session read", model), worker.forgiving(model):
        session = model.llm.session
        if session is not None:
            len(session.tokens), repr(session), session.n_past, session.closed


def save_state(worker: Worker) -> None:
    """Between two tokens of somebody's answer."""
    model = worker.model()
    with worker.during("state saved meanwhile", model), worker.forgiving(model):
        state = model.llm.save_state()
        worker.pause()
        if worker.rng.random() < 0.5:
            model.llm.load_state(state)


def call_the_pieces(worker: Worker) -> None:
    """reset, eval and sample, as somebody does who writes the loop himself."""
    model = worker.model()
    with worker.during("eval and sample", model), worker.forgiving(model):
        llm = model.llm
        llm.reset()
        llm.eval(llm.tokenize(b"the brown"))
        with suppress(AssertionError):  # llama_cpp's own, where somebody else has reset it since
            llm.sample()
