"""The folder of a training: what is done already is found there and not done again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dflash_local.errors import DFlashError
from dflash_local.whole_files import write_whole

from .account import Asked
from .conversations import Conversation, Unanswered, parse, to_line
from .options import TrainOptions
from .verifiers.verifier import Verifier

# Options that may change between two runs in one folder.
_FREE = ("out", "threads", "gpu_layers", "cache_gb", "outtype", "draft_vocab", "force", "gguf")


@dataclass(frozen=True)
class Prompt:
    """What is to be answered, as tokens; ``dialogue``: that it is a turn of."""

    tokens: tuple[int, ...]
    dialogue: str = ""


class Workspace:
    """``OUT/work``: prompts, conversations, readings and the state of the fit.

    Raises:
        DFlashError: the folder is of a training with other settings.
    """

    def __init__(self, options: TrainOptions, verifier: Verifier) -> None:
        self.out = options.out
        self.folder = options.out / "work"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prompts = self.folder / "prompts.jsonl"
        self.conversations = self.folder / "conversations.jsonl"
        self.account = self.folder / "account.json"
        self.readings = self.folder / "readings"
        # The folder's name becomes the GGUF's.
        self.export = self.folder / "export" / options.out.resolve().name
        self.simulation = self.folder / "simulation.json"
        settings = _settings(options, verifier)
        _check_settings(self.folder / "settings.json", settings)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs out of the folder.

        Raises:
            DFlashError: one is in it.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise DFlashError(
                f"{self.folder}: another training is at work here: wait for it, stop it, or choose "
                "another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def write_lines(self, path: Path, lines: Iterable[str]) -> None:
        """A file that is whole or not there."""
        write_whole(path, "".join(lines), alone=True)

    def write_prompts(self, prompts: Iterable[Prompt]) -> None:
        """The prompts, which say by being there that this step is done."""
        rows = ({"tokens": one.tokens, "dialogue": one.dialogue} for one in prompts)
        self.write_lines(self.prompts, (json.dumps(row) + "\n" for row in rows))

    def read_prompts(self) -> list[Prompt]:
        """Prompts as tokens, in the order they are answered."""
        return [_prompt(json.loads(line)) for line in self.prompts.open(encoding="utf-8")]

    def write_account(self, account: Asked) -> None:
        """What became of the user's rows."""
        self.write_lines(self.account, [json.dumps(account.to_json(), indent=1) + "\n"])

    def read_account(self) -> Asked | None:
        """None where it is of a time before there were any."""
        if not self.account.is_file():
            return None
        return Asked.from_json(json.loads(self.account.read_text("utf-8")))

    def read_conversations(self) -> list[Conversation]:
        """Prompts with their answers."""
        return [text for text in self.read_answers() if isinstance(text, Conversation)]

    def read_answers(self) -> list[Conversation | Unanswered]:
        """All that are whole: a line that an interruption cut off is left out."""
        return list(parse(self.conversations, self._whole_lines()))

    def keep_answers(self, n: int) -> None:
        """Cuts off what stands behind the first ``n``."""
        if not self.conversations.is_file():
            return
        with self.conversations.open("r+b") as file:
            file.truncate(sum(len(line) for line in islice(file, n)))

    def keep_whole_answers(self) -> set[int]:
        """Cuts off what an interruption left; the numbers of the prompts that have an answer."""
        lines = self._whole_lines()
        self.keep_answers(len(lines))
        return {int(json.loads(line)["prompt"]) for line in lines}

    def sort_answers(self) -> None:
        """Puts answers that came in another order in that of the prompts."""
        lines = sorted(self._whole_lines(), key=lambda line: int(json.loads(line)["prompt"]))
        self.write_lines(self.conversations, (f"{line}\n" for line in lines))

    def append(
        self, answers: Iterable[Conversation | Unanswered], prompt: int | None = None
    ) -> None:
        """Adds answers; an interruption may leave a part of them.

        Args:
            prompt: the number of what was asked, where they come in another order.
        """
        with self.conversations.open("ab") as file:
            file.write("".join(to_line(answer, prompt) for answer in answers).encode())

    def _whole_lines(self) -> list[str]:
        if not self.conversations.is_file():
            return []
        *whole, _torn = self.conversations.read_text("utf-8").split("\n")
        return whole


def _prompt(row: Any) -> Prompt:
    """Of a line; a list of tokens is one that nobody knows the dialogue of."""
    if isinstance(row, list):
        return Prompt(tuple(row))
    return Prompt(tuple(row["tokens"]), row["dialogue"])


def _settings(options: TrainOptions, verifier: Verifier) -> dict[str, Any]:
    """What must not change between two runs in one folder."""
    named: dict[str, Any] = asdict(options)
    for free in _FREE:
        del named[free]
    del named["fit"]["steps"], named["fit"]["patience"], named["data"]["most_refused"]
    named["verifier"] = verifier.identity.fingerprint
    plain: dict[str, Any] = json.loads(json.dumps(named, default=_content))
    return plain


def _content(value: object) -> str:
    """Stands for a file of the user's, or a drafter's folder: whatever is in it counts."""
    if not isinstance(value, Path):
        raise TypeError(f"{value!r} has no JSON form")
    digest = sha256()
    for path in [value] if value.is_file() else _drafter_files(value):
        digest.update(f"{path.name if value.is_dir() else ''} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _drafter_files(folder: Path) -> list[Path]:
    return sorted(p for pattern in ("*.json", "*.safetensors") for p in folder.glob(pattern))


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    made = {file.name for file in path.parent.iterdir()} - {path.name, ".lock"}
    if not made or not path.is_file():  # nothing that other settings would not fit
        write_whole(path, json.dumps(settings, indent=1) + "\n", alone=True)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = list(_differences(before, settings))
    if changed:
        lines = "".join(f"\n  - {line}" for line in changed)
        raise DFlashError(
            f"{path.parent} is of a training with other settings:{lines}\n"
            "Go on with the same ones, or choose another --out"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{name} {key}".strip())
    elif before != now:
        yield f"{name}: {before!r} then, {now!r} now"
