"""A verifier whose GGUF is split into parts is the verifier."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeLlama
from exactness import counts, greedy, tiny_prompts
from gguf_contents import Contents

from dflash_local import Llama
from dflash_local.files.fingerprint import fingerprint
from dflash_local.train.capture import Capturer
from dflash_local.train.verifiers.verifier_file import VerifierFile

TEXT = list(range(5, 45))


@pytest.fixture(scope="module")
def parts(tiny_verifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of four parts; the embedding is in the last."""
    contents, folder = Contents(tiny_verifier), tmp_path_factory.mktemp("split")
    contents.tensors = dict(reversed(contents.tensors.items()))
    contents.write(folder / "v.gguf", part=10)
    return folder / "v-00001-of-00004.gguf"


def test_answers_and_acceptance_are_those_of_the_whole_file(
    parts: Path, tiny_verifier: Path, tiny_drafters: dict[str, Path], make_llama: MakeLlama
) -> None:
    found = []
    for verifier in (tiny_verifier, parts):
        llm = make_llama(Llama, verifier, drafter=tiny_drafters["dflash-b8"])
        answers = [greedy(llm, prompt, 40) for prompt in tiny_prompts(llm, 4, seed=6)]
        found.append((answers, counts(llm)))
    assert found[0] == found[1]


def test_training_reads_the_features_and_weights_of_the_whole_file(
    parts: Path, tiny_verifier: Path
) -> None:
    whole, split_ = VerifierFile(tiny_verifier), VerifierFile(parts)
    assert split_.sizes == whole.sizes
    assert np.array_equal(split_.head, whole.head)
    for layer in range(whole.sizes.n_layer):
        assert np.array_equal(split_.part(layer, "attn_q"), whole.part(layer, "attn_q"))
    found = []
    for verifier in (tiny_verifier, parts):
        with Capturer(verifier, [1, 3], n_ctx=64, n_threads=1) as capturer:
            found.append(capturer.read(TEXT, 2))
    assert np.array_equal(found[0].features, found[1].features)
    assert np.array_equal(found[0].ids, found[1].ids)


def test_what_was_learned_of_it_is_not_taken_for_another_models(
    parts: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(parts.parent, other)
    last = other / "v-00004-of-00004.gguf"
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert fingerprint(other / parts.name) != fingerprint(parts)
