"""A fork's drafter GGUF as upstream's: ``migrate()``. Weights are copied as they are stored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dflash_local.errors import DFlashError, ModelError
from dflash_local.files.drafter_file import read_drafter
from dflash_local.files.gguf_header import GGUFHeader
from dflash_local.files.pairing import pair_problems
from dflash_local.files.token_lists import (
    TokenList,
    differences,
    shown,
    token_types,
)
from dflash_local.whole_files import whole_file

from ..reading.fields import raise_problems
from ..reading.gguf_tensors import row_pieces, stored_rows, tensor_type
from ..reading.paths import expanded
from ..reading.safetensors_file import Array
from ..verifiers.pair_files import verifier_info
from ..verifiers.verifier import Verifier, read_verifier
from ..writing.keys import MASK_TOKEN_KEY, Key, string
from ..writing.writer import OutputTensor, Progress, write_gguf
from .dialects import ForkDrafter, as_upstream, is_drafter
from .migrated_keys import SECTIONS_KEY, Choices, migrated_keys_of

ORIGIN_KEY = "dflash_local.migrated_from"
# Written anew, or true of the old file only.
_LEFT_OUT = frozenset(["general.alignment", MASK_TOKEN_KEY, ORIGIN_KEY])

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class MigrateReport:
    """What a migration wrote.

    Attributes:
        architecture: of the old file.
        changes: what is different now, one sentence each.
        warnings: what the user should know, one sentence each.
    """

    output: Path
    architecture: str
    n_tensors: int
    n_bytes: int
    changes: tuple[str, ...]
    warnings: tuple[str, ...]


def migrate(
    old: StrPath,
    output: StrPath,
    verifier: StrPath | None = None,
    *,
    mask_token: int | None = None,
    target_layer_ids: Sequence[int] | None = None,
    attention: str | None = None,
    progress: Progress | None = None,
) -> MigrateReport:
    """Write a drafter's GGUF of a fork's dialect again, as llama.cpp and dflash-local read it.

    Args:
        old: of architecture ``dflash-draft``, ``<family>-dflash-draft``, or an old ``dflash``.
        output: file to write, or a folder for it; an existing file is replaced.
        verifier: its GGUF: gives the tokenizer and tells whether rope sections are needed.
        mask_token: where the file does not say it: ``mask_token_id`` of the original config.json.
        target_layer_ids: where the file leaves that open: those of the original config.json.
        attention: "causal" or "bidirectional", where the fork's graph mixes both.
        progress: called with the bytes written and in all.

    Raises:
        ModelError: it cannot be migrated; every reason is listed. Nothing is left behind.
        DFlashError: nothing to do, or the output would replace what is being read.
    """
    drafter = _open(expanded(old))
    target = None if verifier is None else read_verifier(verifier)
    ids = None if target_layer_ids is None else tuple(target_layer_ids)
    choices = Choices(mask_token, ids, attention)
    problems = [*_name_problems(drafter), *_tensor_problems(drafter, target)]
    keys = migrated_keys_of(drafter, choices, target, problems)
    tokenizer = _tokenizer(drafter, keys, target, problems)
    raise_problems(f"{drafter.header.path} cannot be migrated", problems)
    changes = _changes(drafter, keys, target)
    path = _output_path(drafter.header.path, target, output)
    tensors = [_tensor(drafter, name) for name in drafter.tensors]
    keys.append(string(ORIGIN_KEY, drafter.architecture))
    _write_checked(path, keys, _other_keys(drafter) | tokenizer, tensors, target, progress)
    return MigrateReport(
        output=path,
        architecture=drafter.architecture,
        n_tensors=len(tensors),
        n_bytes=path.stat().st_size,
        changes=tuple(changes),
        warnings=tuple(_warnings(drafter, target)),
    )


def _open(path: Path) -> ForkDrafter:
    header = GGUFHeader(path)
    architecture = header.get("general.architecture")
    if not is_drafter(architecture):
        raise ModelError(
            f"{path}: found architecture {architecture!r}, expected a DFlash drafter's (dflash, or "
            "a fork's dflash-draft)"
        )
    return as_upstream(header)


def _name_problems(drafter: ForkDrafter) -> Iterator[str]:
    yield from drafter.problems
    for name in drafter.unknown_keys:
        yield f"key {name} = {drafter.header.get(name)!r:.40}: upstream's graph has nothing like it"
    for name in drafter.unknown_tensors:
        yield f"tensor {name}: upstream's graph has nothing like it"
    if drafter.header.get("split.count", 1) not in (0, 1):
        yield "one part of a split file: merge it first (llama-gguf-split --merge)"


def _tensor_problems(drafter: ForkDrafter, verifier: Verifier | None) -> Iterator[str]:
    for tensor in drafter.tensors.values():
        if tensor_type(tensor) is None:
            yield (
                f"tensor {tensor.name}: type {tensor.type} is a fork's own; take the file in "
                "another quantisation"
            )
    if "token_embd.weight" in drafter.tensors and "output.weight" not in drafter.tensors:
        if verifier is None:
            yield "token_embd.weight without output.weight: name the verifier with --verifier"
        elif verifier.has_head is not False:
            yield (
                "token_embd.weight without output.weight: libllama would take the embedding as "
                "head, but the verifier's head is another. Convert the original checkpoint"
            )
    if "rope_freqs.weight" in drafter.tensors and verifier is not None and verifier.mrope:
        yield "rope_freqs.weight: libllama's dflash graph ignores it with this M-RoPE verifier"


def _tokenizer(
    drafter: ForkDrafter, keys: list[Key], verifier: Verifier | None, problems: list[str]
) -> dict[str, bytes]:
    """The verifier's tokenizer as stored, else the file's own."""
    ours = drafter.tokens
    if verifier is None:
        if not ours:
            problems.append("no tokenizer: name the verifier's GGUF with --verifier")
        header = drafter.header
        return {name: header.raw(name) for name in header if _is_tokenizer(name)}
    if ours:
        masks = [key.value for key in keys if key.name == MASK_TOKEN_KEY]
        own = TokenList(ours, token_types(drafter.header))
        problems += _token_problems(own, verifier_info(verifier).vocabulary, masks)
    return {name: data for name, data in verifier.tokenizer.items() if name not in _LEFT_OUT}


def _token_problems(ours: TokenList, theirs: TokenList, masks: list[int]) -> Iterator[str]:
    sizes = len(ours.texts), len(theirs.texts)
    if sizes[0] != sizes[1]:
        yield f"vocabulary: the drafter has {sizes[0]} tokens, the verifier {sizes[1]}"
        return
    different = differences(ours, theirs, masks).text
    if different:
        first = shown(ours, theirs, different[0])
        yield f"vocabulary: {len(different)} tokens differ, the first is {first}"


def _is_tokenizer(name: str) -> bool:
    return name.startswith("tokenizer.") and name not in _LEFT_OUT


def _other_keys(drafter: ForkDrafter) -> dict[str, bytes]:
    names = [name for name, ours in drafter.keys.items() if name == ours]
    kept = (name for name in names if not name.startswith(("dflash.", "tokenizer.", "split.")))
    return {name: drafter.header.raw(name) for name in kept if name not in _LEFT_OUT}


def _tensor(drafter: ForkDrafter, name: str) -> OutputTensor:
    tensor = drafter.tensors[name]
    kind = tensor_type(tensor)
    assert kind is not None  # a problem told before
    rows: partial[Iterable[Array]] = partial(_pieces, drafter.header, tensor.name)
    return OutputTensor(name, tensor.shape[::-1], kind, rows)


def _pieces(header: GGUFHeader, name: str) -> Iterable[Array]:
    return row_pieces(stored_rows(header, name))


def _changes(drafter: ForkDrafter, keys: list[Key], verifier: Verifier | None) -> list[str]:
    changes = []
    if not drafter.is_upstream:
        changes.append(f"architecture {drafter.architecture!r} is 'dflash' now")
    renamed = [name for name, tensor in drafter.tensors.items() if name != tensor.name]
    names = {key.name for key in keys}
    moved = [name for name in names & drafter.keys.keys() if drafter.keys[name] != name]
    added = sorted(names - drafter.keys.keys())
    if moved:
        changes.append(f"keys renamed: {len(moved)}")
    if renamed:
        changes.append(f"tensors renamed: {len(renamed)}")
    if added:
        changes.append(f"added: {', '.join(added)}")
    if verifier is not None and not drafter.tokens:
        changes.append(f"tokenizer of {verifier.path.name}")
    if not changes:
        raise DFlashError(f"{drafter.header.path}: nothing to migrate, it is as upstream has it")
    return changes


def _warnings(drafter: ForkDrafter, verifier: Verifier | None) -> Iterator[str]:
    if verifier is None and SECTIONS_KEY not in drafter.keys:
        yield (
            "no rope sections: if the verifier uses M-RoPE (most models that see images do), name "
            "it with --verifier"
        )


def _output_path(old: Path, verifier: Verifier | None, output: StrPath) -> Path:
    path = expanded(output).absolute()
    if path.is_dir():
        path = path / old.name
    if not path.parent.is_dir():
        raise DFlashError(f"the folder {path.parent} does not exist: make it, or choose another -o")
    for file in (old, *(verifier.files if verifier else ())):
        if path.exists() and path.samefile(file):
            raise DFlashError(f"{path} is an input of this migration: choose another -o")
    return path


def _write_checked(
    path: Path,
    keys: list[Key],
    raw_keys: dict[str, bytes],
    tensors: list[OutputTensor],
    verifier: Verifier | None,
    progress: Progress | None,
) -> None:
    """Write the file under another name, and give it its own only if it can draft."""
    with whole_file(path) as part:
        try:
            write_gguf(part, keys, raw_keys, tensors, progress)
            info = read_drafter(part)
            if verifier is not None:
                raise_problems(path.name, pair_problems(info, verifier_info(verifier)))
        except ModelError as error:
            raise ModelError(str(error).replace(str(part), str(path))) from None
