"""Make the golden files: `python make_golden.py --upstream LLAMA_CPP [NAME ...]`.

LLAMA_CPP is a source tree of llama.cpp, whose convert_hf_to_gguf.py runs here. Needs torch,
transformers and sentencepiece.
"""

from __future__ import annotations

import argparse
import json
import logging
import runpy
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from golden.manifest import OUT_TYPES, dump, manifest  # noqa: E402
from layout_files import (  # noqa: E402
    N_EMBD,
    N_VOCAB,
    Checkpoint,
    Target,
    target_weights,
    write_checkpoint,
    write_safetensors,
)
from layout_samples import GOLDEN, SAMPLES, TWINS  # noqa: E402

TEXT = [f"{word} and {word[::-1]} make {word * 2}" for word in ("one", "three", "seven", "eleven")]
log = logging.getLogger("make_golden")


def write_target(folder: Path, target: Target) -> Path:
    """The verifier as Hugging Face has it: upstream takes its tokenizer, not its GGUF."""
    import sentencepiece

    folder.mkdir()
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": N_VOCAB,
        "hidden_size": N_EMBD,
        "tie_word_embeddings": False,
    }
    if target.mrope:
        config["rope_parameters"] = {"mrope_section": list(target.mrope)}
    (folder / "config.json").write_text(json.dumps(config))
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXT * 10),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    if target.weights:
        weights = {name: ("F32", values) for name, values in target_weights().items()}
        write_safetensors(folder, weights)
    return folder


def convert(upstream: Path, source: Path, target: Path, outtype: str) -> Path:
    """Upstream's converter, as if from a command line."""
    output = source.with_name(f"{source.name}-{outtype}.gguf")
    command = [str(source), "--target-model-dir", str(target), "--outtype", outtype]
    sys.argv = ["convert_hf_to_gguf.py", *command, "--outfile", str(output)]
    runpy.run_path(str(upstream / "convert_hf_to_gguf.py"), run_name="__main__")
    return output


def make(upstream: Path, name: str, checkpoint: Checkpoint, folder: Path) -> None:
    source = write_checkpoint(folder / name, checkpoint)
    target = write_target(folder / f"{name}-target", checkpoint.target)
    files = {outtype: convert(upstream, source, target, outtype) for outtype in OUT_TYPES}
    (HERE / f"{name}.json").write_text(dump(manifest(files)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", type=Path, required=True, metavar="LLAMA_CPP")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    sys.path[:0] = [str(arguments.upstream), str(arguments.upstream / "gguf-py")]
    checkpoints = {**SAMPLES, **TWINS}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or sorted(set(GOLDEN.values())):
            try:
                make(arguments.upstream, name, checkpoints[name], Path(folder))
            except Exception:
                log.exception("%s", name)
                failed.append(name)
    if failed:
        log.error("upstream does not convert: %s", ", ".join(failed))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
