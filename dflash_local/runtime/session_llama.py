"""A ``llama_cpp.Llama`` whose text is a session's: it takes turns, and can be stopped."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import llama_cpp
import numpy as np
import numpy.typing as npt

from dflash_local._api import _core
from dflash_local.machine.rpc import checked_endpoints
from dflash_local.user_warning import warn

from . import (
    arguments,
    generation,
    parent,
    seam,
)
from .detokenizer import Tokenizer
from .drafter import address
from .placement import verifier_devices
from .timeline import Timeline

if TYPE_CHECKING:
    from typing_extensions import Self

    from dflash_local.record.recorder import Answer

_GENERATE = inspect.signature(llama_cpp.Llama.generate)
_COMPLETE = inspect.signature(llama_cpp.Llama._create_completion)
_SAMPLING = frozenset(inspect.signature(llama_cpp.Llama._init_sampler).parameters) - {"self"}


_Method = TypeVar("_Method", bound=Callable[..., Any])


def in_turn(method: _Method) -> _Method:
    """The method has the model for itself: a second thread waits for its turn."""

    @functools.wraps(method)
    def alone(self: SessionLlama, *args: Any, **kwargs: Any) -> Any:
        with self._turns.alone():
            return method(self, *args, **kwargs)

    return cast("_Method", alone)


def _held(method: _Method) -> _Method:
    """Nobody frees the model while the parent's method asks libllama; turns do not matter."""

    @functools.wraps(method)
    def held(self: SessionLlama, *args: Any, **kwargs: Any) -> Any:
        with self._turns.holding():
            return method(self, *args, **kwargs)

    return cast("_Method", held)


def as_in_parent(parent: Callable[..., Any]) -> Callable[[_Method], _Method]:
    """Gives an override the parent's signature and documentation."""

    def document(method: _Method) -> _Method:
        functools.update_wrapper(method, parent)
        return method

    return document


class SessionLlama(llama_cpp.Llama):  # type: ignore[misc]
    """A ``llama_cpp.Llama`` whose text is read and continued by a session, without a drafter.

    Args:
        model_path: and what is not named here, as in ``llama_cpp.Llama``.
        rpc: endpoints of RPC servers that get the model's layers.
        turn_timeout: seconds that a call waits while another thread's is at work.
        verbose: as the parent's, but False by default.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        rpc: Sequence[str] | str | None = None,
        turn_timeout: float | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._ctx: Any
        self._last_seed: int
        self._stop = _core.Stop()
        self._turns = _core.Turns(self._stop, turn_timeout)  # close() works from here on
        self._own = threading.local()  # what a thread set for its next answer
        self._timeline = Timeline(self._turns, os.fspath(model_path))
        self._warned: set[str] = set()
        self._rpc = checked_endpoints(rpc)
        if self._rpc:
            kwargs.setdefault("n_gpu_layers", -1)
        if ignored := arguments.unknown(kwargs, arguments.of_constructors(type(self))):
            self._warn(f"{ignored}: ignored")
        try:
            with _core.InLibrary():
                devices = verifier_devices(self._rpc)
                parent.construct(self, os.fspath(model_path), devices, verbose=verbose, **kwargs)
                del self._own.seed  # it is no thread's own
                if not kwargs.get("tokenizer"):
                    self.tokenizer_ = self.tokenizer()
                self._open(self._new_session())
        except BaseException:
            self.close()
            raise

    def _new_session(self) -> _core.Session | None:
        """On the context that the parent made; None where the model has no memory."""
        return seam.open_plain_session(self)

    def _open(self, session: _core.Session | None) -> None:
        if session is not None:
            self._timeline.open(
                session, n_ctx=self._n_ctx, n_batch=self.n_batch, logits_all=self._logits_all
            )

    @property
    def session(self) -> _core.Session | None:
        """The session below, for applications that want the pieces, with a drafter or without.

        None where the model has no memory and so cannot generate: an encoder, or ``vocab_only``.
        """
        return self._timeline.session_or_none

    @property
    def turn_timeout(self) -> float | None:
        """Seconds that a call waits for another thread's; None: until it has ended."""
        return self._turns.timeout

    @turn_timeout.setter
    def turn_timeout(self, seconds: float | None) -> None:
        self._turns.timeout = seconds

    def cancel(self, *, wait: bool = False, timeout: float | None = None) -> bool:
        """Stops the answer or the call that is at work, in whatever thread; see docs/threads.md.

        It raises ``Cancelled`` there: a decode on the CPU is cut short, elsewhere the chunk or step
        that runs is the last one. Model and memory stay as they were before that decode. Calls that
        wait for their turn are not cancelled; the next one begins as soon as this one has ended.
        From a signal handler call it without waiting.

        Args:
            wait: return when it has ended. Another call, which waited for its turn, may be at work
                then.
            timeout: seconds to wait at most.

        Returns:
            Whether it has ended, where that was waited for; else True.
        """
        visit = self._turns.cancel()
        return self._turns.wait_for_end(visit, timeout) if wait else True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the parent's fields ---------------------------------------------------------------

    @property
    def input_ids(self) -> npt.NDArray[np.intc]:
        """The text's tokens, [n_ctx]; see ``n_tokens``."""
        return self._timeline.input_ids

    @input_ids.setter
    def input_ids(self, tokens: npt.NDArray[np.intc]) -> None:
        self._timeline.input_ids = tokens

    @property
    def scores(self) -> npt.NDArray[np.single]:
        """With ``logits_all`` the logits after each token, [n_ctx, n_vocab]."""
        return self._timeline.scores

    @scores.setter
    def scores(self, scores: npt.NDArray[np.single]) -> None:
        self._timeline.scores = scores

    @property
    def n_tokens(self) -> int:
        """Tokens of the text."""
        return self._timeline.n_tokens

    @n_tokens.setter
    def n_tokens(self, n_tokens: int) -> None:
        self._timeline.n_tokens = n_tokens

    @property
    def _seed(self) -> int:
        """Of the next answer. Others may ask for theirs while this thread waits for its turn."""
        return getattr(self._own, "seed", self._last_seed)

    @_seed.setter
    def _seed(self, seed: int) -> None:
        self._last_seed = self._own.seed = seed

    # ---- the parent's methods --------------------------------------------------------------

    @as_in_parent(llama_cpp.Llama.tokenizer)
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self, self._turns.holding)

    n_ctx = _held(llama_cpp.Llama.n_ctx)
    n_embd = _held(llama_cpp.Llama.n_embd)
    n_vocab = _held(llama_cpp.Llama.n_vocab)
    token_bos = _held(llama_cpp.Llama.token_bos)
    token_eos = _held(llama_cpp.Llama.token_eos)
    token_nl = _held(llama_cpp.Llama.token_nl)
    pooling_type = _held(llama_cpp.Llama.pooling_type)

    @as_in_parent(llama_cpp.Llama._create_completion)
    def _create_completion(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        bound = _COMPLETE.bind(self, *args, **kwargs)
        bound.apply_defaults()
        # Between two tokens the parent asks libllama about them.
        with contextlib.closing(super()._create_completion(*args, **kwargs)) as chunks:
            # The parent begins to generate in this thread, before its first chunk.
            self._own.max_tokens = bound.arguments["max_tokens"]
            answer = self._own.answer = self._new_answer()
            while True:
                with self._turns.holding():
                    try:
                        chunk = next(chunks)
                    except StopIteration:
                        return
                    finally:
                        self._own.__dict__.pop("max_tokens", None)
                        self._own.__dict__.pop("answer", None)
                    if answer is not None and chunk["choices"][0]["finish_reason"] is not None:
                        answer.finish()
                yield chunk

    @as_in_parent(llama_cpp.Llama._init_sampler)
    def _init_sampler(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._init_sampler(*args, **kwargs)
        finally:
            self._own.__dict__.pop("seed", None)

    @as_in_parent(llama_cpp.Llama.generate)
    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> generation.TokenGenerator:
        bound = _GENERATE.bind(self, tokens, *args, **kwargs)
        bound.apply_defaults()
        options = bound.arguments
        timeline = self._timeline
        room = generation.Room(self._own.__dict__.pop("max_tokens", None))
        completed = "answer" in self._own.__dict__  # by _create_completion, which knows its end
        answer = self._own.__dict__.pop("answer", None) if completed else self._new_answer()
        with self._turns.answer() as turn:
            with self._turns.alone(turn):
                sampler = self._init_sampler(**{k: v for k, v in options.items() if k in _SAMPLING})
                self._sampler = sampler
                timeline.begin(list(tokens), reset=options["reset"])
                prompt = [] if answer is None else timeline.tokens.tolist()
            steps = self._steps(address(sampler.sampler), room, options["logits_processor"])
            made = generation.tokens_of(timeline, steps, options["stopping_criteria"], turn)
            if answer is None:
                yield from made
                return
            answer.begin(prompt, options, _GENERATE)
            try:
                yield from answer.watched(made)
            finally:
                if not completed and answer.came_to_its_end:
                    answer.finish()

    def _new_answer(self) -> Answer | None:
        """One that is to be recorded; None where none is."""
        return None

    def _steps(self, chain: int, room: generation.Room, processors: Any) -> generation.Steps:
        if self._logits_all or processors is not None:
            return generation.RowSteps(self._timeline, chain, room, self.draft_model)
        return generation.WholeSteps(self._timeline, chain, room, rejection=self._rejects())

    def _rejects(self) -> bool:
        """Whether drafts are kept by rejection sampling."""
        return False

    @as_in_parent(llama_cpp.Llama.eval)
    @in_turn
    def eval(self, tokens: Sequence[int]) -> None:
        self._turns.begin()
        if self.session is None:
            super().eval(tokens)
            return
        self._timeline.align()
        self._timeline.read(tokens)

    @as_in_parent(llama_cpp.Llama.sample)
    @in_turn
    def sample(self, *args: Any, **kwargs: Any) -> int:
        if self.session is not None and self.n_tokens > 0:
            self._turns.begin()  # a generator would not know that its sampler has moved on
            self._timeline.align()
            self._timeline.refresh_logits()
        return int(super().sample(*args, **kwargs))

    @as_in_parent(llama_cpp.Llama.reset)
    @in_turn
    def reset(self) -> None:
        self._turns.begin()
        self._forget()

    def _forget(self) -> None:
        super().reset()
        self._timeline.forget()

    @as_in_parent(llama_cpp.Llama.embed)
    @in_turn
    def embed(self, *args: Any, **kwargs: Any) -> Any:
        if self.session is None or not self.context_params.embeddings:
            return super().embed(*args, **kwargs)
        self._turns.begin()
        try:
            return super().embed(*args, **kwargs)
        finally:
            # It decodes behind the session's back, in other sequences too.
            self._ctx.kv_cache_clear()
            self._forget()

    @as_in_parent(llama_cpp.Llama.load_state)
    @in_turn
    def load_state(self, state: llama_cpp.LlamaState) -> None:
        self._turns.begin()
        try:
            super().load_state(state)
        except BaseException:
            # What libllama could not restore it leaves undefined.
            self._ctx.kv_cache_clear()
            self._forget()
            raise
        if self.session is None:
            return
        self._timeline.make_room()
        # A state may hold rows past its tokens: the parent drops them when it decodes.
        if not self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1):
            self._ctx.kv_cache_clear()
            self.n_tokens = 0
        self._timeline.align()
        self._load_drafter(state, self.session)

    def _load_drafter(self, state: llama_cpp.LlamaState, session: _core.Session) -> None:
        """What a state says of the drafter's memory."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rpc": self._rpc, "turn_timeout": self.turn_timeout}

    def close(self) -> None:
        """Frees the models. What is at work in another thread is cancelled and waited for.

        Called by the thread that is at work, in a hook or a signal handler, it takes effect when
        that call ends. Later calls raise ``BackendError``.
        """
        self._turns.close(self._free)

    def __del__(self) -> None:
        if "_turns" not in vars(self):
            return  # an argument was refused
        # Nobody works with what nobody can reach. A call that Ctrl-C ended may not have left: what
        # would end it is garbage as well, and comes after this.
        self._turns.close(self._free, wait=False)

    def _free(self) -> None:
        with _core.InLibrary():
            super().close()

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warn(message)
