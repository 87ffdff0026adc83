"""`dflash-convert show` and `inspect`: what a drafter's file holds, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dialect_samples as samples
import pytest
from dflash_local.convert import cli, inspect
from dflash_local.convert.checking.inspection import DrafterFile

from dflash_local import ModelError
from dflash_local.files.gguf_header import GGUFHeader


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The table of `show` as label and text, "problem" the last of them."""
    assert cli.main(["show", str(path)]) == 0
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        label, _, text = line.partition("  ")
        rows[label] = text.strip()
    return rows


def test_the_demo_drafter_is_described_as_it_was_trained(smollm2_drafter: Path) -> None:
    file = inspect(smollm2_drafter)
    config = json.loads(
        (Path(__file__).parents[2] / "drafters/smollm2-135m-dflash/config.json").read_text()
    )
    assert (file.kind, file.architecture, file.problems) == ("dflash", "dflash", ())
    assert file.published_layer_ids == tuple(config["dflash_config"]["target_layer_ids"])
    assert file.target_layers == tuple(i + 1 for i in file.published_layer_ids or ())
    assert file.mask_token == config["dflash_config"]["mask_token_id"]
    assert (file.n_layer, file.n_embd) == (config["num_hidden_layers"], config["hidden_size"])
    assert file.rope["freq_base"] == config["rope_theta"]
    assert file.n_bytes == smollm2_drafter.stat().st_size
    assert sum(file.tensor_types.values()) == len(file.tensors)
    assert "general.base_model.0.name" in file.verifier
    template = GGUFHeader(smollm2_drafter).get("tokenizer.chat_template")
    assert file.chat_template_sha256 == hashlib.sha256(template.encode()).hexdigest()


def test_kinds_heads_and_vocabularies_are_told_apart(tiny_drafters: dict[str, Path]) -> None:
    files = {name: inspect(path) for name, path in tiny_drafters.items()}
    assert {name: (f.kind, f.sample_from_anchor, f.confidence) for name, f in files.items()} == {
        "dflash-b4": ("dflash", None, None),
        "dflash-b8": ("dflash", None, None),
        "dflash-b8-d2t": ("dflash", None, None),
        "dflash2-b8": ("dflash2", None, None),
        "dspark-b7-anchor": ("dspark", True, True),
        "dspark-b8": ("dspark", False, True),
    }
    assert {name for name, f in files.items() if f.n_vocab_draft != f.n_vocab} == {"dflash-b8-d2t"}
    assert all(file.problems == () for file in files.values())


def test_a_pipe_gets_plain_text(smollm2_drafter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(smollm2_drafter, capsys)
    assert rows["block"] == "8 tokens, up to 7 drafts"
    assert "2, 9, 15, 21, 28 (published as target_layer_ids 1, 8, 14, 20, 27)" in rows["reads"]
    assert rows["mask token"] == "0 '<|endoftext|>'"
    assert rows["made for"].startswith("SmolLM2 135M Instruct, HuggingFaceTB")
    assert "problem" not in rows


def test_a_terminal_gets_the_same_words(
    smollm2_drafter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = shown(smollm2_drafter, capsys)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["show", str(smollm2_drafter)]) == 0
    styles = re.compile(r"\x1b\[[\d;]*m")
    out = styles.sub("", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= 60
    assert plain["reads"].replace(" ", "") in "".join(out.split())


def test_json_has_every_tensor(
    tiny_drafters: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_drafters["dspark-b8"]
    assert cli.main(["show", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    header = GGUFHeader(path)
    assert {t["name"]: t["shape"][::-1] for t in report["tensors"]} == {
        name: list(tensor.shape) for name, tensor in header.tensors.items()
    }
    assert report["kind"] == "dspark"
    assert report["published_layer_ids"] == [0, 1, 2]
    assert report["problems"] == []


@pytest.mark.parametrize("make", [samples.buun, samples.lucebox])
def test_a_forks_file_is_described_like_upstreams(
    make: samples.Dialect, tiny_drafters: dict[str, Path], tmp_path: Path
) -> None:
    ours = inspect(tiny_drafters["dflash-b8"])
    theirs = inspect(make(tiny_drafters["dflash-b8"], tmp_path / "old.gguf"))

    def essence(file: DrafterFile) -> list[object]:
        names = "kind block_size n_layer n_embd n_head head_dim target_layers mask_token rope"
        return [getattr(file, name) for name in names.split()]

    assert essence(theirs) == essence(ours)
    assert theirs.architecture.endswith("dflash-draft")
    (problem,) = theirs.problems
    assert f"dflash-convert migrate {theirs.path} -o NEW.gguf" in problem


def test_what_is_wrong_is_listed_and_not_raised(
    tiny_drafters: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, tensors = samples.read(tiny_drafters["dflash-b8"])
    tensors["blk.0.attn_gate.weight"] = tensors["blk.0.attn_q.weight"]
    gated = samples.write(tmp_path / "gated.gguf", "dflash", keys, tensors)
    assert inspect(gated).problems == ("tensor blk.0.attn_gate.weight: unknown to libllama",)
    keys["dflash.block_size"] = (1, keys["dflash.block_size"][1])
    small = samples.write(tmp_path / "small.gguf", "dflash", keys, tensors)
    assert cli.main(["show", str(small)]) == 0
    assert "problem: dflash.block_size: found 1, expected" in capsys.readouterr().out


def test_other_files_are_refused(
    tiny_verifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="found architecture 'llama', expected a DFlash drafter's"):
        inspect(tiny_verifier)
    for path in (tmp_path, tmp_path / "none.gguf", Path(__file__)):
        assert cli.main(["show", str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("dflash-convert: error: ")


def test_a_reader_that_has_seen_enough_is_no_error(smollm2_drafter: Path) -> None:
    code = "from dflash_local.convert.cli import main; raise SystemExit(main())"
    arguments = [sys.executable, "-c", code, "show", str(smollm2_drafter), "--json"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(arguments, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
