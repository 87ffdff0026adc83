"""Asks stock ``llama_cpp.Llama`` and ``dflash_local.Llama`` the same prompts, turn by turn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import llama_cpp

from dflash_local import Llama
from dflash_local.errors import BackendError, ContextError, DFlashError, PromptError
from dflash_local.files.drafter_file import read_drafter
from dflash_local.files.model_header import usual_context
from dflash_local.machine.rpc import relayed
from dflash_local.record.folder import RecordFolder
from dflash_local.record.recorder import Recorder
from dflash_local.record.source import source_of
from dflash_local.runtime.detokenizer import Tokenizer
from dflash_local.runtime.parent import construct, template_errors
from dflash_local.runtime.placement import offloaded_layers, verifier_devices
from dflash_local.runtime.rendering import AS_LLAMA_2, chat_template

from .asking import Asked, ask, is_end
from .calls import ask_chat
from .margins import find_differences
from .memory import LoadLog, Memory, resident_bytes
from .places import LONG
from .record import ADAPTIVE, CHAT, PAST_END, PLAIN, Answer, Difference
from .rendering import render
from .staircase import Staircase, measure_staircase
from .suite import Prompt, from_all_categories
from .tables import mode_name

#: (answers done, answers in all, what is being done)
Progress = Callable[[int, int, str], None]

_WARM_UP_TOKENS = 8
_CALLED = 5  # prompts that are asked through create_chat_completion as well
# Greedy answers that go on past their end repeat themselves, and copies draft those for nothing.
_LONG_TEMPERATURE = 0.8


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Among the widths None stands for adaptive ones, as in ``Llama``. No widths: 0, 1, 2, 4, the
    drafter's largest, and adaptive.
    """

    verifier: Path
    drafter: Path
    threads: int
    widths: tuple[int | None, ...] | None = None
    max_tokens: int = 128
    temperature: float = 0.0
    repeat: int = 2
    n_ctx: int | None = None  # None: DEFAULT_N_CTX, or less where the model was trained on less
    gpu_layers: int | None = None  # None: 0, or all of them with rpc
    rpc: tuple[str, ...] = ()
    seed: int = 1
    kv_f32: bool = False
    exact: bool = False  # flash attention; adaptive widths verify only exact ones
    record: Path | None = None  # a folder in which the answers of one mode are kept
    long_answers: int = 0  # prompts that are answered at length as well, for the speed by place


@dataclass
class Run:
    """All that a run has measured.

    Attributes:
        widths: that were run; None: adaptive ones.
        max_width: that the drafter gives at most.
        answers: plain ones and those of every width.
        chats: of a few of the prompts through ``create_chat_completion``.
        long: of a few of the prompts, ``LONG`` tokens each.
        learned: what adaptive widths knew in the end, see ``Session.learned``.
        exact_widths: the widths that are exact in all of the context; None where that was not
            checked, as without adaptive widths.
        staircase: what decodes cost by width.
    """

    widths: tuple[int | None, ...]
    max_width: int
    n_ctx: int
    answers: list[Answer] = field(default_factory=list)
    chats: list[Answer] = field(default_factory=list)
    long: list[Answer] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    staircase: Staircase | None = None
    learned: dict[str, list[float]] | None = None
    exact_widths: tuple[int, ...] | None = None
    memory: Memory = field(default_factory=Memory)

    @property
    def modes(self) -> list[str]:
        """Plain first, then the widths."""
        return [PLAIN, *(ADAPTIVE if width is None else str(width) for width in self.widths)]

    @property
    def main_modes(self) -> list[str]:
        """The two that everything is measured of: plain, and adaptive or the widest."""
        return [PLAIN, self.modes[-1]]


def run_bench(options: BenchOptions, prompts: Sequence[Prompt], progress: Progress) -> Run:
    """Loads both models once, warms them up, and measures.

    Raises:
        DFlashError: a file, a width or a prompt that cannot be used.
        ValueError: libllama cannot load the verifier.
    """
    max_width = read_drafter(options.drafter).max_width
    widths = check_widths(options.widths, max_width)
    n_ctx = options.n_ctx or usual_context(options.verifier)
    record = None if options.record is None else RecordFolder(options.record)
    run = Run(widths, max_width, n_ctx)
    with ExitStack() as stack:
        options = replace(options, rpc=stack.enter_context(relayed(options.rpc)))
        bench = _Bench(options, run, _load(options, run, stack), record)
        bench.measure(prompts, progress)
    return run


def check_widths(widths: Sequence[int | None] | None, max_width: int) -> tuple[int | None, ...]:
    """The widths to run, in order, adaptive ones last; see ``BenchOptions``.

    Raises:
        DFlashError: a width is more than the drafter gives, or there is none.
    """
    if widths is None:
        return (*sorted({w for w in (0, 1, 2, 4) if w < max_width} | {max_width}), None)
    if not widths:
        raise DFlashError("there is no width to compare with plain decoding: name one or more")
    fixed = {width for width in widths if width is not None}
    too_wide = sorted(width for width in fixed if width > max_width)
    if too_wide:
        raise DFlashError(
            f"width {', '.join(map(str, too_wide))}: the drafter's block gives {max_width} drafts "
            "at most"
        )
    return (*sorted(fixed), *([None] if None in widths else []))


def _load(options: BenchOptions, run: Run, stack: ExitStack) -> dict[str, llama_cpp.Llama]:
    """The model of each mode: stock llama_cpp's, and ours; says in ``run`` what memory they take.

    Adaptive widths have a model of their own, as their users do: they learn from every step that
    it takes, and would know more than they should from those of fixed widths.
    """
    fixed = [mode for mode in run.modes if mode not in (PLAIN, ADAPTIVE)]
    settings = _settings(options, run.n_ctx)
    memory = run.memory
    memory.verifier = options.verifier.stat().st_size
    memory.drafter = options.drafter.stat().st_size
    memory.resident["before"] = resident_bytes()
    with LoadLog() as log, template_errors(options.verifier):
        plain = _stock(options, settings)
    stack.enter_context(closing(plain))
    memory.devices = log.devices
    if log.contexts:
        memory.plain_context = log.contexts[-1]
    memory.resident["plain"] = resident_bytes()
    with LoadLog() as log:
        llm = _ours(options, settings, stack, width=0 if fixed else None)
    if len(log.contexts) > 1:
        memory.verifier_context, memory.drafter_context = log.contexts[-2:]
    memory.resident["speculative"] = resident_bytes()
    models = {PLAIN: plain, **dict.fromkeys(run.modes[1:], llm)}
    if fixed and ADAPTIVE in models:
        models[ADAPTIVE] = _ours(options, settings, stack, width=None)
    return models


def _stock(options: BenchOptions, settings: dict[str, Any]) -> llama_cpp.Llama:
    """Stock ``llama_cpp.Llama``; on the servers as well, which its own arguments cannot name."""
    if not options.rpc:
        return llama_cpp.Llama(str(options.verifier), **settings)
    llm = llama_cpp.Llama.__new__(llama_cpp.Llama)
    construct(llm, str(options.verifier), verifier_devices(options.rpc), **settings)
    return llm


def _ours(
    options: BenchOptions, settings: dict[str, Any], stack: ExitStack, width: int | None
) -> Llama:
    llm = Llama(
        str(options.verifier),
        drafter=str(options.drafter),
        width=width,
        exact=True if options.exact and width is None else None,
        rpc=options.rpc,
        **settings,
    )
    stack.enter_context(closing(llm))
    if llm.session is None or llm.session.drafter is None:
        raise BackendError(
            f"{options.verifier}: nothing can be drafted for this verifier (see the warning), so "
            "there is nothing to compare"
        )
    return llm


def _settings(options: BenchOptions, n_ctx: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "n_ctx": n_ctx,
        "n_threads": options.threads,
        "n_threads_batch": options.threads,
        "n_gpu_layers": offloaded_layers(options.gpu_layers, options.rpc),
        "verbose": False,
    }
    if options.exact:
        settings["flash_attn"] = True
    if options.kv_f32:
        settings |= {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    return settings


def _rendered(llm: llama_cpp.Llama, prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """The tokens of each prompt; names those that the chat template cannot write."""
    if chat_template(llm) is None and any(prompt.messages for prompt in prompts):
        warnings.warn(f"the verifier {AS_LLAMA_2}", stacklevel=2)
    rendered, problems = {}, []
    for prompt in prompts:
        try:
            rendered[prompt.id] = render(llm, prompt)
        except PromptError as error:
            problems.append(f"{prompt.id}: {error}")
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise PromptError(f"prompts that cannot be asked:{listed}")
    return rendered


def _callable(prompts: Sequence[Prompt]) -> list[Prompt]:
    """A few of those that ``create_chat_completion`` takes as they are."""
    chats = [p for p in prompts if p.messages and not p.tools and not p.settings]
    return from_all_categories(chats, _CALLED)


class _Bench:
    def __init__(
        self,
        options: BenchOptions,
        run: Run,
        models: dict[str, Any],
        record: RecordFolder | None,
    ) -> None:
        self._options = options
        self._run = run
        self._models = models
        self._plain = models[PLAIN]
        self._reader = Tokenizer(self._plain)
        self._recorder = None
        if record is not None:
            self._recorder = Recorder(record, source_of(models[run.modes[-1]]), warnings.warn)

    def measure(self, prompts: Sequence[Prompt], progress: Progress) -> None:
        rendered = self._render(prompts)
        called = [prompt.id for prompt in _callable(prompts)]
        total = self._options.repeat * len(prompts) * len(self._run.modes)
        progress(0, total, "warming up")
        for mode in self._run.modes:
            self._ask(mode, rendered[prompts[0].id], _WARM_UP_TOKENS, seed=0)
        for done, (number, prompt, mode) in enumerate(self._order(prompts)):
            progress(done, total, f"{prompt.id}, {mode_name(mode)}")
            self._run.answers.append(self._answer(number, prompt, mode, rendered[prompt.id]))
            self._keep(self._run.answers[-1], rendered[prompt.id])
            if prompt.id in called and mode in self._run.main_modes:
                self._run.chats.append(self._chat(self._run.answers[-1], prompt))
        self._answer_at_length(prompts, rendered, progress)
        progress(total, total, "costs by width")
        if ADAPTIVE in self._models:
            self._run.learned = self._models[ADAPTIVE].session.learned()
            self._run.exact_widths = self._exact_widths()
        llm = self._models[self._run.modes[1]]
        self._run.staircase = measure_staircase(self._plain, llm, self._context(rendered))
        if self._options.temperature == 0:
            progress(total, total, "margins where answers differ")
            answers = self._run.answers
            self._run.differences = find_differences(self._plain, rendered, answers)

    def _exact_widths(self) -> tuple[int, ...] | None:
        found = self._models[ADAPTIVE].exact_widths
        if found is None:
            return None
        return found.widths if found.up_to >= self._run.n_ctx else ()

    def _render(self, prompts: Sequence[Prompt]) -> dict[str, list[int]]:
        rendered = _rendered(self._plain, prompts)
        longest = max(self._options.max_tokens, LONG if self._options.long_answers else 0)
        room = self._run.n_ctx - longest
        long = [
            f"{name} ({len(tokens)})" for name, tokens in rendered.items() if len(tokens) > room
        ]
        if long:
            raise ContextError(
                f"a context of {self._run.n_ctx} tokens leaves {room} for the prompt; longer are: "
                f"{', '.join(long)}. Raise --n-ctx, or lower --max-tokens or --long-answers"
            )
        return rendered

    def _order(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Prompt, str]]:
        """Rounds, in them prompts, in them modes: each time another mode goes first."""
        modes = self._run.modes
        for number in range(self._options.repeat):
            for index, prompt in enumerate(prompts):
                shift = (index + number) % len(modes)
                for mode in modes[shift:] + modes[:shift]:
                    yield number, prompt, mode

    def _answer(self, number: int, prompt: Prompt, mode: str, tokens: list[int]) -> Answer:
        # One seed for all modes: above temperature 0 they draw alike.
        seed = self._options.seed + number
        asked = self._ask(mode, tokens, self._options.max_tokens, seed=seed)
        return self._record(number, prompt, mode, len(tokens), asked)

    def _keep(self, answer: Answer, prompt: list[int]) -> None:
        """Records each prompt's answer once; all modes give greedy ones alike."""
        options = self._options
        again = answer.round > 0 and options.temperature == 0
        if self._recorder is not None and answer.mode == self._run.modes[-1] and not again:
            self._recorder.add(
                prompt, answer.tokens, ended=answer.ended, settings={"temp": options.temperature}
            )

    def _chat(self, answer: Answer, prompt: Prompt) -> Answer:
        """The same answer through ``create_chat_completion``, right after it."""
        options = self._options
        seed = options.seed + answer.round
        llm = self._prepared(answer.mode)
        said, times = ask_chat(llm, prompt, options.max_tokens, options.temperature, seed)
        return replace(answer, tokens=said, times=times, steps=[], seconds_prompt={}, call=CHAT)

    def _answer_at_length(
        self, prompts: Sequence[Prompt], rendered: dict[str, list[int]], progress: Progress
    ) -> None:
        chosen = from_all_categories(prompts, self._options.long_answers)
        todo = [(prompt, mode) for prompt in chosen for mode in self._run.main_modes]
        temperature = self._options.temperature or _LONG_TEMPERATURE
        for done, (prompt, mode) in enumerate(todo):
            progress(done, len(todo), f"{prompt.id} at length, {mode_name(mode)}")
            llm, tokens = self._prepared(mode), rendered[prompt.id]
            llm.set_seed(self._options.seed)
            asked = ask(llm, tokens, LONG, temperature, past_end=True)
            answer = self._record(0, prompt, mode, len(tokens), asked)
            self._run.long.append(replace(answer, call=PAST_END))

    def _record(
        self, number: int, prompt: Prompt, mode: str, n_prompt: int, asked: Asked
    ) -> Answer:
        said, times, steps, seconds = asked
        text = self._reader.detokenize(said).decode("utf-8", "replace")
        return Answer(
            prompt=prompt.id,
            category=prompt.category,
            mode=mode,
            round=number,
            n_prompt=n_prompt,
            tokens=said,
            times=times,
            steps=steps,
            seconds_prompt=seconds,
            correct=None if prompt.check is None else prompt.check(text),
            ended=is_end(self._plain, said[-1]),
        )

    def _ask(self, mode: str, tokens: list[int], max_tokens: int, *, seed: int) -> Asked:
        llm = self._prepared(mode)
        llm.set_seed(seed)
        return ask(llm, tokens, max_tokens, self._options.temperature)

    def _prepared(self, mode: str) -> llama_cpp.Llama:
        llm = self._models[mode]
        if mode not in (PLAIN, ADAPTIVE):
            llm.width = int(mode)
        llm.reset()  # every answer reads its whole prompt
        return llm

    def _context(self, rendered: dict[str, list[int]]) -> list[int]:
        """A text of the mean length that the run's tokens were generated at."""
        answers = self._run.answers
        mean = sum(a.n_prompt + a.n_tokens // 2 for a in answers) // len(answers)
        text = [t for a in answers[:: len(self._run.modes)] for t in rendered[a.prompt] + a.tokens]
        room = self._run.n_ctx - self._run.max_width - 2
        return text[: max(1, min(mean, room))]
