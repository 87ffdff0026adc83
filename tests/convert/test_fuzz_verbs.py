"""The verbs, and the files of a smaller vocabulary, on damaged input: an error of ours or a result.

A migrated drafter is one that ``read_drafter`` takes; a refusal leaves nothing behind.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import dialect_samples
import fuzzing
import numpy as np
import pytest
from conftest import MODELS
from dflash_local.convert import compare, inspect, migrate
from dflash_local.convert.verifiers.tokenizer import Tokenizer
from dflash_local.convert.vocabularies.corpus import count_tokens
from dflash_local.convert.vocabularies.frequencies import read_frequencies
from fuzzing import File

from dflash_local.errors import DFlashError, ModelError
from dflash_local.files.drafter_file import read_drafter

VERIFIER = MODELS / "verifier-f32.gguf"
GOOD = MODELS / "dspark-b8.gguf"


def _changed(good: File, seed: int, n_values: int = 4) -> Iterator[bytes]:
    """A file with each key and each tensor changed in a few ways, and with bytes flipped."""
    random = np.random.default_rng(seed)
    values = [None, *fuzzing.VALUES.values()]
    for key in good.keys:
        for i in random.choice(len(values), n_values, replace=False):
            yield good.with_key(key, values[i]).to_bytes()
    for name, tensor in good.tensors.items():
        kinds = [kind for kind in (0, 1, 8, 26, 27) if tensor.shape[0] % 32 == 0 or kind != 8]
        yield good.with_tensor(name, None).to_bytes()
        yield good.with_tensor(name, fuzzing.retyped(tensor, int(random.choice(kinds)))).to_bytes()
        yield good.with_tensor(name, fuzzing.retyped(tensor, tensor.type, (0,))).to_bytes()
        yield good.with_tensor(name, fuzzing.retyped(tensor, tensor.type, ())).to_bytes()
    yield from fuzzing.flips(good.to_bytes(), 60, 14_000, seed)


def _outcomes(path: Path, files: Iterator[bytes], work: Callable[[], object]) -> list[bool]:
    """Whether each was taken; anything but a ModelError is raised."""
    outcomes = []
    for data in files:
        fuzzing.write(path, data)
        with fuzzing.bounded():
            try:
                work()
            except ModelError:
                outcomes.append(False)
            else:
                outcomes.append(True)
    return outcomes


def test_any_damaged_drafter_is_shown_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.gguf"
    taken = _outcomes(path, _changed(File.read(GOOD), seed=1), lambda: inspect(path))
    assert 0 < sum(taken) < len(taken)


def test_what_is_shown_without_problems_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.gguf"

    def look() -> None:
        if not inspect(path).problems:
            read_drafter(path)

    taken = _outcomes(path, _changed(File.read(GOOD), seed=2, n_values=2), look)
    assert any(taken)


def test_any_damaged_file_is_compared_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.gguf"
    taken = _outcomes(
        path, _changed(File.read(GOOD), seed=3, n_values=2), lambda: compare(path, GOOD)
    )
    assert 0 < sum(taken) < len(taken)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [dialect_samples.buun, dialect_samples.lucebox])
def test_any_damaged_file_of_a_fork_is_migrated_or_refused(
    tmp_path: Path, dialect: Callable[[Path, Path], Path]
) -> None:
    path, output = tmp_path / "old.gguf", tmp_path / "new" / "new.gguf"
    output.parent.mkdir()

    def work() -> None:
        try:
            migrate(path, output, VERIFIER)
        except ModelError:
            assert not any(output.parent.iterdir())
            raise
        read_drafter(output)
        output.unlink()

    good = File.read(dialect(MODELS / "dflash-b8.gguf", tmp_path / "good.gguf"))
    taken = _outcomes(path, _changed(good, seed=4), work)
    assert 0 < sum(taken) < len(taken)


# ---- counts and corpora --------------------------------------------------------------------

COUNTS = (
    *("", "{", "{}", "[]", "null", "0", "0 0", "1 1\n1 2", "-1 1", "1 -1", "1 1 1", "1.5 1", "a b"),
    *("99999999999999999999 1", "1 99999999999999999999", "383 1\n384 1", "\ud800 1", "1\0 1"),
    *('{"1": true}', '{"1": 1, "1": 2}', '{"1": null}', '{"1": [1]}', '{"1": 1e999}', '{"x": 1}'),
    *("[" * 100_000, '{"1":' * 100_000, "9" * 100_000 + " 1", "٣ 1", "1 1\n" * 100_000),
)


@pytest.mark.parametrize("content", COUNTS, ids=range(len(COUNTS)))
def test_what_is_no_counts_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "counts"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with fuzzing.bounded(), pytest.raises(DFlashError):
        read_frequencies(path, 384)


LINES = (
    *(
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b'{"text": 1}',
        b'{"text": null}',
        b'{"tokens": 1}',
    ),
    *(b'{"tokens": [-1]}', b'{"tokens": [1e9]}', b'{"tokens": [true]}', b'{"tokens": [[1]]}'),
    *(b'{"tokens": [99999999999999999999]}', b'{"tokens": [1], "start": -1}', b'{"messages": 1}'),
    *(b'{"tokens": [1], "start": "x"}', b'{"messages": [1]}', b'{"messages": [{"role": 1}]}'),
    *(b'{"messages": [{"role": "assistant", "content": {}}]}', b'{"text": "\\ud800"}', b"\x1f\x8b"),
    *(b"[" * 100_000, b'{"text":' * 100_000, b'{"tokens": [' + b"9" * 5000 + b"]}", b"\0" * 1000),
)


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    with Tokenizer(VERIFIER) as opened:
        yield opened


@pytest.mark.parametrize("content", LINES, ids=range(len(LINES)))
def test_what_is_no_corpus_is_refused(tmp_path: Path, tokenizer: Tokenizer, content: bytes) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    with fuzzing.bounded(), pytest.raises(DFlashError):
        count_tokens(path, tokenizer)


@pytest.mark.parametrize("name", ["c.jsonl.gz", "c.txt.gz"])
def test_a_small_file_that_holds_an_endless_line_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"a" * (1 << 26), 1))
    with fuzzing.bounded(), pytest.raises(DFlashError, match="a line of more than"):
        count_tokens(path, tokenizer)


@pytest.mark.parametrize("content", LINES, ids=range(len(LINES)))
def test_what_is_no_corpus_is_refused_in_gzip_too(
    tmp_path: Path, tokenizer: Tokenizer, content: bytes
) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(content))
    with fuzzing.bounded(), pytest.raises(DFlashError):
        count_tokens(path, tokenizer)


def test_a_file_too_large_for_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    path.write_bytes(b"1 1\n" * (1 << 23))
    with fuzzing.bounded(), pytest.raises(DFlashError, match="more than"):
        read_frequencies(path, 384)
