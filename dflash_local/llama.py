"""``Llama``: a ``llama_cpp.Llama`` with a drafter."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import llama_cpp
import numpy as np

from . import arguments, generation, pairing, parent, seam
from ._api import _core
from .detokenizer import Tokenizer
from .drafter import address
from .drafter_file import DrafterInfo, read_drafter
from .errors import AllocationError, BackendError, ModelError
from .fingerprint import fingerprint
from .learned import Learned
from .placement import checked_devices, placement_beside, verifier_devices
from .rpc import checked_endpoints
from .state import LlamaState
from .stats import SessionStats

_GENERATE = inspect.signature(llama_cpp.Llama.generate)
_COMPLETE = inspect.signature(llama_cpp.Llama._create_completion)
_SAMPLING = frozenset(inspect.signature(llama_cpp.Llama._init_sampler).parameters) - {"self"}

#: What temperatures above 0 may do.
SAMPLING = ("exact", "rejection")

#: Positions of context that a drafter sees, where nothing else is said.
DRAFTER_CTX = 8192

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _locked(method: _Method) -> _Method:
    """The method has the model for itself: a second thread waits for its turn."""

    @functools.wraps(method)
    def locked(self: Llama, *args: Any, **kwargs: Any) -> Any:
        with self._alone():
            return method(self, *args, **kwargs)

    return cast("_Method", locked)


def _held(method: _Method) -> _Method:
    """Nobody frees the model while the parent's method asks libllama; turns do not matter."""

    @functools.wraps(method)
    def held(self: Llama, *args: Any, **kwargs: Any) -> Any:
        with self._turns.holding():
            return method(self, *args, **kwargs)

    return cast("_Method", held)


def _as_in_parent(parent: Callable[..., Any]) -> Callable[[_Method], _Method]:
    """Gives an override the parent's signature and documentation."""

    def document(method: _Method) -> _Method:
        functools.update_wrapper(method, parent)
        return method

    return document


class Llama(llama_cpp.Llama):  # type: ignore[misc]
    """A ``llama_cpp.Llama`` that drafts. Everything else is the parent's.

    The drafter reads the verifier's hidden states and proposes a block of tokens, which the
    verifier checks in one pass. Nothing changes about the answers but their speed.

    Args:
        model_path: the verifier, a GGUF file.
        drafter: a GGUF file of architecture ``dflash``, made for this verifier; None decodes
            plainly, by the same loop.
        width: drafts a step, at most as many as the drafter gives; 0: plain decoding. None: decided
            step by step, for the most tokens a second. What drafting and verifying cost is measured
            for about half a second when a pair is first loaded, and remembered in the cache folder.
        sampling: what temperatures above 0 do. "exact": a draft is kept where it is what plain
            decoding would have sampled, so that a seed gives the same tokens as without a drafter.
            "rejection": drafts are drawn from the drafter's distribution and kept with the chance
            that leaves the verifier's distribution as it is; more are, but a seed gives other
            tokens. Logits processors, mirostat and DFlash2 drafters are sampled exactly.
        drafter_ctx: positions of context that the drafter sees at most, the last ones; None: 8192.
            More than the verifier's ``n_ctx`` is as much. Its memory grows with it.
        drafter_gpu_layers: layers of the drafter on devices; -1: all, 0: none, None: the share of
            them that the verifier has there (``n_gpu_layers``).
        drafter_devices: names of the devices that get them, as libllama calls them ("CUDA1"), or
            endpoints of ``rpc``; None: those of the verifier that this machine has (``main_gpu``,
            ``split_mode``, ``tensor_split``).
        rpc: endpoints ("192.168.1.7:50052") of llama.cpp's RPC servers, whose devices get the
            verifier's layers before this machine's; all layers, unless ``n_gpu_layers`` says how
            many. For trusted networks alone, see docs/rpc.md.
        turn_timeout: seconds that a call waits while another thread's call or answer is at work;
            None: until it has ended. Threads, cancelling and closing: docs/threads.md.
        verbose: as the parent's, but False by default.
        **kwargs: every other argument of ``llama_cpp.Llama``.

    A drafter that does not fit the memory is warned of, and decoding is plain.

    At width 0 the drafter is told nothing of the text. Set another one, and it drafts from what is
    answered from then on; the next prompt is read anew for it, as far back as it sees.

    Raises:
        ModelError: the drafter's file is unusable, or does not fit the verifier.
        BackendError: libllama could not load it.

    What libllama logs goes to Python's logging, logger ``dflash_local``.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        drafter: str | os.PathLike[str] | None = None,
        width: int | None = None,
        sampling: str = "exact",
        drafter_ctx: int | None = None,
        drafter_gpu_layers: int | None = None,
        drafter_devices: Sequence[str] | None = None,
        rpc: Sequence[str] | str | None = None,
        turn_timeout: float | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> None:
        self._stack = contextlib.ExitStack()  # close() works from here on
        self._ctx: Any
        self._last_seed: int
        self.input_ids: Any
        self.scores: Any
        self._stop = _core.Stop()
        self._turns = _core.Turns(self._stop, turn_timeout)
        self._own = threading.local()  # what a thread set for its next answer
        self._session: _core.Session | None = None
        self._drafter_id: str | None = None  # of the drafter that the session has
        self._max_block = 1  # tokens: the anchor and what it drafts
        self._learned: Learned | None = None
        self._width = _checked_width(width)
        self.sampling = sampling
        self._rpc = checked_endpoints(rpc)
        if self._rpc:
            kwargs.setdefault("n_gpu_layers", -1)
        self._drafter_options = _checked_options(
            drafter_ctx, drafter_gpu_layers, checked_devices(drafter_devices, self._rpc)
        )
        self._warned: set[str] = set()
        if ignored := arguments.unknown(kwargs, _ARGUMENTS):
            self._warn(f"{ignored}: ignored")
        self.drafter_path = None if drafter is None else Path(drafter)
        # Before the verifier is loaded: a bad file is told at once.
        info = None if drafter is None else _drafter_info(drafter, kwargs)
        try:
            with _core.InLibrary():
                devices = verifier_devices(self._rpc)
                parent.construct(self, os.fspath(model_path), devices, verbose=verbose, **kwargs)
                del self._own.seed  # it is no thread's own
                if not kwargs.get("tokenizer"):
                    self.tokenizer_ = self.tokenizer()
                if info is not None:
                    self._attach(info)
                if self._session is None:
                    self._session = seam.open_plain_session(self)
        except BaseException:
            self.close()
            raise

    def _attach(self, info: DrafterInfo) -> None:
        for warning in pairing.check_pair(info, seam.verifier_info(self)):
            self._warn(warning)
        rows = seam.remake_context(self, info, self._width)
        if rows is None:
            self._warn(
                "there is no memory for what drafting needs of the verifier's context, so decoding "
                "is plain: a smaller n_ctx or n_batch leaves room"
            )
            return
        if rows == 0:
            self._warn(
                "libllama cannot take back single tokens from the recurrent memory of this "
                "verifier, so drafts cannot be verified on it (its architecture keeps no "
                "snapshots, or n_batch or n_ubatch is below 3): decoding plainly"
            )
            return
        options = self._drafter_options
        placement = placement_beside(
            self, info.n_layer, options.gpu_layers, options.devices, self._rpc
        )
        try:
            self._session = seam.open_session(
                self, info, rows, width=self._width, n_ctx=options.n_ctx, placement=placement
            )
        except AllocationError as error:
            self._warn(
                f"the drafter does not fit the memory, so decoding is plain ({error}): a smaller "
                "drafter_ctx or n_ctx needs less, and drafter_gpu_layers=0 none of a device's"
            )
            return
        self._drafter_id = fingerprint(info.path)
        self._max_block = info.max_width + 1
        if self._width is None:
            self._learned = Learned(seam.pair_key(self, info, placement))
            self._learned.begin(self._session)
        self._warn_of_width(info.max_width)

    def _warn_of_width(self, widest: int) -> None:
        if self._width is None or self._session is None or self._drafter_id is None:
            return
        most = self._session.verifier.max_rows - 1
        if self._width > widest:
            self._warn(f"width {self._width}: the drafter's block gives {widest} at most")
        elif self._width > most:
            self._warn(
                f"width {self._width}: this context verifies {most} drafts at most; load it with "
                "this width, and n_batch and n_ubatch of at least 2 more"
            )

    # ---- what users see of it --------------------------------------------------------------

    @property
    def session(self) -> _core.Session | None:
        """The session below, for applications that want the pieces, with a drafter or without.

        None where the model has no memory and so cannot generate: an encoder, or ``vocab_only``.
        """
        return self._session

    @property
    def width(self) -> int | None:
        """Drafts a step; None: decided step by step, 0: plain decoding."""
        return self._width

    @width.setter
    def width(self, width: int | None) -> None:
        self._width = _checked_width(width)
        if self._session is not None:
            self._session.width = width
            self._warn_of_width(self._max_block - 1)

    @property
    def turn_timeout(self) -> float | None:
        """Seconds that a call waits for another thread's; None: until it has ended."""
        return self._turns.timeout

    @turn_timeout.setter
    def turn_timeout(self, seconds: float | None) -> None:
        self._turns.timeout = seconds

    @property
    def sampling(self) -> str:
        """What temperatures above 0 do: "exact" or "rejection"."""
        return self._sampling

    @sampling.setter
    def sampling(self, sampling: str) -> None:
        if sampling not in SAMPLING:
            raise ValueError(f"sampling is {sampling!r}, expected one of {', '.join(SAMPLING)}")
        self._sampling = sampling

    @property
    def stats(self) -> SessionStats:
        """What decoding and drafting did, in the last answer and since loading."""
        if self._session is None:
            return SessionStats(_core.Stats(), _core.Stats())
        return SessionStats(self._session.last_stats, self._session.total_stats)

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

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the parent's methods --------------------------------------------------------------

    @_as_in_parent(llama_cpp.Llama.tokenizer)
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self, self._turns.holding)

    n_ctx = _held(llama_cpp.Llama.n_ctx)
    n_embd = _held(llama_cpp.Llama.n_embd)
    n_vocab = _held(llama_cpp.Llama.n_vocab)
    token_bos = _held(llama_cpp.Llama.token_bos)
    token_eos = _held(llama_cpp.Llama.token_eos)
    token_nl = _held(llama_cpp.Llama.token_nl)
    pooling_type = _held(llama_cpp.Llama.pooling_type)

    @_as_in_parent(llama_cpp.Llama._create_completion)
    def _create_completion(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        bound = _COMPLETE.bind(self, *args, **kwargs)
        bound.apply_defaults()
        # Between two tokens the parent asks libllama about them.
        with contextlib.closing(super()._create_completion(*args, **kwargs)) as chunks:
            # The parent begins to generate in this thread, before its first chunk.
            self._own.max_tokens = bound.arguments["max_tokens"]
            while True:
                with self._turns.holding():
                    try:
                        chunk = next(chunks)
                    except StopIteration:
                        return
                    finally:
                        self._own.__dict__.pop("max_tokens", None)
                yield chunk

    @property
    def _seed(self) -> int:
        """Of the next answer. Others may ask for theirs while this thread waits for its turn."""
        return getattr(self._own, "seed", self._last_seed)

    @_seed.setter
    def _seed(self, seed: int) -> None:
        self._last_seed = self._own.seed = seed

    @_as_in_parent(llama_cpp.Llama._init_sampler)
    def _init_sampler(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._init_sampler(*args, **kwargs)
        finally:
            self._own.__dict__.pop("seed", None)

    @_as_in_parent(llama_cpp.Llama.generate)
    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> generation.TokenGenerator:
        session = self._session
        room = generation.Room(self._own.__dict__.pop("max_tokens", None))
        with self._turns.answer() as turn:
            if session is None:
                raise ModelError(
                    f"{self.model_path} cannot generate: it has no memory of a text (it is an "
                    "encoder, or was loaded with vocab_only)"
                )
            bound = _GENERATE.bind(self, tokens, *args, **kwargs)
            bound.apply_defaults()
            options = bound.arguments
            with self._turns.alone(turn):
                sampler = self._init_sampler(**{k: v for k, v in options.items() if k in _SAMPLING})
                self._sampler = sampler
                self._begin(session, list(tokens), reset=options["reset"])
            by_row = self._logits_all or options["logits_processor"] is not None
            kind = generation.RowSteps if by_row else generation.WholeSteps
            steps = kind(self, session, address(sampler.sampler), room)
            criteria = options["stopping_criteria"]
            yield from generation.tokens_of(self, session, steps, criteria, turn)

    def _begin(self, session: _core.Session, tokens: list[int], *, reset: bool) -> None:
        self._align(session)
        session.start_answer()
        if reset:
            self.n_tokens = session.keep_prefix(tokens)
            tokens = tokens[self.n_tokens :]
        self._read(session, tokens)
        self._align(session)
        self._refresh_logits(session)  # of a prompt that goes on where an abandoned answer ended
        if session.features_missing and session.width != 0:
            self._warn(
                "a part of this context was evaluated without the drafter (a state saved without "
                "it, with another one, or damaged; or a multimodal prompt): decoding plainly until "
                "a new prompt; reset() starts one"
            )

    def _catch_up(self, session: _core.Session) -> None:
        """Reads again the few tokens of a state that the drafter lacks: a block in flight.

        Only of a state: what a chat handler decoded may be an image, whose positions are no tokens.
        """
        if 0 < session.n_past - session.n_features <= self._max_block:
            tokens = session.tokens[: session.n_past]
            self.n_tokens = session.rewind(session.n_features)
            self._read(session, tokens[self.n_tokens :])

    @_as_in_parent(llama_cpp.Llama.eval)
    @_locked
    def eval(self, tokens: Sequence[int]) -> None:
        session = self._session
        self._turns.begin()
        if session is None:
            super().eval(tokens)
            return
        self._align(session)
        self._read(session, tokens)

    def _read(self, session: _core.Session, tokens: Sequence[int]) -> None:
        try:
            for start in range(0, len(tokens), self.n_batch):
                self._turns.check_cancelled()
                self._read_chunk(session, list(tokens[start : start + self.n_batch]))
        except BaseException:
            # A memory that cannot drop a part of a sequence may have lost all of it.
            self.n_tokens = min(self.n_tokens, session.n_past)
            raise

    def _read_chunk(self, session: _core.Session, chunk: list[int]) -> None:
        session.extend(chunk, all_rows=self._logits_all)
        end = self.n_tokens + len(chunk)
        self.input_ids[self.n_tokens : end] = chunk
        if self._logits_all:
            rows = np.ctypeslib.as_array(self._ctx.get_logits(), shape=(len(chunk), self._n_vocab))
            self.scores[self.n_tokens : end] = rows
        self.n_tokens = end
        self._requires_eval = False

    @_as_in_parent(llama_cpp.Llama.sample)
    @_locked
    def sample(self, *args: Any, **kwargs: Any) -> int:
        session = self._session
        if session is not None and self.n_tokens > 0:
            self._turns.begin()  # a generator would not know that its sampler has moved on
            self._align(session)
            self._refresh_logits(session)
        return int(super().sample(*args, **kwargs))

    def _refresh_logits(self, session: _core.Session) -> None:
        """After a block the last logits may be a rejected draft's: reads the last token again."""
        if self.n_tokens > 0 and not session.logits_live:
            tokens = self.input_ids[: self.n_tokens].tolist()
            self.n_tokens = session.keep_prefix(tokens)
            self._read(session, tokens[self.n_tokens :])

    @_as_in_parent(llama_cpp.Llama.reset)
    @_locked
    def reset(self) -> None:
        self._turns.begin()
        self._forget()

    def _forget(self) -> None:
        super().reset()
        if self._session is not None:
            self._session.align([])

    @_as_in_parent(llama_cpp.Llama.embed)
    @_locked
    def embed(self, *args: Any, **kwargs: Any) -> Any:
        if self._session is None or not self.context_params.embeddings:
            return super().embed(*args, **kwargs)
        self._turns.begin()
        try:
            return super().embed(*args, **kwargs)
        finally:
            # It decodes behind the session's back, in other sequences too.
            self._ctx.kv_cache_clear()
            self._forget()

    def save_state(self) -> llama_cpp.LlamaState:
        """As the parent's; with a drafter, a ``LlamaState`` that holds its memory as well."""
        session = self._session
        with self._turns.alone(reading=True):
            if session is None:
                return super().save_state()
            # Nothing is brought in line here: a generator may be running, in the middle of a block.
            # The drafter's part comes first: it ends what a memory that goes back once put off.
            drafter_state = session.save_drafter()
            state = super().save_state()
            if self._drafter_id is None:
                return state
            return LlamaState(
                state,
                drafter_id=self._drafter_id,
                drafter_state=drafter_state,
                n_features=min(session.n_features, self._n_agreed(session)),
                contiguous=not session.features_missing,
            )

    @_as_in_parent(llama_cpp.Llama.load_state)
    @_locked
    def load_state(self, state: llama_cpp.LlamaState) -> None:
        session = self._session
        self._turns.begin()
        try:
            super().load_state(state)
        except BaseException:
            # What libllama could not restore it leaves undefined.
            self._ctx.kv_cache_clear()
            self._forget()
            raise
        if session is None:
            return
        seam.grow_arrays(self)
        # A state may hold rows past its tokens: the parent drops them when it decodes.
        if not self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1):
            self._ctx.kv_cache_clear()
            self.n_tokens = 0
        self._align(session)
        if self._drafter_id is None:
            return
        if isinstance(state, LlamaState) and state.drafter_id == self._drafter_id:
            # Damaged, it counts as missing: that is said when an answer begins.
            with contextlib.suppress(BackendError):
                session.load_drafter(state.drafter_state, min(state.n_features, self.n_tokens))
        if getattr(state, "contiguous", True):
            # A recurrent memory may lose all in going back: the next prompt is read anew then.
            with contextlib.suppress(BackendError):
                self._catch_up(session)

    def __getstate__(self) -> dict[str, Any]:
        own = {
            "drafter": self.drafter_path,
            "width": self._width,
            "sampling": self._sampling,
            "drafter_ctx": self._drafter_options.n_ctx,
            "drafter_gpu_layers": self._drafter_options.gpu_layers,
            "drafter_devices": self._drafter_options.devices,
            "rpc": self._rpc,
            "turn_timeout": self.turn_timeout,
        }
        return {**super().__getstate__(), **own}

    def close(self) -> None:
        """Frees the models. What is at work in another thread is cancelled and waited for.

        Called by the thread that is at work, in a hook or a signal handler, it takes effect when
        that call ends. Later calls raise ``BackendError``.
        """
        self._turns.close(self._free)

    def __del__(self) -> None:
        # Nobody works with what nobody can reach. A call that Ctrl-C ended may not have left: what
        # would end it is garbage as well, and comes after this.
        self._turns.close(self._free, wait=False)

    def _free(self) -> None:
        if self._learned is not None and self._session is not None:
            self._learned.keep(self._session)
        with _core.InLibrary():
            super().close()

    # ---- shared with generation ------------------------------------------------------------

    def _alone(self, turn: _core.Turn | None = None) -> _core.Alone:
        """Has the model for itself; see ``Turns.alone``."""
        return self._turns.alone(turn)

    def _if_still(self, turn: _core.Turn) -> _core.IfStill:
        """Whether it is still the generator's turn: else who took it brings all in line."""
        return self._turns.if_still(turn)

    def _align(self, session: _core.Session) -> None:
        """Tells the session what the parent's fields say: chat handlers write them directly."""
        session.align(self.input_ids[: self.n_tokens])
        self.n_tokens = session.n_past

    def _n_agreed(self, session: _core.Session) -> int:
        """Tokens at the beginning that the parent's fields and the session both hold."""
        held = np.asarray(session.tokens[: self.n_tokens], dtype=np.intc)
        different = np.flatnonzero(held != self.input_ids[: len(held)])
        return int(different[0]) if len(different) else len(held)

    def _settle(self) -> None:
        """After a generator: both memories end where the tokens handed out end."""
        session = self._session
        if session is None:
            return
        self.n_tokens = session.rewind(min(self.n_tokens, session.n_past))
        self._requires_eval = not session.logits_live

    def _proposed(self, anchor: int, sent: Sequence[int] | None) -> Sequence[int] | None:
        """What was sent to the generator, and what the parent's own ``draft_model`` adds to it."""
        if self.draft_model is None:
            return sent
        said = np.array([anchor, *(sent or ())], dtype=np.intc)
        drafts = self.draft_model(np.concatenate((self._input_ids, said)))
        return [*said[1:].tolist(), *drafts.tolist()]

    def _append(self, token: int) -> None:
        self.input_ids[self.n_tokens] = token
        self.n_tokens += 1

    def _keep_scores(self, row: int) -> None:
        if self._logits_all and self._session is not None:
            self.scores[self.n_tokens - 1] = self._session.logits(row)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=3)


_ARGUMENTS = arguments.names(llama_cpp.Llama.__init__, Llama.__init__)


def _checked_width(width: int | None) -> int | None:
    if width is not None and width < 0:
        raise ValueError(f"width is {width}: expected 0 or more, or None")
    return width


@dataclass(frozen=True)
class _DrafterOptions:
    n_ctx: int
    gpu_layers: int | None
    devices: tuple[str, ...]


def _checked_options(
    n_ctx: int | None, gpu_layers: int | None, devices: tuple[str, ...]
) -> _DrafterOptions:
    if n_ctx is not None and n_ctx < 1:
        raise ValueError(f"drafter_ctx is {n_ctx}: expected 1 or more, or None")
    if gpu_layers is not None and gpu_layers < -1:
        raise ValueError(f"drafter_gpu_layers is {gpu_layers}: expected -1 or more, or None")
    return _DrafterOptions(n_ctx or DRAFTER_CTX, gpu_layers, devices)


def _drafter_info(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> DrafterInfo:
    for name, why in (
        ("draft_model", "draft for the same verifier: give one of them"),
        ("vocab_only", "do not fit together: a drafter needs the verifier's weights"),
    ):
        if kwargs.get(name):
            raise ValueError(f"drafter= and {name}= {why}")
    return read_drafter(path)
