"""The verifier's answers to every prompt: written here, or asked of a server that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from .account import Sieve
from .answerer import Question, Sampling
from .conversations import Conversation, Unanswered
from .endpoint import Endpoint
from .options import TrainOptions
from .progress import Count
from .verifiers.verifier import Generator, Verifier
from .workspace import Prompt, Workspace

_GROUP = 16  # answers of a slot that are made, and kept, together
_EMPTY = "an empty answer"


def make_answers(
    options: TrainOptions, verifier: Verifier, work: Workspace, progress: Count
) -> None:
    """The verifier, or a server that runs it, answers every prompt.

    Raises:
        DFlashError: the server fails, or more of its answers cannot be used than the user allows.
            What was answered is kept.
    """
    prompts = work.read_prompts()
    if options.data.as_is:
        return
    if options.data.endpoint is None:
        _answer_here(options, verifier, work, prompts, progress)
        return
    _ask_server(options, verifier, work, prompts, progress)
    answers = work.read_answers()
    unanswered = Sieve(len(answers))
    for answer in answers:
        if isinstance(answer, Unanswered):
            unanswered.leave(answer.reason, f"prompt {(answer.prompt or 0) + 1}")
    unanswered.check(options.data.endpoint, options.data.most_refused, "answers")


def _answer_here(
    options: TrainOptions,
    verifier: Verifier,
    work: Workspace,
    prompts: Sequence[Prompt],
    progress: Count,
) -> None:
    """A group at a time: one is kept whole or begun anew, so that an interrupted run ends with the
    same texts."""
    n_done = len(work.read_answers())
    if n_done >= len(prompts):
        return
    size = _GROUP * options.data.at_once
    n_done -= n_done % size
    work.keep_answers(n_done)
    is_end = verifier.tokenizer(options.data.thinking).is_end
    data = options.data
    with verifier.generator(n_slots=data.at_once, n_ctx=data.max_length) as answerer:
        for first in range(n_done, len(prompts), size):
            progress("answers", first, len(prompts))
            group = prompts[first : first + size]
            answers = _answers(options, answerer, group, first, len(prompts), progress)
            work.append(map(partial(_kept, is_end), group, answers))


def _answers(
    options: TrainOptions,
    answerer: Generator,
    group: Sequence[Prompt],
    first: int,
    total: int,
    progress: Count,
) -> list[list[int]]:
    questions = [_question(options, prompt, first + i) for i, prompt in enumerate(group)]
    return answerer.answer(questions, lambda done, _: progress("answers", first + done, total))


def _kept(
    is_end: Callable[[int], bool], prompt: Prompt, answer: Sequence[int]
) -> Conversation | Unanswered:
    if not answer:
        return Unanswered(_EMPTY)
    tokens = (*prompt.tokens, *answer)
    return Conversation(tokens, len(prompt.tokens), prompt.dialogue, is_end(answer[-1]))


def _ask_server(
    options: TrainOptions,
    verifier: Verifier,
    work: Workspace,
    prompts: Sequence[Prompt],
    progress: Count,
) -> None:
    """Every answer is kept as it comes: none is asked for twice."""
    done = work.keep_whole_answers()
    asked = [i for i in range(len(prompts)) if i not in done]
    if not asked:
        return
    data = options.data
    assert data.endpoint is not None
    server = Endpoint(data.endpoint, verifier.tokenizer(data.thinking), data.at_once)
    questions = [_question(options, prompts[i], i) for i in asked]
    for n_done, (at, answered) in enumerate(server.each(questions), len(done) + 1):
        number = asked[at]
        prompt = prompts[number]
        text: Conversation | Unanswered = Unanswered(answered.problem)
        if answered.tokens:
            tokens = (*prompt.tokens, *answered.tokens)
            text = Conversation(tokens, len(prompt.tokens), prompt.dialogue, answered.ended)
        work.append([text], number)
        progress("answers", n_done, len(prompts))
    work.sort_answers()


def _question(options: TrainOptions, prompt: Prompt, index: int) -> Question:
    temperatures = options.data.temperatures
    sampling = Sampling(temperatures[index % len(temperatures)], seed=options.fit.seed + index)
    return Question(list(prompt.tokens), sampling, options.data.max_tokens)
