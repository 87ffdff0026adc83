"""``dflash-convert show``: what a drafter's GGUF holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from dflash_local.files.key_table import ARCHITECTURE

from ..checking.inspection import DrafterFile, inspect
from .output import PROGRAM, megabytes, print_json, print_table, run

KINDS = {
    "dflash": "DFlash",
    "dflash2": "DFlash2 (convolutions and candidate selector)",
    "dspark": "DSpark (DFlash with a Markov head)",
}
BASE_MODEL = ("name", "organization", "repo_url")
VERIFIER = ("architecture", "size_label", "file")
# Said elsewhere in the table, or made up from the name; --json has them.
UNTOLD = {
    f"general.{name}"
    for name in ("type", "file_type", "quantization_version", "basename", "finetune", "size_label")
} | {"dflash_local.chat_template_sha256"}


def main(argv: list[str]) -> int:
    """Run the verb; 0 whenever the file could be described, whatever is wrong with it."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} show",
        description="What a drafter's GGUF holds, and what is wrong with it.",
    )
    parser.add_argument("file", metavar="FILE.gguf", help="a drafter, upstream's or a fork's")
    parser.add_argument("--json", action="store_true", help="everything, tensors one by one")
    arguments = parser.parse_args(argv)
    return run(lambda: _show(arguments))


def _show(arguments: argparse.Namespace) -> int:
    file = inspect(arguments.file)
    if arguments.json:
        extra = {"published_layer_ids": file.published_layer_ids, "tensor_types": file.tensor_types}
        print_json(file, **extra)
        return 0
    print_table((name, text) for name, text in _rows(file) if text)
    for problem in file.problems:
        print(f"problem: {problem}")
    return 0


def _rows(file: DrafterFile) -> Iterator[tuple[str, str]]:
    yield "file", f"{file.path}, {megabytes(file.n_bytes)}"
    yield "kind", f"{KINDS[file.kind]}, architecture {file.architecture}"
    yield "block", _block(file)
    yield "network", _network(file)
    yield "reads", _layers(file)
    yield "mask token", _mask(file)
    yield "attention", _attention(file)
    yield "rope", ", ".join(f"{key} {value}" for key, value in file.rope.items())
    yield "vocabulary", _vocabulary(file)
    yield "made for", _made_for(file)
    yield (
        "chat template",
        f"sha256 {file.chat_template_sha256}" if file.chat_template_sha256 else "",
    )
    yield "origin", _origin(file)
    yield "tensors", _tensors(file)


def _block(file: DrafterFile) -> str:
    if file.block_size is None:
        return "size unknown"
    n_drafts = file.block_size - (0 if file.sample_from_anchor else 1)
    heads = ", confidence head" if file.confidence else ""
    return f"{file.block_size} tokens, up to {n_drafts} drafts{heads}"


def _network(file: DrafterFile) -> str:
    parts = {
        "layers": file.n_layer,
        "hidden": file.n_embd,
        "feed-forward": file.n_ff,
        "heads": file.n_head,
        "K/V heads": file.n_head_kv,
        "head size": file.head_dim,
        "trained context": file.n_ctx,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


def _layers(file: DrafterFile) -> str:
    if file.target_layers is None or file.published_layer_ids is None:
        return "unknown layers of the verifier"
    inputs, published = (
        ", ".join(map(str, layers)) for layers in (file.target_layers, file.published_layer_ids)
    )
    return f"inputs of the verifier's layers {inputs} (published as target_layer_ids {published})"


def _mask(file: DrafterFile) -> str:
    if file.mask_token is None:
        return "unknown"
    return f"{file.mask_token} {file.mask_text!r}" if file.mask_text else str(file.mask_token)


def _attention(file: DrafterFile) -> str:
    inside = "causal" if file.causal else "bidirectional"
    stated = "" if file.causal is not None else ", llama.cpp's rule"
    text = f"{inside} inside the block{stated}"
    if file.sliding_window and file.sliding_layers:
        layers = ", ".join(map(str, file.sliding_layers))
        text += f"; a window of {file.sliding_window} in layers {layers}"
        if file.architecture != ARCHITECTURE:
            text += ", which the fork's graph makes causal"
    return text


def _vocabulary(file: DrafterFile) -> str:
    if not file.n_vocab:
        return "no tokenizer"
    if file.n_vocab_draft in (None, file.n_vocab):
        return f"{file.n_vocab} tokens"
    return f"{file.n_vocab} tokens, {file.n_vocab_draft} of them can be drafted"


def _made_for(file: DrafterFile) -> str:
    base = [file.verifier.get(f"general.base_model.0.{name}") for name in BASE_MODEL]
    read = [file.verifier.get(f"dflash_local.verifier.{name}") for name in VERIFIER]
    named, converted = (", ".join(str(part) for part in parts if part) for parts in (base, read))
    return "; ".join(filter(None, [named, f"converted for {converted}" if converted else ""]))


def _origin(file: DrafterFile) -> str:
    parts = (
        f"{key.partition('.')[2]} {_text(value)}"
        for key, value in file.provenance.items()
        if key not in UNTOLD
    )
    return "; ".join(parts)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tensors(file: DrafterFile) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in file.tensor_types.items())
    return f"{len(file.tensors)}: {kinds}"
