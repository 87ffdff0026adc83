"""The conversion itself: read, check, match, write."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dflash_local.errors import DFlashError

from .generated import generated_tensors, patched_rows
from .layouts import registry as layouts
from .layouts.attention import choose
from .layouts.drafter import DrafterConfig
from .layouts.names import Match, match
from .layouts.vocabulary import draft_id_problems
from .metadata import general_keys
from .reading.fields import raise_problems
from .reading.paths import expanded
from .reading.source import Source, open_source
from .verifiers.find import find_verifier
from .verifiers.pair import pair_problems, uses_mrope
from .verifiers.verifier import Verifier, read_verifier
from .vocabularies.draft_vocab import reduce_vocabulary, vocabulary_choice
from .writing import encode
from .writing.keys import MASK_TOKEN_KEY, Key, drafter_keys, u32
from .writing.writer import OutputTensor, Progress, write_gguf

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion wrote.

    Attributes:
        output: the GGUF file.
        outtype: as asked for; single tensors may differ, see ``warnings``.
        verifier: the GGUF the tokenizer came from.
        n_tensors: tensors in the file.
        n_bytes: size of the file.
        warnings: what the user should know, one sentence each.
        coverage: share of the tokens counted that a smaller draft vocabulary keeps; None where the
            vocabulary is as published.
    """

    output: Path
    outtype: str
    verifier: Path
    n_tensors: int
    n_bytes: int
    warnings: tuple[str, ...]
    coverage: float | None = None


def convert(
    source: StrPath,
    verifier: StrPath | None = None,
    output: StrPath | None = None,
    *,
    revision: str | None = None,
    outtype: str = encode.DEFAULT_OUT_TYPE,
    attention: str | None = None,
    draft_vocab: int | None = None,
    frequencies: StrPath | None = None,
    corpus: StrPath | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Convert a trained drafter to GGUF.

    Args:
        source: a folder with config.json and safetensors, the safetensors file in it, or a
            Hugging Face id: downloaded, or from the cache.
        verifier: the verifier's GGUF; None searches the folder, then the Hugging Face cache.
        output: file to write, or a folder for it; None is ``<folder>-<outtype>.gguf`` in the
            checkpoint's folder, for a Hugging Face id in the working folder. An existing file is
            replaced.
        revision: branch, tag or commit of a Hugging Face id; None is its main branch.
        outtype: type of the matrices, one of `encode.OUT_TYPES`. Vectors stay F32.
        attention: "causal" or "bidirectional" inside a block, for drafters trained with both, of
            which libllama runs one; None goes by the checkpoint, and such a mixture is an error.
        draft_vocab: tokens the drafter can propose: those that end an answer and the most frequent
            ones, by ``frequencies`` or ``corpus``. None keeps its vocabulary as it is.
        frequencies: file of token ids and their counts, see ``frequencies.read_frequencies``.
        corpus: file of text like the verifier's answers, see ``corpus``.
        progress: called with the bytes written and in all; while a corpus is counted with those
            read.

    Raises:
        ModelError: the checkpoint or the verifier is wrong, or they do not fit; every problem
            found is listed. Nothing is left behind.
        DFlashError: the output would replace what is being read, or its folder does not exist.
        OSError: the output cannot be written.
    """
    wanted = encode.out_type(outtype)
    choice = vocabulary_choice(draft_vocab, frequencies, corpus)
    checkpoint = open_source(source, revision)
    layout = layouts.detect(checkpoint)
    config, problems = choose(layout.parse_config(checkpoint), attention)
    matches, misfits = match(checkpoint, layout.expected_tensors(config, checkpoint))
    problems += [*misfits, *(checkpoint.warnings if misfits else ())]
    problems += draft_id_problems(config, checkpoint)
    if verifier is None:
        raise_problems(checkpoint.folder, problems)
    target = find_verifier(checkpoint, config) if verifier is None else read_verifier(verifier)
    problems += pair_problems(config, target, _names(matches))
    raise_problems(checkpoint.folder, problems)
    path = _output_path(checkpoint, target, output, outtype)
    tensors = [
        *_tensors(config, matches, wanted),
        *generated_tensors(config, checkpoint, target, _names(matches), wanted),
    ]
    kinds = {tensor.name: tensor.kind for tensor in tensors}
    warnings = [*checkpoint.warnings, *config.warnings, *encode.fallback_warnings(kinds, wanted)]
    coverage = None
    if choice is not None:
        reduced = reduce_vocabulary(choice, config, tensors, target, wanted, progress)
        tensors, coverage = reduced.tensors, reduced.coverage
        warnings += reduced.warnings
    keys = _keys(checkpoint, config, target, tensors, wanted)
    tokenizer = {name: data for name, data in target.tokenizer.items() if name != MASK_TOKEN_KEY}
    write_gguf(path, keys, tokenizer, tensors, progress)
    return ConvertReport(
        output=path,
        outtype=outtype,
        verifier=target.path,
        n_tensors=len(tensors),
        n_bytes=path.stat().st_size,
        warnings=tuple(warnings),
        coverage=coverage,
    )


def _keys(
    source: Source,
    config: DrafterConfig,
    verifier: Verifier,
    tensors: list[OutputTensor],
    wanted: encode.OutType,
) -> list[Key]:
    n_params = sum(math.prod(tensor.shape) for tensor in tensors)
    return [
        *general_keys(source, verifier, n_params, wanted.file_type),
        *drafter_keys(config, mrope=uses_mrope(config, verifier)),
        u32(MASK_TOKEN_KEY, config.mask_token_id),
    ]


def _tensors(
    config: DrafterConfig, matches: Iterable[Match], wanted: encode.OutType
) -> list[OutputTensor]:
    tensors = []
    for item in matches:
        name, shape = str(item.expected.target), item.shape
        kind = encode.stored_type(name, shape, wanted)
        pieces = patched_rows(config, name, item.pieces)
        tensors.append(OutputTensor(name, shape, kind, pieces))
    return tensors


def _names(matches: Iterable[Match]) -> set[str]:
    return {str(item.expected.target) for item in matches}


def _output_path(source: Source, verifier: Verifier, output: StrPath | None, outtype: str) -> Path:
    path = source.output_folder if output is None else expanded(output).absolute()
    if path.is_dir():
        path = path / f"{source.name}-{outtype}.gguf"
    if not path.parent.is_dir():
        raise DFlashError(f"the folder {path.parent} does not exist: make it, or choose another -o")
    for file in (*source.files, *verifier.files):
        if path.exists() and path.samefile(file):
            raise DFlashError(f"{path} is an input of this conversion: choose another -o")
    return path
