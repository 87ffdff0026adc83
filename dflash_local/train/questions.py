"""What the verifier is asked: the user's prompts, or such as it makes up itself."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from dflash_local.errors import DFlashError
from dflash_local.rows.dialogue import Dialogue, read_dialogue
from dflash_local.rows.messages import Message
from dflash_local.rows.reader import Row, read_rows

from .account import Sieve
from .answerer import Question, Sampling
from .conversations import Conversation
from .options import Data
from .verifiers.verifier import ChatTokenizer, Generator, Progress

_USER_TOKENS = 160  # of a made-up user turn
_PLAIN = {"role", "content"}


def read_prompts(path: Path, most_refused: float = Data.most_refused) -> list[Dialogue]:
    """The dialogues of a file, see ``read_rows`` and ``read_dialogue``; or lines of plain text.

    Raises:
        DFlashError: it cannot be read, holds none, or has more rows than that share that cannot be
            used; says why.
    """
    rows = Sieve()
    found = [dialogue for _, dialogue in read_dialogues(path, rows)]
    rows.check(path, most_refused)
    return found


def read_dialogues(path: Path, rows: Sieve) -> Iterator[tuple[Row, Dialogue]]:
    """The rows of a file that can be used; ``rows`` says in the end what became of the others.

    Raises:
        DFlashError: the file cannot be read, or holds nothing.
    """
    for row in read_rows(path, plain=True):
        rows.found += 1
        try:
            if row.problem:
                raise ValueError(row.problem)
            yield row, read_dialogue(row.value)
        except ValueError as error:
            rows.leave(str(error), row.where, row.excerpt)
    if not rows.found:
        raise DFlashError(f"{path}: not a file of prompts: there is no prompt in it")


def dialogue_id(dialogue: Dialogue) -> str:
    """Tells a dialogue from others by what is said in it."""
    said = repr((dialogue.messages, dialogue.text, dialogue.tools, dialogue.settings))
    return sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def questions_of(asked: Dialogue, template: ChatTokenizer) -> Iterator[list[int]]:
    """Prompts to be answered: of a conversation, one for each turn of the assistant's.

    What the assistant said before stays as it is.

    Raises:
        PromptError: the template cannot write it.
    """
    if asked.text:
        yield template.text(asked.text)
        return
    turns = list(_answers(asked.messages))
    if asked.messages[-1]["role"] != "assistant":
        turns.append(len(asked.messages))
    for turn in turns:
        yield template.prompt(asked.messages[:turn], asked.tools, asked.settings)


def as_they_are(asked: Dialogue, template: ChatTokenizer) -> Iterator[Conversation]:
    """Every turn of the assistant's, with its own answer; the answer of a text, if it has one.

    Raises:
        PromptError: the template cannot write it.
    """
    name = dialogue_id(asked)
    if asked.text and asked.answer:
        prompt = template.text(asked.text)
        answer = [*template.answer(asked.answer, ended=False), template.text_end]
        yield Conversation((*prompt, *answer), len(prompt), name, ended=True)
    for turn in _answers(asked.messages):
        prompt = template.prompt(asked.messages[:turn], asked.tools, asked.settings)
        answer = _answer(asked, turn, template)
        yield Conversation((*prompt, *answer), len(prompt), name, ended=True)


def _answers(messages: tuple[Message, ...]) -> Iterator[int]:
    """Where the assistant's turns are that answer something."""
    return (i for i, message in enumerate(messages) if i and message["role"] == "assistant")


def _answer(asked: Dialogue, turn: int, template: ChatTokenizer) -> list[int]:
    """The tokens of an answer; empty where it says nothing.

    The template writes calls of tools, and whatever else is more than a text.
    """
    message = asked.messages[turn]
    if not message.keys() <= _PLAIN:
        return template.turn(asked.messages[: turn + 1], asked.tools, asked.settings)
    text = message["content"]
    return template.answer(text, ended=True) if text.strip() else []


def synthesize(
    answerer: Generator,
    template: ChatTokenizer,
    n: int,
    *,
    seed: int,
    progress: Progress = lambda *_: None,
) -> list[str]:
    """User turns that the verifier makes up, each once; fewer than n where it repeats itself."""
    header = template.user_header()
    seen: dict[str, None] = {}
    for attempt in range(4):
        missing = n - len(seen)
        questions = [
            Question(
                header,
                Sampling(temperature=1.0, seed=seed + 1_000_003 * attempt + i),
                _USER_TOKENS,
            )
            for i in range(missing)
        ]
        for tokens in answerer.answer(questions, progress):
            text = template.decode(tokens).strip()
            if text:
                seen.setdefault(text)
        if len(seen) >= n:
            break
    return list(seen)[:n]
