"""The speculative loop over llama.cpp contexts: draft, verify, keep the longest valid prefix."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

def bind(library: int, layouts: dict[str, list[int]]) -> None:
    """Fills the function table from a handle of the loaded libllama.

    Args:
        layouts: of the structs that are shared with it: the offsets of the fields, then the size.

    Raises:
        ImportError: names the functions that are missing, or the struct that differs.
    """

def install_log(receiver: Callable[[int, bytes], None]) -> None:
    """Has libllama's log callback call ``receiver(level, text)``, from any thread, for good."""

def log_callback() -> int:
    """The address of that callback."""

def load_progress_callback() -> int:
    """The address of a ``llama_progress_callback`` that ends a load when the interpreter ends."""

class InLibrary:
    """A context in which ``prepare_exit`` waits for this thread.

    For llama_cpp's own calls, which work without the GIL: what libllama uses is gone when the
    process ends. After ``prepare_exit`` other threads sleep here.
    """

    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

def prepare_exit(seconds: float) -> None:
    """Before the interpreter ends: stops all work, and keeps other threads out for good.

    Waits for them, so many seconds at most. A thread that takes the GIL again while the interpreter
    finalizes would end the process; it sleeps instead.
    """

class Stop:
    """A request to stop, made from any thread; sessions and contexts that watch it end their work.

    One request ends one call: it is taken back when ``Cancelled`` is raised.
    """

    def __init__(self) -> None: ...
    def request(self) -> None: ...
    def clear(self) -> None: ...
    @property
    def requested(self) -> bool: ...
    def watch(self, context: int) -> None:
        """Decodes of the ``llama_context`` at this address end early when it is requested."""

class Turn:
    """One request: an answer, from its prompt to its last token, or a single call."""

class Answer:
    """The context that ``Turns.answer`` gives."""

    def __enter__(self) -> Turn: ...
    def __exit__(self, *error: object) -> None: ...

class Alone:
    """The context that ``Turns.alone`` gives."""

    def __enter__(self) -> None: ...
    def __exit__(self, kind: object, error: object, traceback: object) -> None: ...

class IfStill:
    """The context that ``Turns.if_still`` gives."""

    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class Holding:
    """The context that ``Turns.holding`` gives."""

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

class Turns:
    """Lets one thread in at a time, in the order in which they came.

    An answer keeps its turn between its tokens, while the caller holds its generator. Calls from
    other threads wait until it ends. A call from the thread that took the last token can only mean
    that the answer is given up: it takes over, since waiting would be waiting for itself.

    Ctrl-C does not come into the middle of these functions: each takes effect as a whole or not at
    all. While one waits, signal handlers run, and may call the others.

    Args:
        stop: ends the work inside the sessions and libllama.
        timeout: seconds that a call waits for its turn; None: as long as it takes.
    """

    def __init__(self, stop: Stop, timeout: float | None = None) -> None: ...
    timeout: float | None
    def alone(self, turn: Turn | None = None, *, reading: bool = False) -> Alone:
        """The caller's thread has the model for itself, after those who came before.

        A RuntimeError of the work inside becomes ``Cancelled`` where that was cancelled: a decode
        of llama_cpp's own that was cut short tells its number only.

        Args:
            turn: goes on with this answer.
            reading: does not disturb an answer, so it comes in between two of its tokens.

        Raises:
            Cancelled: the answer was cancelled.
            BackendError: the answer's turn is over, the model was closed, or the time is up.
        """

    def if_still(self, turn: Turn) -> IfStill:
        """Whether the turn is not over and no other thread is at work, while inside."""

    def holding(self) -> Holding:
        """The model is not freed meanwhile. Others may be at work: it is not waited for.

        Raises:
            BackendError: the model was closed.
        """

    def check_cancelled(self) -> None:
        """Raises ``Cancelled`` where what is at work was cancelled; called inside."""

    def begin(self) -> None:
        """Ends the turn of whatever ran before; called inside."""

    def answer(self) -> Answer:
        """Begins an answer: it has its turn until it is left, also while nobody is inside.

        Raises:
            BackendError: the model was closed, or the time is up.
        """

    def cancel(self) -> int:
        """Ends the answer, or the call that is inside; does not wait. For any thread.

        Returns:
            Which visit it ends, or ended last; for ``wait_for_end``.
        """

    def wait_for_end(self, visit: int, timeout: float | None = None) -> bool:
        """Waits until the thread of this visit has left; gives whether it did within the time.

        Others may have come in since. A caller who is inside itself does not wait.
        """

    def close(self, free: Callable[[], None], *, wait: bool = True) -> None:
        """Lets nobody in any more, ends what is at work, and calls ``free`` when that has ended.

        Where the caller itself is inside, in a hook or a signal handler, that is when it has left.

        Args:
            wait: False where nobody else can be at work any more.
        """

    @property
    def at_work(self) -> bool:
        """Whether a thread is inside."""

    @property
    def answering(self) -> bool:
        """Whether an answer has begun, and not ended."""

    @property
    def n_waiting(self) -> int:
        """Calls that wait for their turn."""

class Finish(Enum):
    """Why an answer cannot go on after a step."""

    none = ...
    end_of_generation = ...
    context_full = ...

class StepResult:
    """What a step emitted.

    Attributes:
        tokens: accepted drafts, then the correction, or the bonus when all were accepted.
        n_drafted: drafts that were verified.
        n_accepted: drafts among ``tokens``.
        finish: why the answer cannot go on, or ``Finish.none``.
    """

    @property
    def tokens(self) -> list[int]: ...
    @property
    def n_drafted(self) -> int: ...
    @property
    def n_accepted(self) -> int: ...
    @property
    def finish(self) -> Finish: ...

class Draft:
    """What a drafter proposed to follow the anchor.

    Attributes:
        tokens: the drafts.
        confidence: the drafter's own estimate, a position, that the token is accepted (DSpark's
            confidence head, DFlash2's selector, else the token's probability); empty where the
            draft is the caller's own.
    """

    @property
    def tokens(self) -> list[int]: ...
    @property
    def confidence(self) -> list[float]: ...

class Stats:
    """Counts and seconds of the loop.

    Tokens, and the drafts that were accepted among them, count when they are handed out. An answer
    may end inside a block, at a stop string, at a limit or where its generator is given up: what
    the block holds past that place is not counted. Work counts whole: steps, drafts verified and
    seconds. So an answer's ``n_tokens`` is its ``usage``, and one more where it ended with an
    end-of-generation token, which is handed out too.

    Attributes:
        n_prompt: prompt tokens decoded; reused ones are not counted.
        n_tokens: tokens handed out, the first of an answer included. A step that is taken row by
            row counts when ``commit`` ends it.
        n_steps: verify steps, those without a draft included.
        n_blocks: verify steps that had a draft.
        n_drafted: drafts verified, those behind an answer's end included.
        n_accepted: drafts that were accepted and handed out.
        accepted_per_position: [k] is the number of blocks of which at least k + 1 drafts were.
        drafted_per_width: [b] is the number of steps for which b tokens were drafted.
        verified_per_width: [w] is the number of steps in which w of them were verified.
        acceptance_length: tokens handed out per verify step, correction or bonus included; the
            first token of an answer comes from its prompt and is of no step.
        acceptance_rate: accepted over drafted; comparable at one width only.
        seconds_prefill: verifier, reading prompts.
        seconds_inject: features from verifier to drafter.
        seconds_draft: drafter.
        seconds_verify: verifier, one decode a step.
        seconds_sample: sampler; not known when steps are taken row by row.
    """

    def __init__(self) -> None: ...
    @property
    def n_prompt(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def n_steps(self) -> int: ...
    @property
    def n_blocks(self) -> int: ...
    @property
    def n_drafted(self) -> int: ...
    @property
    def n_accepted(self) -> int: ...
    @property
    def accepted_per_position(self) -> list[int]: ...
    @property
    def drafted_per_width(self) -> list[int]: ...
    @property
    def verified_per_width(self) -> list[int]: ...
    @property
    def acceptance_length(self) -> float: ...
    @property
    def acceptance_rate(self) -> float: ...
    @property
    def seconds_prefill(self) -> float: ...
    @property
    def seconds_inject(self) -> float: ...
    @property
    def seconds_draft(self) -> float: ...
    @property
    def seconds_verify(self) -> float: ...
    @property
    def seconds_sample(self) -> float: ...
    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values; the seconds under ``"seconds"``."""

class Verifier:
    """A ``llama_context`` as a verifier; features are the inputs of some of its layers.

    Args:
        context: address of the ``llama_context``, which has to outlive every session on it and
            whose architecture has to fill layer inputs (see ``dflash_local.files.taps``), unless
            there is a watch.
        max_rows: rows of logits the context holds: its ``n_outputs_max``, or ``n_batch``.
        feature_layers: GGUF ``dflash.target_layers``, in the drafter's order; [] for no drafter.
        sequence: the sequence of the context that the session owns.
        watch: the context's ``cb_eval``: features are read from the graph, as outputs of the layers
            before. Those of layer 0 are not to be had so.
        node: how the graph names a layer's output, before "-" and the layer.
    """

    def __init__(
        self,
        context: int,
        *,
        max_rows: int,
        feature_layers: Sequence[int],
        sequence: int = 0,
        watch: NodeWatch | None = None,
        node: str = "",
    ) -> None: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_batch(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def n_features(self) -> int:
        """Floats in a row of features: layers times hidden size."""

    @property
    def max_rows(self) -> int: ...
    @property
    def backend_seconds(self) -> float:
        """Seconds spent inside libllama so far."""

class NodeWatch:
    """Shows nodes of a context's graphs, as they are computed, to those that read them.

    Args:
        get_name: and the others: the addresses of ggml's functions of these names.
    """

    def __init__(
        self, *, get_name: int, nbytes: int, is_contiguous: int, backend_tensor_get: int
    ) -> None: ...
    @property
    def callback(self) -> int:
        """The address of a ``ggml_backend_sched_eval_callback``: a context's ``cb_eval``."""

    @property
    def address(self) -> int:
        """Its user data. The watch has to outlive that context."""

class NodeHashes:
    """Sees what attention and layers give, row by row, as a graph computes it."""

    def __init__(self, watch: NodeWatch) -> None: ...
    @property
    def watch(self) -> NodeWatch: ...
    @property
    def n_nodes(self) -> int:
        """Nodes seen of the first row of the last decode that was looked at."""

class PlainRows:
    """What plain decoding makes of a text: its logits, row by row."""

    def equal_widths(
        self, verifier: Verifier, hashes: NodeHashes, widths: Sequence[int], *, seconds: float
    ) -> list[int] | None:
        """The widths at which ``verifier`` computes the same, to the bit, on the way to its logits.

        It reads the text's beginning, decodes a block of so many drafts, drops some of its rows,
        and decodes the row that follows. Width 0 is a row by itself. Its memory is empty before and
        after.

        Returns:
            None where ``seconds`` did not do.
        """

def plain_rows(
    verifier: Verifier,
    hashes: NodeHashes,
    *,
    n_read: int,
    widest: int,
    repeats: bool = False,
    drops: bool = False,
    seconds: float,
) -> PlainRows | None:
    """Decodes a text that nobody wrote, as plain decoding does.

    Args:
        verifier: on a context as plain decoding has it, without feature layers. Its memory is empty
            before and after.
        hashes: of that context's nodes.
        n_read: tokens that are read as a prompt is.
        widest: drafts of the widest block that is to be compared.
        repeats: one token all along.
        drops: of a block's rows the last half is dropped, as rejected drafts are.

    Returns:
        None where ``seconds`` did not do.
    """

class DrafterKind(Enum):
    dflash = ...
    dflash2 = ...
    dspark = ...

class DrafterOptions:
    """What the loop has to know of a drafter's file.

    Attributes:
        kind: which graph it has.
        block_size: tokens of the trained block, anchor included.
        mask_token: stands for every token to be drafted.
        causal: attention within the block.
        sample_from_anchor: DSpark: the anchor's row predicts too.
        has_confidence: DSpark: a confidence head is there.
        n_ctx: positions of context that it sees at most; its context has room for a block beside
            them, or for as many as the verifier's. 0: those that there are beside a block.
        device_top_k: the device that computes the logits chooses the likeliest tokens, where it
            can; its context needs ``n_outputs_max_per_seq`` of a block's rows.
        sequence: the sequence of its context that the session owns.
    """

    kind: DrafterKind
    block_size: int
    mask_token: int
    causal: bool
    sample_from_anchor: bool
    has_confidence: bool
    n_ctx: int
    device_top_k: bool
    sequence: int
    def __init__(self) -> None: ...

class Drafter:
    """A ``llama_context`` of architecture ``dflash`` as a drafter.

    Args:
        context: address of the context, made with ``ctx_other`` = the verifier's. It has to
            outlive every session on it.
        options: see ``DrafterOptions``.
    """

    def __init__(self, context: int, options: DrafterOptions) -> None: ...
    def try_out(self) -> None:
        """Takes in and drafts as much as it ever will, at once: fails where there is no memory."""

    @property
    def max_width(self) -> int:
        """Drafts a block gives at most."""

    @property
    def n_ctx(self) -> int:
        """Positions of context that it sees at most: the last ones."""

    @property
    def on_device(self) -> bool:
        """Whether the device chooses the likeliest tokens, so that no logits come from it."""

    @property
    def options(self) -> DrafterOptions: ...
    @property
    def backend_seconds(self) -> float:
        """Seconds spent inside libllama so far."""

class Session:
    """One timeline over a verifier and a drafter.

    ``tokens`` is the transcript. The verifier's memory holds the first ``n_past`` of them. After a
    step the last token emitted is the *anchor*: it is not decoded yet, the next step drafts after
    it. When a call raises, verifier, drafter and transcript agree as before the call (a long read
    keeps the chunks that were done).

    Calls release the GIL. One thread at a time works in a verifier's context, whichever session
    over it is called: others wait, first come, first served. A call from a signal handler that
    interrupted a call on the same context raises ``BackendError`` instead.

    Args:
        verifier: kept alive by the session.
        drafter: None decodes plainly.
        width: drafts a step, at most as many as the drafter gives; 0: plain decoding, and no
            features are read. None: decided step by step, for the most tokens a second.
        stop: ends its work, as ``cancel`` does; one of its own where none is given.
    """

    def __init__(
        self,
        verifier: Verifier,
        drafter: Drafter | None = None,
        *,
        width: int | None = None,
        stop: Stop | None = None,
    ) -> None: ...
    def sync(self, tokens: Sequence[int] | npt.NDArray[np.int32]) -> None:
        """Makes the timeline exactly ``tokens``: reuses the common prefix, reads the rest.

        Raises:
            ContextError: more tokens than the context holds.
            Cancelled: ``cancel`` was called; KeyboardInterrupt ends it too, between two chunks.
                The chunks that were read stay.
            BackendError: libllama failed.
        """

    def keep_prefix(self, tokens: Sequence[int] | npt.NDArray[np.int32]) -> int:
        """First half of ``sync``: drops what ``tokens`` does not begin with.

        Returns:
            How many of ``tokens`` are kept; the rest is for ``extend``. At least one is left,
            unless the logits after the last are at hand; more where some were read at width 0.
        """

    def extend(
        self, tokens: Sequence[int] | npt.NDArray[np.int32], *, all_rows: bool = False
    ) -> None:
        """Reads tokens after the timeline; a pending anchor is dropped.

        Args:
            all_rows: keep the logits of every row of the last chunk, not only of the last row.
        """

    def rewind(self, n_tokens: int) -> int:
        """Goes back to the first ``n_tokens`` tokens.

        Returns:
            The length reached: less (0) only where the verifier's memory cannot drop a part.
        """

    def align(self, tokens: Sequence[int] | npt.NDArray[np.int32]) -> None:
        """Tells the session what the verifier's memory holds, after others have decoded in it.

        Tokens that it did not read itself have no features: steps are plain then, see
        ``features_missing``.
        """

    def step(
        self,
        sampler: Any = None,
        *,
        max_tokens: int | None = None,
        draft: Sequence[int] | None = None,
        rejection: bool = False,
    ) -> StepResult:
        """Drafts, verifies in one decode, and keeps the longest valid prefix.

        Args:
            sampler: a ``LlamaSampler`` of llama_cpp, or the address of a ``llama_sampler`` chain;
                it accepts the emitted tokens and no others, and drafts that its grammar forbids
                are not verified. None: greedy.
            max_tokens: emit at most as many.
            draft: verify these tokens instead of the drafter's.
            rejection: speculative rejection sampling, where ``sampler`` ends in a draw from a
                distribution and the drafter has one (DFlash2 has not): drafts are drawn from it, a
                seed gives other tokens, and the distribution of answers stays the verifier's.

        Returns:
            1 to ``width + 1`` tokens. The first step of an answer emits the token that the
            prompt's logits give.

        Raises:
            ContextError: the context is full.
        """

    def propose(
        self,
        draft: Sequence[int] | None = None,
        *,
        max_tokens: int | None = None,
        sampler: Any = None,
    ) -> Draft:
        """First half of a step taken row by row: drafts, and decodes anchor and draft.

        Rows 0 to ``len(draft.tokens)`` of the verifier's context then hold logits: row i those
        after the anchor and i drafts. ``commit`` or ``discard`` ends the step.

        Args:
            sampler: as for ``step``; what its grammar forbids is not verified.
        """

    def sample(self, row: int, sampler: Any = None) -> int:
        """Samples from a row of the verifier's last decode; -1 is the last.

        As ``LlamaSampler.sample``, the same token, but a grammar is asked about the likeliest
        tokens only, as far as the samplers after it can tell the difference.
        """

    def commit(self, emitted: Sequence[int]) -> StepResult:
        """Second half: keeps the tokens emitted, a prefix of the draft and one token more."""

    def discard(self) -> None:
        """Ends a step as if it had not begun."""

    def anchor(self, token: int) -> None:
        """Makes ``token``, sampled from the logits that a read left behind, the anchor."""

    def withhold(self, n: int) -> None:
        """Of the tokens that the last step emitted the last ``n`` are not handed out, or not yet.

        Statistics leave them out. For callers that hand tokens out one by one, and may be stopped
        in between; without a word all that a step emitted counts.

        Raises:
            ValueError: the last step emitted fewer.
        """

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """A copy of a row of the verifier's last decode, [n_vocab]; -1 is the last."""

    def draft_logits(self, row: int) -> npt.NDArray[np.float32]:
        """A copy of the drafter's logits of draft ``row``, [n_vocab]; not with DFlash2, and not
        where its device chose among them.

        They are at hand from a draft until the drafter works again.
        """

    def save_drafter(self) -> bytes:
        """The drafter's memory."""

    def load_drafter(self, state: bytes, n_features: int) -> None:
        """Restores the drafter's memory; of the features it holds, those up to ``n_features``."""

    def calibrate(self, seconds: float) -> None:
        """Measures what decodes cost by width, for about so long; before the first prompt.

        Without it costs are learned as widths are tried.
        """

    def learned(self) -> dict[str, Any] | None:
        """What is known of this pair; None without a drafter.

        Seconds of ``verify`` and ``draft`` by width (0: unknown) and how far off each may be beside
        plain decoding (``verify_doubt`` and ``draft_doubt``, of the logarithm), in contexts of at
        least ``n_context`` tokens, as the present one. ``contexts``: the same of each length of
        which anything is known. The share of drafts ``accepted`` at each position, were all before
        them, as far as drafts were judged.
        """

    def restore(self, *, contexts: Sequence[dict[str, Any]], accepted: Sequence[float]) -> None:
        """Begins with what was ``learned`` earlier, with some doubt more.

        Raises:
            ValueError: it is of another width, or no numbers.
            KeyError: a line of it is missing.
        """

    def set_exact(self, widths: Sequence[int], *, up_to: int, only: bool) -> None:
        """Numbers of drafts whose verify gives plain decoding's logits, to the bit.

        Args:
            up_to: positions of context in which they do.
            only: no other number is verified, whoever proposes the drafts, and prompts are read in
                the pieces in which plain decoding would read them.
        """

    def start_answer(self) -> None:
        """``last_stats`` counts from here, and what was cancelled before does not reach it."""

    def cancel(self) -> None:
        """Ends the call that is at work with ``Cancelled``; else the next step or read of it.

        Does not wait, and may be called from any thread. On the CPU a decode is cut short, but for
        steps of recurrent verifiers; elsewhere the chunk or step that runs is the last. ``sync``
        and ``start_answer`` begin anew.
        """

    def close(self) -> None:
        """Ends the call that runs and waits for it; later calls raise.

        Comes before the contexts are freed.
        """

    @property
    def closed(self) -> bool: ...
    @property
    def verifier(self) -> Verifier: ...
    @property
    def drafter(self) -> Drafter | None: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def n_past(self) -> int: ...
    @property
    def n_features(self) -> int:
        """Positions of which the drafter holds features, but for the first ``n_forgotten``."""

    @property
    def n_forgotten(self) -> int:
        """Positions at the beginning of which it holds none any more, or never did at width 0."""

    @property
    def anchored(self) -> bool:
        """Whether the last token was emitted and is still to be decoded."""

    @property
    def logits_live(self) -> bool:
        """Whether the logits after the last token read are at hand."""

    @property
    def features_missing(self) -> bool:
        """Whether the drafter lacks features of what the verifier holds: steps are plain."""

    @property
    def draft(self) -> Draft:
        """The last draft."""

    @property
    def last_stats(self) -> Stats:
        """Since ``start_answer``, as of the last call that ended, or chunk of a prompt read.

        Any thread may ask at any time, without waiting.
        """

    @property
    def total_stats(self) -> Stats:
        """Since the session was made."""
    @property
    def width(self) -> int | None: ...
    @width.setter
    def width(self, width: int | None) -> None: ...

def read(
    verifier: Verifier, tokens: npt.NDArray[np.int32], top_k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Reads a text from its beginning: what a drafter is trained on.

    Its sequence of the verifier's context holds the text afterwards; no session may be on it.

    Args:
        top_k: tokens that follow each token, with their log probabilities; 0 for none, which
            leaves the verifier's head out.

    Returns:
        Features [n, n_features] as a session injects them; ids [n, top_k], best first; log
        probabilities [n, top_k].

    Raises:
        ContextError: more tokens than the context holds.
    """

class Answers:
    """Answers many prompts at once by plain decoding, each in a sequence of one context.

    Args:
        context: address of a ``llama_context`` with ``n_seq_max`` of at least ``n_slots``.
        n_slots: answers at once.
    """

    def __init__(self, context: int, n_slots: int) -> None: ...
    def start(
        self,
        slot: int,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        sampler: int = 0,
        top_k: int = 0,
    ) -> None:
        """Begins an answer in a free slot.

        Args:
            sampler: address of a ``llama_sampler`` chain, the slot's until it is free; 0: greedy.
            top_k: the chain chooses among so many tokens, the most likely ones.

        Raises:
            ContextError: the prompt is longer than a sequence or a batch.
        """

    def run(self, n_steps: int) -> list[int]:
        """Decodes up to ``n_steps`` times, or until answers are complete; gives their slots.

        An answer ends with an end of generation, ``max_tokens``, or a full sequence.
        """

    def answer(self, slot: int) -> list[int]:
        """The tokens of a slot's answer so far."""

    def free(self, slot: int) -> None:
        """Frees a slot and its memory."""

    @property
    def backend_seconds(self) -> float:
        """Seconds spent inside libllama so far."""
