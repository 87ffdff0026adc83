"""``Llama``: a ``llama_cpp.Llama`` with a drafter."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from dflash_local._api import _core
from dflash_local.errors import BackendError
from dflash_local.files.drafter_file import DrafterInfo, read_drafter
from dflash_local.machine.rpc import checked_endpoints
from dflash_local.pairs import auto
from dflash_local.record.folder import RecordFolder
from dflash_local.record.recorder import Answer, Recorder
from dflash_local.record.source import source_of
from dflash_local.user_warning import warn

from . import generation
from .attach import (
    DRAFTER_CTX,
    Attached,
    DrafterOptions,
    attach,
    width_warning,
)
from .exact import ExactWidths
from .placement import checked_devices
from .session_llama import SessionLlama
from .state import LlamaState
from .stats import SessionStats

#: What temperatures above 0 may do.
SAMPLING = ("exact", "rejection")


class Llama(SessionLlama):
    """A ``llama_cpp.Llama`` that drafts. Everything else is the parent's.

    The drafter reads the verifier's hidden states and proposes a block of tokens, which the
    verifier checks in one pass. Nothing changes about the answers but their speed.

    Args:
        model_path: the verifier, a GGUF file.
        drafter: a GGUF file of architecture ``dflash``, made for this verifier; None decodes
            plainly, by the same loop. "auto": the one that ``find_drafter`` finds on this machine;
            where there is none, or it does not work, decoding is plain and a warning says why.
        width: drafts a step, at most as many as the drafter gives; 0: plain decoding. None: decided
            step by step, for the most tokens a second. What drafting and verifying cost is measured
            for about half a second when a pair is first loaded, and remembered in the cache folder.
        sampling: what temperatures above 0 do. "exact": a draft is kept where it is what plain
            decoding would have sampled, so that a seed gives the same tokens as without a drafter.
            "rejection": drafts are drawn from the drafter's distribution and kept with the chance
            that leaves the verifier's distribution as it is; more are, but a seed gives other
            tokens. Logits processors, mirostat and DFlash2 drafters are sampled exactly.
        exact: a width is exact if a verify of so many drafts gives plain decoding's logits, to the
            bit. True: no other width is verified, so that answers are plain decoding's to the last
            token, at any temperature. Flash attention is switched on where exact widths need it and
            ``flash_attn`` is not given. None: with flash attention and adaptive widths, an exact
            width is preferred unless another is better by 2 %. False: it does not matter. Which
            widths are exact is found by comparing when a pair is first loaded, which may take some
            seconds, and is remembered: docs/exact.md.
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
        record: a folder, new or of earlier records, in which finished answers are kept as tokens,
            for `dflash-local learn`; see docs/learning.md. None: nothing is kept.
        turn_timeout: seconds that a call waits while another thread's call or answer is at work;
            None: until it has ended. Threads, cancelling and closing: docs/threads.md.
        verbose: as the parent's, but False by default.
        **kwargs: every other argument of ``llama_cpp.Llama``.

    A drafter that does not fit the memory is warned of, and decoding is plain.

    At width 0 the drafter is told nothing of the text. Set another one, and it drafts from what is
    answered from then on; the next prompt is read anew for it, as far back as it sees.

    Raises:
        ModelError: the drafter's file is unusable, or does not fit the verifier; or no width is
            exact where ``exact`` is True.
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
        exact: bool | None = None,
        drafter_ctx: int | None = None,
        drafter_gpu_layers: int | None = None,
        drafter_devices: Sequence[str] | None = None,
        rpc: Sequence[str] | str | None = None,
        record: str | os.PathLike[str] | None = None,
        turn_timeout: float | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> None:
        self._attached: Attached | None = None
        self._recorder: Recorder | None = None
        self._watch: _core.NodeWatch | None = None  # of the context's graphs, which it outlives
        self._width = _checked_width(width)
        self.sampling = sampling
        self._drafter_options = DrafterOptions(
            n_ctx=DRAFTER_CTX if drafter_ctx is None else drafter_ctx,
            gpu_layers=drafter_gpu_layers,
            devices=checked_devices(drafter_devices, checked_endpoints(rpc)),
            exact=exact,
            may_switch="flash_attn" not in kwargs,
        )
        self._record = None if record is None else RecordFolder(Path(record))
        self._auto = drafter == auto.AUTO
        if self._auto:
            drafter = auto.drafter_for(model_path, kwargs, warn)
        self.drafter_path = None if drafter is None else Path(drafter)
        # Before the verifier is loaded: a bad file is told at once.
        self._drafter_info = None if drafter is None else _drafter_info(drafter, kwargs)
        super().__init__(model_path, rpc=rpc, turn_timeout=turn_timeout, verbose=verbose, **kwargs)
        if self._record is not None:
            self._recorder = Recorder(self._record, source_of(self), self._warn)

    def _new_session(self) -> _core.Session | None:
        if self._drafter_info is not None:
            self._attached = self._attach(self._drafter_info)
        if self._attached is None:
            return super()._new_session()
        self._warn_of_width()
        return self._attached.session

    def _attach(self, info: DrafterInfo) -> Attached | None:
        if not self._auto:
            return attach(self, info, self._drafter_options, self._warn)
        with auto.plainly_instead(info.path, self._warn):
            return attach(self, info, self._drafter_options, self._warn)
        return None

    def _warn_of_width(self) -> None:
        if self._attached and (warning := width_warning(self._attached, self._width)):
            self._warn(warning)

    @property
    def width(self) -> int | None:
        """Drafts a step; None: decided step by step, 0: plain decoding."""
        return self._width

    @width.setter
    def width(self, width: int | None) -> None:
        self._width = _checked_width(width)
        if self.session is not None:
            self.session.width = width
            self._warn_of_width()

    @property
    def sampling(self) -> str:
        """What temperatures above 0 do: "exact" or "rejection"; set, from the next answer on."""
        return self._sampling

    @sampling.setter
    def sampling(self, sampling: str) -> None:
        if sampling not in SAMPLING:
            raise ValueError(f"sampling is {sampling!r}, expected one of {', '.join(SAMPLING)}")
        self._sampling = sampling

    @property
    def stats(self) -> SessionStats:
        """What decoding and drafting did, in the last answer and since loading."""
        if self.session is None:
            return SessionStats(_core.Stats(), _core.Stats())
        session = self.session
        return SessionStats(session.last_stats, session.total_stats, self.exact_widths)

    @property
    def exact_widths(self) -> ExactWidths | None:
        """The widths that were found to be exact; see the argument ``exact``.

        None where that was not checked, or the check was not finished.
        """
        return self._attached.exact if self._attached else None

    # ---- what the drafter changes ----------------------------------------------------------

    def _rejects(self) -> bool:
        return self._sampling == "rejection"

    def _steps(self, chain: int, room: generation.Room, processors: Any) -> generation.Steps:
        session = self._timeline.session
        if session.features_missing and session.width != 0:
            self._warn(
                "a part of this context was evaluated without the drafter (a state saved without "
                "it, with another one, or damaged; or a multimodal prompt): decoding plainly until "
                "a new prompt; reset() starts one"
            )
        return super()._steps(chain, room, processors)

    def save_state(self) -> llama_cpp.LlamaState:
        """As the parent's; with a drafter, a ``LlamaState`` that holds its memory as well."""
        with self._turns.alone(reading=True):
            session, attached = self.session, self._attached
            if session is None:
                return super().save_state()
            # Nothing is brought in line here: a generator may be running, in the middle of a block.
            # The drafter's part comes first: it ends what a memory that goes back once put off.
            drafter_state = session.save_drafter()
            state = super().save_state()
            if attached is None:
                return state
            return LlamaState(
                state,
                drafter_id=attached.drafter_id,
                drafter_state=drafter_state,
                n_features=min(session.n_features, self._timeline.n_agreed()),
                contiguous=not session.features_missing,
            )

    def _new_answer(self) -> Answer | None:
        # A handler of the user's own may put pictures between the tokens.
        if self._recorder is None or self.chat_handler is not None:
            return None
        return Answer(
            self._recorder, lambda token: llama_cpp.llama_vocab_is_eog(self._model.vocab, token)
        )

    def _load_drafter(self, state: llama_cpp.LlamaState, session: _core.Session) -> None:
        attached = self._attached
        if attached is None:
            return
        if isinstance(state, LlamaState) and state.drafter_id == attached.drafter_id:
            # Damaged, it counts as missing: that is said when an answer begins.
            with contextlib.suppress(BackendError):
                session.load_drafter(state.drafter_state, min(state.n_features, self.n_tokens))
        if getattr(state, "contiguous", True):
            # A recurrent memory may lose all in going back: the next prompt is read anew then.
            with contextlib.suppress(BackendError):
                self._timeline.read_again(
                    at_most=attached.max_width + 1,
                    one_by_one=bool(self._drafter_options.exact),
                )

    def __getstate__(self) -> dict[str, Any]:
        own = {
            "record": None if self._record is None else self._record.path,
            "drafter": auto.AUTO if self._auto else self.drafter_path,
            "width": self._width,
            "sampling": self._sampling,
            "exact": self._drafter_options.exact,
            "drafter_ctx": self._drafter_options.n_ctx,
            "drafter_gpu_layers": self._drafter_options.gpu_layers,
            "drafter_devices": self._drafter_options.devices,
        }
        return {**super().__getstate__(), **own}

    def _free(self) -> None:
        if self._attached is not None and self._attached.learned is not None:
            self._attached.learned.keep(self._attached.session)
        super()._free()


def _checked_width(width: int | None) -> int | None:
    if width is not None and width < 0:
        raise ValueError(f"width is {width}: expected 0 or more, or None")
    return width


def _drafter_info(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> DrafterInfo:
    for name, why in (
        ("draft_model", "draft for the same verifier: give one of them"),
        ("vocab_only", "do not fit together: a drafter needs the verifier's weights"),
    ):
        if kwargs.get(name):
            raise ValueError(f"drafter= and {name}= {why}")
    return read_drafter(path)
