"""The keys of a fork's drafter as upstream has them: names, types, and what has to be settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gguf import GGUFValueType

from dflash_local.files.key_table import ARCHITECTURE, KEYS, KeyRow
from dflash_local.files.layer_ids import layer_inputs, published_ids

from ..layouts.attention import ATTENTION
from ..reading.fields import FLOAT32_MAX, INT32_MAX
from ..verifiers.verifier import Verifier
from ..writing.keys import MASK_TOKEN_KEY, Key, of_table, u32
from .dialects import PUBLISHED_LAYERS_KEY, TARGET_LAYERS_KEY, ForkDrafter

CAUSAL_KEY = KEYS["attention.causal"].key
WINDOW_KEY = KEYS["attention.sliding_window"].key
PATTERN_KEY = KEYS["attention.sliding_window_pattern"].key
SECTIONS_KEY = KEYS["rope.dimension_sections"].key


@dataclass(frozen=True)
class Choices:
    """What the user says where a file is silent.

    Attributes:
        mask_token: id of the mask token.
        target_layer_ids: as published: layers whose outputs are read.
        attention: inside a block: "causal" or "bidirectional".
    """

    mask_token: int | None = None
    target_layer_ids: tuple[int, ...] | None = None
    attention: str | None = None


def migrated_keys_of(
    drafter: ForkDrafter, choices: Choices, verifier: Verifier | None, problems: list[str]
) -> list[Key]:
    """Every ``dflash.*`` key of the new file and its mask token; what is open is a problem."""
    sliding = _sliding_layers(drafter, problems)
    settled = {MASK_TOKEN_KEY, PUBLISHED_LAYERS_KEY, TARGET_LAYERS_KEY, CAUSAL_KEY}
    if not any(sliding):
        settled |= {WINDOW_KEY, PATTERN_KEY}  # libllama wants no window without layers
    keys = [
        key
        for name in drafter.keys
        if name.startswith("dflash.") and name not in settled
        if (key := _typed(name, drafter, problems)) is not None
    ]
    return [
        *keys,
        *_causal(drafter, sliding, choices, problems),
        *_sections(drafter, verifier),
        *_target_layers(drafter, choices, problems),
        *_mask_token(drafter, choices, verifier, problems),
    ]


def _typed(name: str, drafter: ForkDrafter, problems: list[str]) -> Key | None:
    row = KEYS[name.removeprefix(f"{ARCHITECTURE}.")]
    value = drafter.get(name)
    try:
        return of_table(row.name, _converted(value, row))
    except ValueError:
        found = f"{value!r:.60}"
        problems.append(f"key {drafter.keys[name]}: found {found}, which is no value for it")
        return None


def _converted(value: Any, row: KeyRow) -> Any:
    """The value in the type of the row: forks write F64 for F32, or numbers for flags, and libllama
    refuses a key of another type.

    Raises:
        ValueError: it cannot be one.
    """
    can_be, made = _TYPES[row.item or row.type]
    items = [value] if row.item is None else value
    if not isinstance(items, list) or not all(map(can_be, items)):
        raise ValueError
    found = [made(item) for item in items]
    return found[0] if row.item is None else found


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= FLOAT32_MAX


def _is_int32(value: Any) -> bool:
    return type(value) is int and abs(value) <= INT32_MAX


#: What can be a value of a type, and how it is made one.
_TYPES: dict[GGUFValueType, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    GGUFValueType.BOOL: (lambda value: value in (0, 1), bool),
    GGUFValueType.STRING: (lambda value: isinstance(value, str), str),
    GGUFValueType.INT32: (_is_int32, int),
    GGUFValueType.FLOAT32: (_is_number, float),
    GGUFValueType.UINT32: (lambda value: type(value) is int and 0 <= value < 2**32, int),
}


def _causal(
    drafter: ForkDrafter, sliding: list[bool], choices: Choices, problems: list[str]
) -> Iterable[Key]:
    stated = drafter.get(CAUSAL_KEY)
    if choices.attention is not None:
        if choices.attention in ATTENTION:
            return [of_table("attention.causal", ATTENTION[choices.attention])]
        expected = ", ".join(ATTENTION)
        problems.append(f"attention: found {choices.attention!r}, expected one of {expected}")
    elif stated in (1, True) or (drafter.is_upstream and stated is not None):
        return [of_table("attention.causal", bool(stated))]
    elif not drafter.is_upstream and sliding and all(sliding):
        return [of_table("attention.causal", True)]
    elif not drafter.is_upstream and any(sliding):
        layers = [layer for layer, flag in enumerate(sliding) if flag]
        problems.append(
            f"the fork's graph is causal inside a block in the sliding layers {layers} and "
            "bidirectional in the others, libllama has one setting for all: choose `--attention "
            "causal` or `--attention bidirectional`, and compare the acceptance lengths"
        )
    return []


def _sliding_layers(drafter: ForkDrafter, problems: list[str]) -> list[bool]:
    if not drafter.get(WINDOW_KEY):
        return []
    pattern = drafter.get(PATTERN_KEY)
    n_layer = drafter.get("dflash.block_count")
    if isinstance(pattern, list) and len(pattern) == n_layer:
        return [bool(flag) for flag in pattern]
    problems.append(
        f"a sliding window, but {PATTERN_KEY} is {pattern!r:.40}: expected a flag for each of the "
        f"{n_layer} layers. Convert the original checkpoint"
    )
    return []


def _sections(drafter: ForkDrafter, verifier: Verifier | None) -> list[Key]:
    if SECTIONS_KEY in drafter.keys or verifier is None or not verifier.mrope:
        return []
    n_embd = drafter.integer("dflash.embedding_length") or 0
    n_head = drafter.integer("dflash.attention.head_count") or 1
    head_dim = drafter.integer("dflash.attention.key_length") or n_embd // n_head
    return [of_table("rope.dimension_sections", [head_dim // 2, 0, 0, 0])]


def _target_layers(drafter: ForkDrafter, choices: Choices, problems: list[str]) -> list[Key]:
    layers = drafter.target_layers
    if choices.target_layer_ids is not None:
        chosen = tuple(layer_inputs(choices.target_layer_ids))
        if layers not in (None, chosen):
            problems.append(
                f"target layer ids {list(choices.target_layer_ids)}: the file says "
                f"{published_ids(layers or ())}"
            )
        layers = chosen
    if layers is None:
        problems.append(_open_layers(drafter))
        return []
    if not all(map(_is_int32, layers)):
        problems.append(f"target layers {list(layers)!r:.60}: expected numbers of layers")
        return []
    return [of_table("target_layers", list(layers))]


def _open_layers(drafter: ForkDrafter) -> str:
    listed = drafter.get(PUBLISHED_LAYERS_KEY)
    found = "nothing says which layers of the verifier it reads"
    if listed is not None:
        found = (
            f"{drafter.keys[PUBLISHED_LAYERS_KEY]} is {listed!r:.60}, in this dialect inputs of "
            "layers to some and outputs to others"
        )
    return (
        f"{found}: say `--target-layer-ids` with `target_layer_ids` of the original checkpoint's "
        "config.json"
    )


def _mask_token(
    drafter: ForkDrafter, choices: Choices, verifier: Verifier | None, problems: list[str]
) -> list[Key]:
    stated = drafter.integer(MASK_TOKEN_KEY)
    mask = stated if choices.mask_token is None else choices.mask_token
    if mask is None:
        problems.append(
            "nothing says which token is its mask: say `--mask-token` with `mask_token_id` of the "
            "original checkpoint's config.json"
        )
        return []
    if stated not in (None, mask):
        problems.append(f"mask token {mask}: the file says {stated}")
    n_rows = verifier.n_rows if verifier is not None else len(drafter.tokens)
    if n_rows and not 0 <= mask < n_rows:
        problems.append(f"mask token {mask}: expected an id below {n_rows}")
        return []
    return [u32(MASK_TOKEN_KEY, mask)]
