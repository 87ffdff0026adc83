"""What became of the user's data: every row, prompt and text is used, or counted with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from dflash_local.errors import DFlashError

_MOST_SHOWN = 20  # reasons


@dataclass
class LeftOut:
    """Of one reason.

    Attributes:
        count: of what was left out for it.
        where: the first of them is, "line 3"; empty where nobody can say.
    """

    count: int = 0
    where: str = ""


@dataclass
class Sieve:
    """How many of something there were, and why some of them were left out.

    Attributes:
        examples: the first that was left out for a reason, as it stands in the user's file; a
            report goes with the drafter, so they are shown and not kept.
    """

    found: int = 0
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def leave(self, reason: str, where: str = "", example: str = "") -> None:
        """One more is left out."""
        if reason not in self.left_out:
            self.left_out[reason] = LeftOut(where=where)
            self.examples[reason] = example
        self.left_out[reason].count += 1

    @property
    def n_left_out(self) -> int:
        """For whatever reason."""
        return sum(one.count for one in self.left_out.values())

    def reasons(self, what: str, *, examples: bool = False) -> Iterator[str]:
        """A line for each reason, the most frequent one first."""
        by_count = sorted(self.left_out.items(), key=lambda item: -item[1].count)
        for reason, one in by_count[:_MOST_SHOWN]:
            example = self.examples.get(reason, "") if examples else ""
            place = ": ".join(filter(None, (one.where, example)))
            yield f"{one.count} of {self.found} {what}: {reason}{place and f' ({place})'}"
        if len(by_count) > _MOST_SHOWN:
            yield f"and {len(by_count) - _MOST_SHOWN} more reasons"

    def check(self, source: object, most: float, what: str = "rows") -> None:
        """Raises DFlashError where more than a share of what a source gave was left out."""
        if self.n_left_out <= most * self.found:
            return
        listed = "".join(f"\n  - {line}" for line in self._refusals(what))
        raise DFlashError(
            f"{source}: {self.n_left_out} of {self.found} {what} cannot be used, more than "
            f"{100 * most:.4g} % (--most-refused):{listed}"
        )

    def _refusals(self, what: str) -> Iterator[str]:
        for reason, one in list(self.left_out.items())[:_MOST_SHOWN]:
            more = f"; {one.count} {what} in all" if one.count > 1 else ""
            example = self.examples.get(reason, "")
            yield f"{one.where}: {reason}{more}{example and f': {example}'}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        reasons = {reason: asdict(one) for reason, one in self.left_out.items()}
        return {"found": self.found, "left_out": reasons}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Sieve:
        """What ``to_json`` gave."""
        left_out = {reason: LeftOut(**one) for reason, one in values["left_out"].items()}
        return cls(values["found"], left_out)


@dataclass
class Asked:
    """Of the rows that were read, and of the prompts that they gave.

    Attributes:
        rows: of the file; of those that were left out, nothing was used.
        prompts: turns to be answered, or answered already (``--as-is``).
        notes: what else the user should know.
    """

    rows: Sieve = field(default_factory=Sieve)
    prompts: Sieve = field(default_factory=Sieve)
    notes: list[str] = field(default_factory=list)

    def lines(self, *, examples: bool = False) -> Iterator[str]:
        """To be read by the user."""
        if self.rows.found:
            used = self.rows.found - self.rows.n_left_out
            yield f"rows: {self.rows.found} read, {used} used"
        yield from self.rows.reasons("rows", examples=examples)
        if self.prompts.found:
            yield f"prompts: {self.prompts.found}, {self.prompts.n_left_out} left out"
        yield from self.prompts.reasons("prompts", examples=examples)
        yield from self.notes

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"rows": self.rows.to_json(), "prompts": self.prompts.to_json(), "notes": self.notes}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Asked:
        """What ``to_json`` gave."""
        rows, prompts = (Sieve.from_json(values[name]) for name in ("rows", "prompts"))
        return cls(rows, prompts, values["notes"])


@dataclass
class Used:
    """Of the texts that are trained on and of those held out.

    Attributes:
        texts: prompts with their answers.
        cut: of those used, longer than a text may be.
        ended: of those used, answers that came to their end.
        at_limit: answers that were cut at ``--max-tokens``; of all others nobody said it.
        train, held_out: texts.
        dialogues, held_out_dialogues: that they are of; near-duplicates count as one.
    """

    texts: Sieve = field(default_factory=Sieve)
    cut: int = 0
    ended: int = 0
    at_limit: int = 0
    train: int = 0
    held_out: int = 0
    dialogues: int = 0
    held_out_dialogues: int = 0

    def lines(self) -> Iterator[str]:
        """To be read by the user."""
        yield f"texts: {self.texts.found}, {self.texts.n_left_out} left out"
        yield from self.texts.reasons("texts")
        if self.cut:
            yield f"{self.cut} texts are cut at --max-length"
        if self.ended or self.at_limit:
            yield (
                f"answers: {self.ended} came to their end, {self.at_limit} ended at --max-tokens "
                "or at the end of the context"
            )
        yield (
            f"used: {self.train} texts to train on, {self.held_out} held out; "
            f"{self.held_out_dialogues} of {self.dialogues} dialogues are held out"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        counts = {name: value for name, value in vars(self).items() if name != "texts"}
        return {"texts": self.texts.to_json(), **counts}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Used:
        """What ``to_json`` gave."""
        return cls(**{**values, "texts": Sieve.from_json(values["texts"])})


def lines_of(asked: dict[str, Any] | None, used: dict[str, Any]) -> list[str]:
    """Both accounts, as a report has them, in words."""
    told = [] if asked is None else list(Asked.from_json(asked).lines())
    return [*told, *Used.from_json(used).lines()]
