"""The command dflash-convert, and how it finds a verifier that was not named."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import convert_samples as samples
import pytest
from dflash_local.convert import cli


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, repository: str, file: str, **changes: int) -> Path:
    """A verifier in the cache, as a hub client lays it out."""
    folder = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / "0a1b2c"
    return samples.verifier(folder / file, **changes)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with 1 and no traceback; returns what it says."""
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dflash-convert: error: ")
    return captured.err


def test_converts_and_says_what_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    verifier = samples.verifier(tmp_path / "v" / "v.gguf")
    output = tmp_path / "d.gguf"
    arguments = [str(source), "--verifier", str(verifier), "-o", str(output), "--outtype", "q8_0"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{output}: 25 tensors, q8_0, ")
    assert "tokenizer of v.gguf" in captured.out
    assert captured.err == ""
    assert samples.read(output)[0]["general.file_type"] == 7


def test_default_is_bf16_beside_the_weights(tmp_path: Path) -> None:
    source = samples.checkpoint(tmp_path / "my-drafter")
    verifier = samples.verifier(tmp_path / "v" / "v.gguf")
    assert cli.main([str(source), "--verifier", str(verifier)]) == 0
    _, tensors = samples.read(source / "my-drafter-bf16.gguf")
    assert tensors["fc.weight"].tensor_type.name == "BF16"
    assert cli.main([str(source), "--verifier", str(verifier), "-o", str(tmp_path)]) == 0
    assert (tmp_path / "my-drafter-bf16.gguf").is_file()


def test_warnings_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    verifier = samples.verifier(tmp_path / "v.gguf")
    assert cli.main([str(source), "--verifier", str(verifier), "--attention", "causal"]) == 0
    assert "dflash-convert: warning: written as causal" in capsys.readouterr().err
    keys, _ = samples.read(source / "drafter-bf16.gguf")
    assert keys["dflash.attention.causal"] is True


def test_bare_command_takes_the_one_fitting_gguf_beside_the_weights(tmp_path: Path) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    samples.verifier(source / "v.gguf")
    samples.verifier(source / "other-model.gguf", n_embd=32)
    (source / "broken.gguf").write_bytes(b"no GGUF")
    for _ in range(2):  # the second time the first result lies there too
        assert cli.main([str(source / "model.safetensors")]) == 0
    assert (source / "drafter-bf16.gguf").is_file()


def test_a_split_verifier_is_one(tmp_path: Path) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    samples.verifier(source / "v.gguf", head=True, split=1)
    assert len(list(source.glob("v-*.gguf"))) == 2
    assert cli.main([str(source)]) == 0


def test_two_fitting_verifiers_are_a_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    first, second = samples.verifier(source / "a.gguf"), samples.verifier(source / "b.gguf")
    text = fails([str(source)], capsys)
    assert str(first) in text
    assert str(second) in text
    assert f"dflash-convert {source} --verifier {first}" in text


@pytest.mark.parametrize(
    ("field", "value", "repository"),
    [
        ("base_model", "Some/Model-4B", "Some/Model-4B"),
        ("target_model_name_or_path", "Some/Model-4B", "some/model-4b-GGUF"),
        ("_name_or_path", "Some/Model-4B", "quantizer/Model-4B-GGUF"),
        ("verifier", {"name_or_path": "Some/Model-4B"}, "quantizer/Some_Model-4B-GGUF"),
    ],
)
def test_bare_command_finds_the_named_model_in_the_cache(
    tmp_path: Path, cache: Path, field: str, value: object, repository: str
) -> None:
    source = samples.checkpoint(tmp_path / "drafter", {**samples.config(), field: value})
    cached(cache, repository, "model-q4.gguf")
    cached(cache, "Some/Model-40B-GGUF", "model-q4.gguf", n_embd=32)
    cached(cache, "Some/Unrelated", "model.gguf")
    assert cli.main([str(source)]) == 0
    keys, _ = samples.read(source / "drafter-bf16.gguf")
    assert keys["tokenizer.ggml.model"] == "gpt2"


def test_the_model_card_names_the_verifier_too(tmp_path: Path, cache: Path) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    (source / "README.md").write_text("---\nbase_model:\n- Some/Model-4B\n---\n")
    cached(cache, "Some/Model-4B", "model.gguf")
    assert cli.main([str(source)]) == 0


def test_a_checkpoint_in_the_cache_is_called_after_its_repository(
    tmp_path: Path, cache: Path
) -> None:
    source = samples.checkpoint(cache / "models--org--drafter-8B" / "snapshots" / "abc")
    verifier = samples.verifier(tmp_path / "v.gguf")
    assert cli.main([str(source), "--verifier", str(verifier), "-o", str(tmp_path)]) == 0
    assert (tmp_path / "drafter-8B-bf16.gguf").is_file()


def test_revisions_of_one_cached_file_are_one(tmp_path: Path, cache: Path) -> None:
    source = samples.checkpoint(tmp_path / "drafter", samples.config(base_model="Some/Model"))
    file = cached(cache, "Some/Model", "model.gguf")
    later = file.parent.parent / "ffff" / "model.gguf"
    later.parent.mkdir()
    later.symlink_to(file)
    assert cli.main([str(source)]) == 0


def test_without_a_verifier_the_error_names_the_command(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = samples.config(base_model="Some/Model")
    source = samples.checkpoint(tmp_path / "my drafter", settings)
    samples.verifier(source / "wrong.gguf", n_embd=32)
    text = fails([str(source)], capsys)
    assert f"nor one of Some/Model in {cache}" in text
    assert "wrong.gguf: hidden size: the drafter has 64, the verifier wrong.gguf 32" in text
    command = shlex.split(text.splitlines()[-1])
    assert command == ["dflash-convert", str(source), "--verifier", "VERIFIER.gguf"]
    right = samples.verifier(tmp_path / "right.gguf")
    assert cli.main([*command[1:-1], str(right)]) == 0


def test_problems_of_the_weights_are_told_before_a_verifier_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = samples.tensors()
    del weights["norm.weight"]
    source = samples.checkpoint(tmp_path / "drafter", weights=weights)
    assert "missing tensor norm.weight" in fails([str(source)], capsys)


def test_errors_of_the_system_are_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    verifier = samples.verifier(tmp_path / "v.gguf")
    name = "x" * 300
    text = fails([str(source), "--verifier", str(verifier), "-o", str(tmp_path / name)], capsys)
    assert name in text
    assert samples.names(tmp_path) == ["drafter", "v.gguf"]


def test_ctrl_c_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    source = samples.checkpoint(tmp_path / "drafter")
    verifier = samples.verifier(tmp_path / "v.gguf")
    monkeypatch.setattr("dflash_local.convert.writing.writer.encode", interrupt)
    assert cli.main([str(source), "--verifier", str(verifier)]) == 1
    assert "interrupted" in capsys.readouterr().err
    assert samples.names(source) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("arguments", [[], ["a", "--outtype", "q2_k"], ["a", "b"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: dflash-convert" in capsys.readouterr().err


def test_a_folder_that_is_called_like_a_verb_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    samples.checkpoint(Path("show"))
    assert cli.main(["./show", "--verifier", str(samples.verifier(tmp_path / "v.gguf"))]) == 0
    assert Path("show/show-bf16.gguf").is_file()
    with pytest.raises(SystemExit):
        cli.main(["show"])
    assert "usage: dflash-convert show" in capsys.readouterr().err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_own_help_and_is_named_by_the_main_one(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for arguments in ([verb, "--help"], ["--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith(f"usage: dflash-convert {verb} ")
    assert f"\n  {verb} " in texts[1]


def test_the_main_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"dflash-convert {metadata.version('dflash-local')}\n"


def test_a_smaller_vocabulary_is_written_and_its_coverage_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    verifier = samples.verifier(tmp_path / "v.gguf", head=True)
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({str(token): 100 - token for token in range(100)}))
    arguments = [str(source), "--verifier", str(verifier), "--draft-vocab", "40"]
    assert cli.main(arguments) == 1
    assert "--corpus" in capsys.readouterr().err
    assert cli.main([*arguments, "--frequencies", str(counts)]) == 0
    assert "the draft vocabulary covers" in capsys.readouterr().out
    _, tensors = samples.read(source / "drafter-bf16.gguf")
    assert list(tensors["d2t"].shape) == [40]


def test_the_program_runs_as_a_process(tmp_path: Path) -> None:
    source = samples.checkpoint(tmp_path / "drafter")
    (source / "config.json").write_text(json.dumps(samples.config(hidden_size="large")))
    code = "from dflash_local.convert.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "`hidden_size`: found 'large', expected an integer" in done.stderr
    assert "Traceback" not in done.stderr
