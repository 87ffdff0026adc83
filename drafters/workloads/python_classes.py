"""Prompts of a narrow workload: small Python classes from a name and a list of attributes.

    python drafters/workloads/python_classes.py 1500 > classes.jsonl

The same number gives the same prompts; fewer are the beginning of more.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator

_CLASSES = (
    "Account Actor Address Album Animal Apartment Article Athlete Author Battery Bicycle Book "
    "Booking Bottle Bridge Building Bus Cabin Camera Car Chair Chapter City Coach Comment "
    "Company Computer Concert Contact Course Customer Device Doctor Document Door Driver "
    "Employee Engine Event Exam Farm Festival Film Flight Flower Garden Guest Guitar Hotel "
    "House Image Invoice Island Journey Key Lake Lamp Lesson Letter Library Machine Magazine "
    "Meal Meeting Member Message Mountain Museum Note Order Package Painting Parcel Patient "
    "Payment Person Phone Planet Player Poem Product Project Question Receipt Recipe Report "
    "Restaurant River Robot Room School Sensor Server Ship Shop Singer Song Station Student "
    "Table Task Teacher Team Ticket Tool Town Toy Train Tree Truck User Vehicle Village "
    "Visitor Wallet Watch Window Worker"
).split()
_ATTRIBUTES = (
    "age amount area author brand capacity category city code color cost count country date "
    "depth description distance duration email end genre grade height id label language "
    "length level location material model name number owner phone position power price "
    "priority quantity rank rating room score size speed start state status street subject "
    "temperature time title total type unit value volume weight width year"
).split()
_FORMS = (
    "Write a Python class named {name} with the attributes {attributes}.",
    "Write a Python class named {name} with {attributes}, and a __str__ method.",
    "Write a Python dataclass named {name} with the fields {attributes}.",
)


def prompts() -> Iterator[str]:
    """Without end, none twice."""
    chance, seen = random.Random(1), set[str]()
    while True:
        attributes = chance.sample(_ATTRIBUTES, chance.randint(2, 5))
        prompt = chance.choice(_FORMS).format(
            name=chance.choice(_CLASSES),
            attributes=f"{', '.join(attributes[:-1])} and {attributes[-1]}",
        )
        if prompt not in seen:
            seen.add(prompt)
            yield prompt


def main(n: int) -> None:
    """Writes ``n`` of them as JSON lines."""
    for _, prompt in zip(range(n), prompts(), strict=False):
        print(json.dumps({"messages": [{"role": "user", "content": prompt}]}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500)
