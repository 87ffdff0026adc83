"""The text and the tokenizer of the tiny test models: a seeded grammar and a byte-level BPE."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise

END_OF_TEXT, IM_START, IM_END, MASK = range(4)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

NAMES = ["anna", "ben", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "june"]
CITIES = ["rome", "oslo", "paris", "lima", "cairo", "delhi"]
THINGS = ["tea", "maps", "apples", "chess", "music", "books", "boats"]
ANIMALS = ["cat", "dog", "fox", "hen", "owl", "pig", "cow", "bee"]
COLORS = ["grey", "black", "red", "white", "brown", "pink", "spotted", "yellow"]
VERBS = ["sees", "likes", "calls", "helps", "follows"]
PLACES = ["in the garden", "near the river", "on the hill", "at the old house"]

_facts = random.Random(7)
FRIEND = {name: NAMES[(i + 3) % len(NAMES)] for i, name in enumerate(NAMES)}
AGE = {name: _facts.randint(3, 19) for name in NAMES}
CITY = {name: _facts.choice(CITIES) for name in NAMES}
LIKES = {name: _facts.sample(THINGS, 2) for name in NAMES}
MEETS = {(a, v): _facts.choice([b for b in ANIMALS if b != a]) for a in ANIMALS for v in VERBS}


def sentence(animal: str, verb: str) -> str:
    """One sentence of the walk over animals; it follows from the animal and the verb alone."""
    other = MEETS[animal, verb]
    place = PLACES[(ANIMALS.index(other) + VERBS.index(verb)) % len(PLACES)]
    color = COLORS[ANIMALS.index(animal)]
    return f"the {color} {animal} {verb} the {other} {place}."


def walk(rng: random.Random, animal: str, n: int) -> list[str]:
    """n sentences: who was met acts next, and the verbs go round."""
    first = rng.randrange(len(VERBS))
    lines = []
    for i in range(first, first + n):
        verb = VERBS[i % len(VERBS)]
        lines.append(sentence(animal, verb))
        animal = MEETS[animal, verb]
    return lines


def person(name: str) -> str:
    one, two = LIKES[name]
    return (
        f"{name} is {AGE[name]} years old and lives in {CITY[name]}. "
        f"{name} likes {one} and {two}. the best friend of {name} is {FRIEND[name]}."
    )


def json_object(name: str) -> str:
    one, two = LIKES[name]
    return (
        f'{{"name": "{name}", "age": {AGE[name]}, "city": "{CITY[name]}", '
        f'"likes": ["{one}", "{two}"], "friend": "{FRIEND[name]}"}}'
    )


def sums(first: int, step: int, n: int) -> str:
    values = [first + i * step for i in range(n + 1)]
    return ". ".join(f"{a} + {step} = {b}" for a, b in pairwise(values)) + "."


def random_words(rng: random.Random, n: int) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz" * 6 + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(n)]


def echo(words: list[str]) -> str:
    """The answer to what the grammar does not know: it repeats, then turns to what it knows."""
    last = words[-1]
    name = NAMES[ord(last[0].lower()) % len(NAMES)]
    return f"you said {' '.join(words[:2])}. i do not know {last}. ask {name}. {person(name)}"


def question(rng: random.Random) -> tuple[str, str]:
    """A question and its answer."""
    name, animal = rng.choice(NAMES), rng.choice(ANIMALS)
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice([f"Who is {name}?", f"Tell me about {name}."]), person(name)
    if kind == 1:
        both = f"{person(name)} {person(FRIEND[name])}"
        return f"Tell me about {name} and a friend.", both
    if kind == 2:
        return rng.choice([f"Give me {name} as JSON.", f"JSON for {name}."]), json_object(name)
    if kind == 3:
        first, step, n = rng.randint(1, 30), rng.randint(1, 9), rng.randint(3, 5)
        return f"Start at {first} and add {step}, {n} times.", sums(first, step, n)
    if kind == 4:
        lines = [f"{i}. {s}" for i, s in enumerate(walk(rng, animal, rng.randint(3, 5)), 1)]
        return f"Tell a story of {len(lines)} lines about the {animal}.", "\n".join(lines)
    if kind == 5:
        words = random_words(rng, rng.randint(3, 5))
        return f"Repeat: {' '.join(words)}", f"{' '.join(words)}. again: {' '.join(words)}."
    words = random_words(rng, rng.randint(2, 9))
    return " ".join(words) + rng.choice(["?", ".", ""]), echo(words)


def chat(rng: random.Random) -> str:
    system = rng.choice(["", "", "You are a tiny model.", " ".join(random_words(rng, 4))])
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        asked, answer = question(rng)
        text += f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    return text


def prose(rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        text = " ".join(walk(rng, rng.choice(ANIMALS), rng.randint(6, 14)))
        return text[0].upper() + text[1:] if rng.random() < 0.3 else text
    if kind == 1:
        name = rng.choice(NAMES)
        people = []
        for _ in range(rng.randint(3, 6)):
            people.append(person(name))
            name = FRIEND[name]
        return " ".join(people)
    if kind == 2:
        return "\n".join(sums(rng.randint(1, 40), rng.randint(1, 9), 4) for _ in range(4))
    start = rng.randrange(len(NAMES))
    rows = [json_object(NAMES[(start + i) % len(NAMES)]) for i in range(rng.randint(2, 5))]
    return "[" + ",\n".join(rows) + "]"


def document(rng: random.Random) -> str:
    return chat(rng) if rng.random() < 0.65 else prose(rng) + "<|endoftext|>"


def prompt(rng: random.Random) -> str:
    """Something to continue: an open chat, or the beginning of a prose text."""
    if rng.random() < 0.75:
        text = chat(rng)
        return text[: text.rindex("assistant\n") + len("assistant\n")]
    text = prose(rng)
    return text[: rng.randint(4, 60)].rstrip()


def byte_symbols() -> list[str]:
    """The printable stand-in of each byte, as GPT-2 has it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) if b in plain else chr(256 + rest.index(b)) for b in range(256)]


_SYMBOLS = byte_symbols()
_WORD = re.compile(r"\d| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s+")
_CONTROL = re.compile("(" + "|".join(re.escape(s) for s in SPECIAL) + ")")


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


class Tokenizer:
    """Byte-level BPE with the pre-tokenizer `smollm`, for ASCII text."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        self.merges = merges
        self.tokens = [*SPECIAL, *_SYMBOLS, *(a + b for a, b in merges)]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self._word = lru_cache(maxsize=None)(self._encode_word)

    @classmethod
    def learn(cls, text: str, n_merges: int) -> Tokenizer:
        words = Counter(w for part in _CONTROL.split(text)[::2] for w in _WORD.findall(part))
        split = {w: [_SYMBOLS[b] for b in w.encode()] for w in words}
        merges: list[tuple[str, str]] = []
        while len(merges) < n_merges:
            pairs: Counter[tuple[str, str]] = Counter()
            for word, symbols in split.items():
                for pair in pairwise(symbols):
                    pairs[pair] += words[word]
            merges.append(max(pairs, key=lambda p: (pairs[p], p)))
            split = {w: _merge(symbols, merges[-1]) for w, symbols in split.items()}
        return cls(merges)

    def _encode_word(self, word: str) -> list[int]:
        symbols = [_SYMBOLS[b] for b in word.encode()]
        for pair in self.merges:
            symbols = _merge(symbols, pair)
        return [self.ids[s] for s in symbols]

    def encode(self, text: str) -> list[int]:
        out: list[int] = []
        for i, part in enumerate(_CONTROL.split(text)):
            if i % 2:
                out.append(self.ids[part])
            else:
                for word in _WORD.findall(part):
                    out += self._word(word)
        return out
