"""Typed reading of config fields that collects every problem before anything fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dflash_local.errors import ModelError

INT32_MAX = 2**31 - 1
FLOAT32_MAX = 3.4e38
FLOAT32_MIN = 1.2e-38  # GGUF stores 32 bits: what is smaller would come out as 0


@dataclass
class Fields:
    """Named values of a config; what is wrong with them goes into ``problems``.

    A getter that finds a problem returns its default, or a harmless value of the right type, so
    that reading goes on and all problems are told at once.
    """

    values: Mapping[str, Any]
    problems: list[str]

    def get(self, name: str) -> Any:
        """The raw value; JSON's null counts as absent."""
        return self.values.get(name)

    def integer(
        self, name: str, default: int | None = None, *, low: int = 1, high: int = INT32_MAX
    ) -> int:
        """An integer in ``low..high``; without a default the field is required."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            self._report(name, value, f"an integer from {low} to {high}")
            return low
        return value

    def number(self, name: str, default: float | None = None, *, positive: bool = True) -> float:
        """A finite number; without a default the field is required."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        good = type(value) in (int, float) and abs(value) <= FLOAT32_MAX  # false for NaN
        if not good or (positive and value < FLOAT32_MIN):
            self._report(name, value, "a positive number" if positive else "a finite number")
            return 1.0
        return float(value)

    def optional_number(self, name: str, *, positive: bool = True) -> float | None:
        """A finite number, or None where the field is absent."""
        return None if self.get(name) is None else self.number(name, positive=positive)

    def flag(self, name: str, default: bool | None = None) -> bool | None:
        """true or false, or the default where the field is absent."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            self._report(name, value, "true or false")
            return default
        return default if value is None else value

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of distinct integers, or None where the field is absent."""
        value = self.get(name)
        if value is None:
            return None
        good = isinstance(value, list) and value and all(type(item) is int for item in value)
        if not good or len(set(value)) != len(value):
            self._report(name, value, "a list of distinct integers")
            return None
        return tuple(value)

    def section(self, name: str) -> dict[str, Any]:
        """A nested object without its nulls; empty where the field is absent."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            self._report(name, value, "an object")
            return {}
        return {key: item for key, item in (value or {}).items() if item is not None}

    def _report(self, name: str, value: Any, expected: str) -> None:
        found = "nothing" if value is None else repr(value)[:60]
        self.problems.append(f"`{name}`: found {found}, expected {expected}")


def raise_problems(subject: object, problems: Iterable[str]) -> None:
    """Raise one ModelError that lists every problem, or do nothing if there is none."""
    lines = list(problems)
    if lines:
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise ModelError("\n  - ".join([f"{subject}: {count}", *lines]))
