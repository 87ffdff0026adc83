"""A Hugging Face model as the verifier: what transformers gives is what libllama gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

import training  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from tiny_hf import write_model  # noqa: E402
from training import ASKED, MASK, N_CTX, TARGET_LAYER_IDS, VERIFIER  # noqa: E402
from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from dflash_local import ContextError, DFlashError, ModelError  # noqa: E402
from dflash_local.cli.train import main  # noqa: E402
from dflash_local.train.answerer import Question, Sampling  # noqa: E402
from dflash_local.train.conversations import Conversation  # noqa: E402
from dflash_local.train.examples import anchors_of, make_batch  # noqa: E402
from dflash_local.train.model import DrafterModel, Vocabulary, drafter_config  # noqa: E402
from dflash_local.train.questions import synthesize  # noqa: E402
from dflash_local.train.verifiers.gguf_verifier import GGUFVerifier  # noqa: E402
from dflash_local.train.verifiers.hf_files import folder_fingerprint, locate, name_of  # noqa: E402
from dflash_local.train.verifiers.hf_verifier import HfVerifier  # noqa: E402
from dflash_local.train.verifiers.verifier import Verifier, Weights  # noqa: E402
from dflash_local.train.warm_start import calibrate, can_warm_start, warm_start  # noqa: E402

torch.set_num_threads(1)
LAYERS = [layer + 1 for layer in TARGET_LAYER_IDS]
MESSAGES = [{"role": "user", "content": "Who is anna? In 1984, <|im_end|> für 2 €"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("hf") / "tiny")


@pytest.fixture(scope="module")
def verifier(folder: Path) -> Verifier:
    return HfVerifier(folder)


@pytest.fixture(scope="module")
def gguf() -> Verifier:
    return GGUFVerifier(VERIFIER, 1, 0)


@pytest.fixture(scope="module")
def texts() -> list[Any]:
    """Eight, with prompts of different lengths."""
    return training.answers()[::4][:8]


def changed(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a model with other fields in config.json."""
    shutil.copytree(folder, target)
    fields = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(fields | config))
    return target


# ---- readings and weights ------------------------------------------------------------------


def test_readings_are_those_of_the_same_weights_in_libllama(
    verifier: Verifier, texts: list[Any]
) -> None:
    """F32 on both sides but for libllama's K/V cache, which is F16: features agree to a
    thousandth of their largest, probabilities to 0.003."""
    expected, reader = training.readings(texts), verifier.reader(LAYERS, n_ctx=N_CTX)
    assert reader.n_features == len(LAYERS) * 64
    for text in texts:
        ours, theirs = reader.read(text.tokens, 4), expected[text]
        assert ours.features.shape == theirs.features.shape
        for ours_, theirs_ in zip(
            np.split(ours.features, len(LAYERS), axis=1),
            np.split(theirs.features, len(LAYERS), axis=1),
            strict=True,
        ):
            assert np.abs(ours_ - theirs_).max() < 1e-3 * np.abs(theirs_).max()
        assert (ours.ids == theirs.ids).mean() > 0.98
        assert np.allclose(np.exp(ours.log_probs), np.exp(theirs.log_probs), rtol=0, atol=0.003)


def test_a_closed_reader_is_told(verifier: Verifier) -> None:
    reader = verifier.reader(LAYERS, n_ctx=N_CTX)
    reader.close()
    with pytest.raises(DFlashError, match="closed"):
        reader.read([5], 1)


def started(weights: Weights, texts: list[Any]) -> DrafterModel:
    read = training.readings(texts)
    model = DrafterModel(drafter_config(training.fields(weights.sizes, n_layer=2)))
    warm_start(model, weights)
    embedding, head = torch.from_numpy(weights.embedding), torch.from_numpy(weights.head)
    anchors = [anchors_of(text, 0, None)[:6] for text in texts]
    batch = make_batch(texts, [read[text] for text in texts], anchors, 5)
    calibrate(model, Vocabulary(embedding, head, MASK), batch, weights)
    return model


def test_the_warm_start_is_that_of_the_same_weights_as_gguf(
    verifier: Verifier, gguf: Verifier, texts: list[Any]
) -> None:
    assert can_warm_start(verifier.weights, 2)
    assert can_warm_start(gguf.weights, 2)
    ours, theirs = (started(v.weights, texts[:3]).state_dict() for v in (verifier, gguf))
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_a_mask_token_is_one_that_no_text_holds(
    verifier: Verifier, texts: list[Any], folder: Path, tmp_path: Path
) -> None:
    every = [Conversation((1, 3, 5), 1)]
    with pytest.raises(ModelError, match=r"no special token left over: name one \(--mask-token"):
        verifier.weights.mask_token([*texts, *every])
    wider = HfVerifier(changed(folder, tmp_path / "wider", vocab_size=400))
    assert wider.weights.mask_token(every) == 384, "a row behind the vocabulary"


def test_sizes_and_mask_token_are_those_of_the_gguf(
    verifier: Verifier, gguf: Verifier, texts: list[Any]
) -> None:
    ours, theirs = vars(verifier.weights.sizes), vars(gguf.weights.sizes)
    assert ours == theirs | {"rms_eps": pytest.approx(theirs["rms_eps"])}
    assert verifier.weights.mask_token(texts) == gguf.weights.mask_token(texts) == MASK


def qwen3(folder: Path, target: Path, **changes: Any) -> Path:
    """A random Qwen3 with the tiny verifier's tokenizer and sizes."""
    torch.manual_seed(1)
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 384}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    model = Qwen3ForCausalLM(Qwen3Config(**{**sizes, **heads, **changes}))
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_norm.weight)
    shutil.copytree(folder, target)
    model.save_pretrained(target)
    return target


def test_norms_of_q_and_k_are_taken_over_where_the_verifier_has_them(
    folder: Path, texts: list[Any], tmp_path: Path
) -> None:
    weights = HfVerifier(qwen3(folder, tmp_path / "qwen3")).weights
    model = started(weights, texts[:1])
    for index, layer in enumerate(model.layers):
        own = weights.part(index, "attn_q_norm")
        assert own.std() > 0.1, "at ones a wrong name would not show"
        assert np.array_equal(layer.self_attn.q_norm.weight.detach().numpy(), own)
    assert not np.array_equal(weights.head, weights.embedding), "not tied in this one"


def test_layers_that_a_drafter_cannot_be_are_not_taken_over(folder: Path) -> None:
    model = HfVerifier(folder)
    config, last = model._files.config, model._files.model.model.layers[-1]
    config.quantization_config = {"quant_method": "fp8"}
    assert not can_warm_start(model.weights, 1)
    del config.quantization_config
    assert can_warm_start(model.weights, 4)
    last.self_attn.q_proj = torch.nn.Linear(64, 128, bias=False)  # with gates
    assert not can_warm_start(model.weights, 1)
    last.self_attn.q_proj = torch.nn.Linear(64, 64, bias=False)
    assert can_warm_start(model.weights, 1)
    model._files.model.model.layers[2].pre_feedforward_layernorm = torch.nn.LayerNorm(64)
    assert can_warm_start(model.weights, 1)
    assert not can_warm_start(model.weights, 2), "every layer that is taken over counts"


# ---- prompts -------------------------------------------------------------------------------


def test_prompts_are_the_tokens_that_libllama_makes(verifier: Verifier, gguf: Verifier) -> None:
    ours, theirs = verifier.tokenizer(None), gguf.tokenizer(None)
    prompt = theirs.prompt(MESSAGES)
    assert ours.prompt(MESSAGES) == prompt
    assert ours.text("the grey cat ") == theirs.text("the grey cat ")
    assert ours.user_header() == theirs.user_header()
    assert ours.exact_text(prompt) == theirs.exact_text(prompt)
    assert ours.decode(prompt) == theirs.decode(prompt)
    for ended in (False, True):
        answer = ours.answer("well <|im_end|>, 12", ended=ended)
        assert answer == theirs.answer("well <|im_end|>, 12", ended=ended)
        assert (2 in answer) == ended, "what a text spells is no control token"


def test_a_bos_that_a_server_adds_itself_is_not_in_the_text(folder: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer: Any = HfVerifier(folder)._files.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save_pretrained(tmp_path / "with")
    shutil.copy(folder / "config.json", tmp_path / "with")
    with_bos = HfVerifier(tmp_path / "with").tokenizer(None)
    tokens = with_bos.text("the cat")
    assert tokens[0] == 0
    assert with_bos.exact_text(tokens) == "the cat"


def test_thinking_is_switched_where_the_template_has_a_switch(folder: Path) -> None:
    plain = HfVerifier(folder)
    with pytest.raises(DFlashError, match="no switch for thinking"):
        plain.tokenizer(True).prompt(MESSAGES)
    switch = "{{ messages[0].content }}{% if enable_thinking %} Think.{% else %} Say.{% endif %}"
    plain._files.tokenizer.chat_template = switch
    said = [{"role": "user", "content": "Who?"}]
    both = [plain.tokenizer(on) for on in (True, False)]
    assert [one.decode(one.prompt(said)) for one in both] == ["Who? Think.", "Who? Say."]


def test_messages_that_the_template_refuses_are_told(folder: Path) -> None:
    strict = HfVerifier(folder)
    strict._files.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DFlashError, match="refuses these messages: roles must alternate"):
        strict.tokenizer(None).prompt(MESSAGES)


# ---- answers -------------------------------------------------------------------------------


def test_greedy_answers_are_those_of_libllama(verifier: Verifier, texts: list[Any]) -> None:
    """Prompts of different lengths in one batch; the maker's advice (a penalty) is not taken."""
    questions = [Question(list(text.prompt), Sampling(), 48) for text in texts]
    seen = []
    assert len({len(question.tokens) for question in questions}) > 3
    with verifier.generator(n_slots=3, n_ctx=N_CTX) as generator:
        written = generator.answer(questions, lambda done, tokens: seen.append((done, tokens)))
    different = sum(
        tuple(one) != text.tokens[text.start :] for one, text in zip(written, texts, strict=True)
    )
    assert different <= 1, "a tie may fall the other way"
    assert seen[-1] == (len(texts), sum(map(len, written)))
    assert [done for done, _ in seen] == [3, 6, 8]


def test_a_long_prompt_beside_it_changes_no_answer(verifier: Verifier, texts: list[Any]) -> None:
    short = [Question(list(text.prompt), Sampling(), 30) for text in texts[:4]]
    long = Question(list(texts[-1].tokens[:-1]) * 4, Sampling(), 4)
    with verifier.generator(n_slots=2, n_ctx=512) as generator:
        alone = [generator.answer([question])[0] for question in short]
        beside = [generator.answer([question, long])[0] for question in short]
    assert len(long.tokens) > 200
    assert alone == beside


def test_sampled_answers_depend_on_the_questions_alone(
    verifier: Verifier, texts: list[Any]
) -> None:
    questions = [
        Question(list(text.prompt), Sampling((0.0, 1.0)[i % 2], seed=i), 20)
        for i, text in enumerate(texts)
    ]
    other = [Question(q.tokens, Sampling(q.sampling.temperature, seed=99), 20) for q in questions]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with verifier.generator(n_slots=2, n_ctx=N_CTX) as generator:
        first = generator.answer(questions)
        others = generator.answer(other)
        assert generator.answer(questions) == first
    assert torch.equal(torch.rand(3), expected), "training's own numbers go on as they were"
    assert others[::2] == first[::2], "greedy ones know no seed"
    assert others[1::2] != first[1::2]


def test_an_answer_ends_with_the_end_the_limit_or_the_context(
    verifier: Verifier, texts: list[Any]
) -> None:
    prompt = list(texts[0].prompt)
    with verifier.generator(n_slots=2, n_ctx=64) as generator:
        questions = [Question(prompt, Sampling(), n) for n in (3, 200)]
        short, whole = generator.answer(questions)
        full = generator.answer([Question(prompt * 4, Sampling(), 10_000)])[0]
        with pytest.raises(ContextError, match="there is room for 64"):
            generator.answer([Question([5] * 64, Sampling(), 4)])
        with pytest.raises(DFlashError, match="without tokens"):
            generator.answer([Question([], Sampling(), 4)])
    assert len(short) == 3 < len(whole)
    assert whole[-1] == 2
    assert len(prompt * 4) + len(full) <= 64


def test_the_verifier_makes_up_user_turns(verifier: Verifier) -> None:
    with verifier.generator(n_slots=8, n_ctx=N_CTX) as generator:
        turns = synthesize(generator, verifier.tokenizer(None), 4, seed=1)
        assert turns == synthesize(generator, verifier.tokenizer(None), 4, seed=1)
    assert 0 < len(turns) == len(set(turns)) <= 4
    assert all("<|im" not in turn for turn in turns)


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
