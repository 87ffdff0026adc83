"""Drafters for M-RoPE verifiers: their injected rows carry four positions each."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import gguf

from dflash_local import Llama


def with_key(source: Path, target: Path, key: str, values: list[int]) -> Path:
    """A copy of a GGUF file with one more array of integers."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            item = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], item)
    writer.add_array(key, values)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_text_positions_on_all_axes_draft_as_without_mrope(
    tiny_verifier: Path, tiny_drafters: dict[str, Path], tmp_path: Path, make_llama: Any
) -> None:
    # All pairs turn with the temporal position, which is the text's: the very same drafts.
    plain = tiny_drafters["dflash-b8"]
    head_dim = gguf.GGUFReader(plain).fields["dflash.attention.key_length"].contents()
    sections = [head_dim // 2, 0, 0, 0]
    mrope = with_key(plain, tmp_path / "mrope.gguf", "dflash.rope.dimension_sections", sections)
    results = []
    for drafter in (plain, mrope):
        llm = make_llama(Llama, tiny_verifier, drafter=drafter)
        prompt = llm.tokenize(b"the red fox", special=True)
        tokens = list(islice(llm.generate(prompt, temp=0.0), 80))
        stats = llm.stats.last
        results.append((tokens, stats.n_drafted, stats.n_accepted))
        assert 0 < stats.n_accepted < stats.n_drafted
    assert results[0] == results[1]
