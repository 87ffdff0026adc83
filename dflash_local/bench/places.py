"""The speed-up by place in the answer: what a long answer costs more at its end shows nowhere else.

An answer counts at the places that it reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .measures import Spread, pairs, spread
from .record import PLAIN, Answer


@dataclass(frozen=True)
class Place:
    """The tokens ``first`` .. ``end - 1`` of an answer."""

    first: int
    end: int

    def __str__(self) -> str:
        return f"{self.first} to {self.end}"


PLACES = (Place(0, 128), Place(500, 700), Place(1300, 1500))
#: Tokens of an answer that reaches all of them.
LONG = PLACES[-1].end


@dataclass(frozen=True)
class AtPlace:
    """One mode of one call, at one place.

    Attributes:
        tokens_per_second: spread over the answers that reach it.
        speed_up: over plain decoding, spread over the pairs; None of plain decoding itself.
    """

    call: str
    mode: str
    first: int
    end: int
    tokens_per_second: Spread
    speed_up: Spread | None


def speed_at(answer: Answer, place: Place) -> float | None:
    """Tokens a second there; None where the answer is shorter. The first token is the prompt's."""
    first = max(1, place.first)
    if answer.n_tokens < place.end:
        return None
    seconds = answer.times[place.end - 1] - answer.times[first - 1]
    return (place.end - first) / seconds if seconds > 0 else None


def by_place(
    answers: Sequence[Answer], modes: Sequence[str], places: Sequence[Place] = PLACES
) -> list[AtPlace]:
    """What is known of each call, mode and place; nothing where no answer is long enough."""
    found = []
    for call in dict.fromkeys(answer.call for answer in answers):
        among = [answer for answer in answers if answer.call == call]
        for mode in modes:
            found += [at for place in places for at in _at(among, call, mode, place)]
    return found


def _at(answers: Sequence[Answer], call: str, mode: str, place: Place) -> Iterator[AtPlace]:
    speeds = spread(filter(None, (speed_at(a, place) for a in answers if a.mode == mode)))
    if speeds is None:
        return
    gains = spread(_gains(answers, mode, place))
    if mode == PLAIN or gains is not None:
        gains = None if mode == PLAIN else gains
        yield AtPlace(call, mode, place.first, place.end, speeds, gains)


def _gains(answers: Sequence[Answer], mode: str, place: Place) -> Iterator[float]:
    for before, after in pairs(answers, mode):
        slow, fast = speed_at(before, place), speed_at(after, place)
        if slow and fast:
            yield fast / slow
