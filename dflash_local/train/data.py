"""From the user's rows to prompts, and from answers to what is trained on and held out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from dflash_local.errors import DFlashError, PromptError
from dflash_local.rows.dialogue import Dialogue, unused_fields

from . import conversations as texts
from .account import Asked, Sieve, Used
from .conversations import Conversation, Unanswered
from .options import TrainOptions
from .progress import Count
from .questions import as_they_are, dialogue_id, questions_of, read_dialogues, synthesize
from .verifiers.verifier import ChatTokenizer, Verifier
from .workspace import Prompt, Workspace

# ---- 1. prompts ----------------------------------------------------------------------------


def make_prompts(
    options: TrainOptions, verifier: Verifier, work: Workspace, progress: Count
) -> Asked | None:
    """Writes the prompts as tokens; with answers that are there already, the conversations.

    Returns:
        What became of the rows; None where that was done before.

    Raises:
        DFlashError: there is nothing to ask, or more of it cannot be used than the user allows.
    """
    if work.prompts.is_file():
        return None
    data = options.data
    if data.prompts is None and not data.synthesize and not data.tokens:
        raise DFlashError("nothing to train on: name --prompts, --tokens, or --synthesize N")
    template, account = verifier.tokenizer(data.thinking), Asked()
    found = list(_of_file(options, template, account))
    if data.prompts is not None:  # before the verifier is asked anything
        account.rows.check(data.prompts, data.most_refused)
    if data.synthesize:
        found += _made_up(options, verifier, template, account, progress)
    kept = list(_sifted(found, options, account.prompts))
    if data.as_is:
        if not kept:
            raise DFlashError("--as-is: there is no answer of the assistant's in the prompts")
        work.write_lines(work.conversations, map(texts.to_line, kept))
    _warn_of_long(options, account.prompts)
    work.write_account(account)
    prompts = [] if data.as_is else [Prompt(text.prompt, text.dialogue) for text in kept]
    work.write_prompts(prompts)
    return account


def _of_file(
    options: TrainOptions, template: ChatTokenizer, account: Asked
) -> Iterator[Conversation]:
    """What the rows of the user's file ask; without an answer, its tokens are those of the prompt.

    A row of which a turn cannot be asked is left out whole.
    """
    path = options.data.prompts
    if path is None:
        return
    dialogues, untold = [], 0
    for row, dialogue in read_dialogues(path, account.rows):
        try:
            made = list(_texts_of(dialogue, template, options.data.as_is))
            untold += dialogue.tools is not None and not _writes_tools(dialogue, template)
        except PromptError as error:
            account.rows.leave(str(error), row.where, row.excerpt)
            continue
        if not made:
            account.prompts.found += 1
            account.prompts.leave("a row without an answer of the assistant's", row.where)
        dialogues.append(dialogue)
        yield from made
    unused = unused_fields(dialogues)
    told = f"{untold} rows have tools that the chat template does not write" if untold else ""
    account.notes += filter(None, (unused, told))


def _texts_of(dialogue: Dialogue, template: ChatTokenizer, as_is: bool) -> Iterable[Conversation]:
    if as_is:
        return as_they_are(dialogue, template)
    name = dialogue_id(dialogue)
    asked = questions_of(dialogue, template)
    return (Conversation(tuple(prompt), len(prompt), name) for prompt in asked)


def _writes_tools(dialogue: Dialogue, template: ChatTokenizer) -> bool:
    asked = dialogue.messages[:1]
    return bool(asked) and template.writes_tools(asked, dialogue.tools, dialogue.settings)


def _made_up(
    options: TrainOptions,
    verifier: Verifier,
    template: ChatTokenizer,
    account: Asked,
    progress: Count,
) -> Iterator[Conversation]:
    """Prompts that the verifier makes up itself."""
    data = options.data
    tell = partial(progress, "prompts")
    with verifier.generator(n_slots=data.at_once, n_ctx=data.max_length) as answerer:
        made = synthesize(
            answerer,
            template,
            data.synthesize,
            seed=options.fit.seed,
            progress=lambda done, _: tell(done, data.synthesize),
        )
    if len(made) < data.synthesize:
        account.notes.append(
            f"the verifier made up {len(made)} of {data.synthesize} user turns: it repeats itself"
        )
    for text in made:
        dialogue = Dialogue(messages=({"role": "user", "content": text},))
        yield from _texts_of(dialogue, template, as_is=False)


def _sifted(
    found: Iterable[Conversation], options: TrainOptions, sieve: Sieve
) -> Iterator[Conversation]:
    """Each prompt once, and only such as can be answered."""
    data, seen = options.data, set()
    room = data.max_length - data.max_tokens
    for text in found:
        sieve.found += 1
        if not text.prompt:
            sieve.leave("a prompt of no tokens")
        elif data.as_is and len(text.tokens) == text.start:
            sieve.leave("an empty answer")
        elif not data.as_is and text.start > room:
            sieve.leave(_too_long(options))
        elif text in seen:
            sieve.leave("a duplicate")
        else:
            seen.add(text)
            yield text


def _too_long(options: TrainOptions) -> str:
    return f"longer than {options.data.max_length - options.data.max_tokens} tokens"


def _warn_of_long(options: TrainOptions, sieve: Sieve) -> None:
    long = sieve.left_out.get(_too_long(options))
    if long is not None:
        warnings.warn(
            f"{long.count} of {sieve.found} prompts are {_too_long(options)} and left out: "
            "--max-length less --max-tokens is what a prompt may have",
            stacklevel=3,
        )


# ---- 2. texts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """What is trained on, what is held out, and what became of all others."""

    train: list[Conversation]
    held_out: list[Conversation]
    used: Used


def load_texts(options: TrainOptions, verifier: Verifier, work: Workspace) -> Texts:
    """The texts of the folder and of the user's files of tokens.

    Raises:
        DFlashError: there are too few for a batch.
    """
    used = Used()
    usable = list(_usable(options, work, used))
    decode = verifier.tokenizer(None).decode if usable else None
    together = texts.dialogue_groups(usable, decode)
    train, held_out = texts.split(usable, options.data.held_out, together)
    if len(train) < options.fit.batch_size:
        reasons = "".join(f"\n  - {line}" for line in used.texts.reasons("texts"))
        raise DFlashError(
            f"{len(train)} conversations to train on and {len(held_out)} held out; expected "
            f"{options.fit.batch_size} and 1 at least: give more prompts (these are of "
            f"{len(set(together))} dialogues, near-duplicates taken as one){reasons}"
        )
    aside = set(held_out)
    held = {group for text, group in zip(usable, together, strict=True) if text in aside}
    used.train, used.held_out = len(train), len(held_out)
    used.dialogues, used.held_out_dialogues = len(set(together)), len(held)
    return Texts(train, held_out, used)


def _usable(options: TrainOptions, work: Workspace, used: Used) -> Iterator[Conversation]:
    found: list[Conversation | Unanswered] = [*work.read_answers()]
    for path in options.data.tokens:
        found += texts.read_conversations(path)
    seen = set()
    for text in found:
        used.texts.found += 1
        if isinstance(text, Unanswered):
            used.texts.leave(text.reason)
            continue
        part = texts.cut(text, options.data.max_length)
        if part is None:
            used.texts.leave(_no_answer(text, options.data.max_length))
        elif part in seen:
            used.texts.leave("a duplicate")
        else:
            seen.add(part)
            used.cut += part is not text
            used.ended += text.ended is True and part is text
            used.at_limit += text.ended is False
            yield part


def _no_answer(text: Conversation, n_tokens: int) -> str:
    if text.start + 1 < n_tokens:
        return "an answer of one token, which has none that could be drafted"
    return f"a prompt that leaves no room for an answer in {n_tokens} tokens (--max-length)"
