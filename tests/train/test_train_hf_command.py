"""``dflash-local train`` with a Hugging Face model, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

import hf_verifiers  # noqa: E402
from hf_verifiers import changed  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from training import ASKED, VERIFIER  # noqa: E402

from dflash_local import ModelError  # noqa: E402
from dflash_local.cli.train import main  # noqa: E402
from dflash_local.train.verifiers.hf_files import folder_fingerprint, locate, name_of  # noqa: E402
from dflash_local.train.verifiers.hf_verifier import HfVerifier  # noqa: E402

torch.set_num_threads(1)

# pytest finds fixtures by the names of a module.
folder = hf_verifiers.folder


# ---- the command ---------------------------------------------------------------------------

SMALL = [
    *("--max-tokens", "30", "--max-length", "128", "--at-once", "8", "--held-out", "0.2"),
    *("--layers", "1", "--block", "5", "--target-layers", "0,1,2", "--threads", "1"),
    *("--steps", "12", "--evaluate-every", "6", "--blocks", "4", "--learning-rate", "3e-3"),
]


def train(verifier: Path, out: Path, *arguments: str) -> int:
    return main(["--verifier", str(verifier), "--out", str(out), *SMALL, *arguments])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(ASKED) + "\n")
    return file


def test_the_whole_command_without_and_then_with_a_gguf(
    folder: Path, prompts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ("--prompts", str(prompts))
    untold = "not tried in the real loop: no GGUF of the verifier (--gguf)"
    assert train(folder, out, *asked) == 0
    shown = capfd.readouterr()
    assert shown.out.strip() == str(out)
    assert untold in shown.err
    names = {path.name for path in out.iterdir()} - {"training.png", "work"}
    assert names == {"model.safetensors", "config.json", "report.json", "report.md"}
    first = json.loads((out / "report.json").read_text())
    assert first["simulation"] is None
    assert first["verifier"]["name"] == "tiny"
    assert first["verifier"]["chat_template"].startswith("sha256 ")
    assert first["best"]["accepted"] > 0
    assert f"N{untold[1:]}" in (out / "report.md").read_text()
    trained = (out / "model.safetensors").read_bytes()

    assert train(folder, out, *asked, "--gguf", str(VERIFIER)) == 0
    shown = capfd.readouterr()
    assert shown.out.strip() == str(out / "drafter.gguf")
    assert (out / "model.safetensors").read_bytes() == trained, "nothing is trained again"
    second = json.loads((out / "report.json").read_text())
    assert first.keys() == second.keys()
    real, promised = second["simulation"], second["by_width"]["trained"][-1]["accepted"]
    assert real["n_blocks"] > 10
    assert abs(real["accepted"] - promised) <= 2 * real["error"]
    assert "Traceback" not in shown.err


def test_another_models_weights_in_the_same_folder_are_refused(
    folder: Path, prompts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    assert train(model, tmp_path / "out", "prompts", "--prompts", str(prompts)) == 0
    advice = model / "generation_config.json"
    advice.write_text(advice.read_text() + " ")
    assert train(model, tmp_path / "out", "prompts", "--prompts", str(prompts)) == 1
    assert "verifier: " in capfd.readouterr().err


# ---- what is refused -----------------------------------------------------------------------


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def torn_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (no_tokenizer, "has no tokenizer: expected tokenizer.json or"),
        (no_template, "tokenizer has no chat template"),
        (no_weights, "has no *.safetensors in"),
        (torn_weights, "transformers could not load its model"),
    ],
)
def test_a_folder_that_lacks_something_is_told(
    folder: Path,
    tmp_path: Path,
    prompts: Path,
    capfd: pytest.CaptureFixture[str],
    break_it: Any,
    words: str,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    break_it(model)
    assert train(model, tmp_path / "out", "--prompts", str(prompts)) == 1
    said = capfd.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_without_a_chat_template_texts_can_still_be_continued(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    no_template(model)
    plain = HfVerifier(model)
    assert plain.identity.chat_template is None
    assert plain.tokenizer(None).text("the cat")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "found LlamaForSequenceClass"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "found T5For"),
        ({"model_type": "not-known"}, "transformers could not load its config"),
        ({"model_type": "gpt2", "rope_theta": None}, "config.json has no rope_theta"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    folder: Path, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    model = changed(folder, tmp_path / "model", **config)
    with pytest.raises(ModelError, match=words):
        HfVerifier(model)


def test_a_model_without_model_layers_is_refused(folder: Path, tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    settings = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**settings, vocab_size=384, intermediate_size=64))
    shutil.copytree(folder, tmp_path / "neox")
    model.save_pretrained(tmp_path / "neox")
    with pytest.raises(ModelError, match=r"GPTNeoXForCausalLM has no model\.layers; expected"):
        HfVerifier(tmp_path / "neox").reader([1], n_ctx=64)


def test_a_gguf_of_another_model_is_refused_before_anything_is_done(
    folder: Path, tmp_path: Path, prompts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = changed(folder, tmp_path / "model", vocab_size=400, num_hidden_layers=5)
    out = tmp_path / "out"
    assert train(model, out, "--prompts", str(prompts), "--gguf", str(VERIFIER)) == 1
    said = capfd.readouterr().err
    assert "is of another model than --verifier" in said
    assert "tokens: 384, the model has 400" in said
    assert "layers: 4, the model has 5" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--verifier", "nowhere.gguf"), "nowhere.gguf is no file, no folder and no Hugging Face"),
        (("--verifier", "a/b/c"), "is no file, no folder and no Hugging Face id"),
        (("--verifier", str(VERIFIER), "--gguf", str(VERIFIER)), "--gguf: only beside a Hugging"),
        (("--verifier", "a/b", "--gguf", "nowhere.gguf"), "nowhere.gguf is no file"),
    ],
)
def test_what_the_command_line_cannot_mean_is_told(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


# ---- the hub -------------------------------------------------------------------------------

COMMIT = "c" * 40


@pytest.fixture
def cache(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache that has the model; nobody is online."""
    repository = tmp_path / "hub" / "models--some-lab--Tiny-1B"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return repository / "snapshots" / COMMIT


def test_an_id_is_taken_from_the_cache_offline(
    cache: Path, folder: Path, prompts: Path, tmp_path: Path
) -> None:
    assert locate(Path("some-lab/Tiny-1B")) == cache
    assert name_of(cache) == "some-lab/Tiny-1B"
    assert folder_fingerprint(cache) == folder_fingerprint(folder), (
        "it does not matter where it lies"
    )
    done = train(Path("some-lab/Tiny-1B"), tmp_path / "out", "prompts", "--prompts", str(prompts))
    assert done == 0
    assert HfVerifier(cache).identity.file == COMMIT


def test_without_a_connection_the_cache_serves(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert locate(Path("some-lab/Tiny-1B")) == cache


@pytest.mark.usefixtures("cache")
def test_an_id_that_is_nowhere_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate(Path("other/Model"))
    for words in ("other/Model is no folder here", str(tmp_path / "hub"), "hf download other"):
        assert words in str(caught.value)
