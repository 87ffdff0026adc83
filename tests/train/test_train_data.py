"""What is trained on: prompts, answers, readings, splits; an interruption changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_reference_parity import LayerInputs
from training import N_CTX, TARGET_LAYER_IDS, VERIFIER, answers, readings

from dflash_local import BackendError, ContextError, DFlashError, ModelError
from dflash_local.files.taps import TAPS
from dflash_local.train import ngram
from dflash_local.train.answerer import Answerer, Question, Sampling
from dflash_local.train.answers import make_answers
from dflash_local.train.capture import Capturer, Reading
from dflash_local.train.conversations import (
    Conversation,
    batches,
    cut,
    read_conversations,
    split,
    to_line,
)
from dflash_local.train.endpoint import Endpoint
from dflash_local.train.options import Data, TrainOptions
from dflash_local.train.questions import as_they_are, questions_of, read_prompts, synthesize
from dflash_local.train.store import Store, to_bf16
from dflash_local.train.verifiers.gguf_template import Template
from dflash_local.train.verifiers.gguf_verifier import GGUFVerifier
from dflash_local.train.workspace import Workspace

LAYERS = [layer + 1 for layer in TARGET_LAYER_IDS]


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(VERIFIER)


# ---- readings ------------------------------------------------------------------------------


def test_readings_are_what_stock_libllama_computes(make_llama: Any) -> None:
    """Features bit for bit, at equal batch shapes; tokens and probabilities from its logits."""
    text = answers(1)[0].tokens
    llm = make_llama(llama_cpp.Llama, VERIFIER, logits_all=True, type_k=None, type_v=None)
    states = [state.numpy()[0] for state in LayerInputs(llm).states(list(text))]
    with Capturer(VERIFIER, LAYERS, n_ctx=512, n_threads=1) as capturer:
        reading = capturer.read(text, 4)
        again = capturer.read(text, 4)
    assert np.array_equal(reading.features, np.concatenate([states[i] for i in LAYERS], axis=1))
    logits = llm.scores[: len(text)].astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logits, axis=1, kind="stable")[:, :4]
    assert np.array_equal(reading.ids, order)
    expected = np.take_along_axis(log_probs, order, 1)
    assert np.allclose(reading.log_probs, expected, atol=1e-4)
    assert np.array_equal(reading.features, again.features), "a text leaves nothing behind"


def test_a_text_in_several_batches_reads_as_in_one() -> None:
    tokens = [int(t) for t in np.random.default_rng(3).integers(4, 380, 900)]
    with Capturer(VERIFIER, LAYERS, n_ctx=1024, n_threads=1) as capturer:
        long, head = capturer.read(tokens, 2), capturer.read(tokens[:512], 2)
    assert long.features.shape == (900, len(LAYERS) * 64)
    assert np.array_equal(long.features[:512], head.features)
    assert np.array_equal(long.ids[:512], head.ids)


def test_a_text_longer_than_the_context_is_refused() -> None:
    with Capturer(VERIFIER, LAYERS, n_ctx=64, n_threads=1) as capturer:
        n_ctx = 256  # libllama rounds up
        with pytest.raises(ContextError, match="do not fit a context of"):
            capturer.read([5] * (n_ctx + 1), 1)
        with pytest.raises(ValueError, match="not in the vocabulary"):
            capturer.read([5, 384], 1)


def test_a_verifier_without_a_tap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TAPS, "gemma3")
    with pytest.raises(ModelError, match="no drafter can read verifiers of architecture 'gemma3'"):
        Capturer(VERIFIER.parent / "verifier-nolayerinp.gguf", LAYERS, n_ctx=64, n_threads=1)


def test_a_closed_verifier_is_told() -> None:
    capturer = Capturer(VERIFIER, LAYERS, n_ctx=64, n_threads=1)
    answerer = Answerer(VERIFIER, n_slots=1, n_ctx=64, n_threads=1)
    for model in (capturer, answerer):
        model.close()
        model.close()
    with pytest.raises(BackendError, match="closed"):
        capturer.read([5], 1)
    with pytest.raises(BackendError, match="closed"):
        answerer.answer([Question([5], Sampling(), 4)])


def test_reading_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    readings(answers(2))
    assert capfd.readouterr() == ("", "")


def test_reading_lets_other_threads_run() -> None:
    ticks, stop = [0], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks[0] += 1

    tokens = [7] * 512
    with Capturer(VERIFIER, LAYERS, n_ctx=512, n_threads=1) as capturer:
        thread = threading.Thread(target=tick)
        thread.start()
        before = ticks[0]
        capturer.read(tokens, 1)
        during = ticks[0] - before
        stop.set()
        thread.join()
    assert during > 1000


# ---- the store -----------------------------------------------------------------------------


def _reading(n: int, seed: int) -> Reading:
    random = np.random.default_rng(seed)
    features = random.normal(0, 30, (n, 6)).astype(np.float32)
    ids = random.integers(0, 99, (n, 2)).astype(np.int32)
    return Reading(features, ids, random.normal(-1, 1, (n, 2)).astype(np.float32))


def _same(a: Reading, b: Reading) -> bool:
    rounded = (to_bf16(b.features).astype(np.uint32) << 16).view(np.float32)
    return (
        np.array_equal(a.features, rounded)
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.log_probs, b.log_probs)
    )


def test_what_is_kept_comes_back_in_another_process_too(tmp_path: Path) -> None:
    first, second = _reading(5, 1), _reading(3, 2)
    store = Store(tmp_path, 6, 2, 10**6)
    store.put("a", first)
    store.put("b", second)
    for again in (store, Store(tmp_path, 6, 2, 10**6)):
        assert len(again) == 2
        assert _same(again.get("a"), first)
        assert _same(again.get("b"), second)
        assert "c" not in again


@pytest.mark.parametrize("name", ["features", "ids", "log_probs", "index"])
def test_what_an_interruption_left_half_written_is_written_over(tmp_path: Path, name: str) -> None:
    first, second = _reading(5, 1), _reading(3, 2)
    Store(tmp_path, 6, 2, 10**6).put("a", first)
    file = tmp_path / ("index.jsonl" if name == "index" else f"{name}.bin")
    with file.open("ab") as torn:
        torn.write(b'["b", 5')
    store = Store(tmp_path, 6, 2, 10**6)
    assert "b" not in store
    store.put("b", second)
    again = Store(tmp_path, 6, 2, 10**6)
    assert _same(again.get("a"), first)
    assert _same(again.get("b"), second)


def test_the_store_knows_when_it_is_full(tmp_path: Path) -> None:
    store = Store(tmp_path, 6, 2, max_bytes=5 * (2 * 6 + 8 * 2))
    assert store.has_room(5)
    store.put("a", _reading(4, 1))
    assert store.has_room(1)
    assert not store.has_room(2)


def test_bf16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, 1e30], np.float32)
    torch = pytest.importorskip("torch")
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    assert to_bf16(values).tolist() == theirs.tolist()


# ---- answers -------------------------------------------------------------------------------


def test_answers_in_a_batch_are_those_of_stock_llama_cpp(make_llama: Any) -> None:
    llm = make_llama(llama_cpp.Llama, VERIFIER, type_k=None, type_v=None)
    different = 0
    for text in answers(12, max_tokens=30):
        plain = []
        for token in llm.generate(list(text.prompt), temp=0.0):
            plain.append(token)
            if len(plain) == 30 or llama_cpp.llama_vocab_is_eog(
                llama_cpp.llama_model_get_vocab(llm.model), token
            ):
                break
        different += plain != list(text.tokens[text.start :])
    # A batch rounds otherwise than a row, so a tie may fall the other way.
    assert different <= 1


def _beginning_with_bos(path: Path) -> Path:
    """The verifier's tokenizer, as one that adds BOS, which the template writes too."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in gguf.GGUFReader(VERIFIER).fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = field.contents()
        if key == "tokenizer.chat_template":
            value = "{{ bos_token }}" + value
        elif key == "tokenizer.ggml.add_bos_token":
            value = True
        writer.add_key_value(key, value, field.types[0], sub_type=field.types[-1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_made_up_turns_begin_as_the_template_begins_a_conversation(
    template: Template, tmp_path: Path
) -> None:
    with_bos = Template(_beginning_with_bos(tmp_path / "bos.gguf"))
    for made in (template, with_bos):
        header = made.user_header()
        assert made.prompt([{"role": "user", "content": "hello"}])[: len(header)] == header
    assert header == [with_bos.llm.token_bos(), *template.user_header()]


def test_sampled_answers_are_those_of_llama_cpp_with_the_same_seed(template: Template) -> None:
    prompt = template.prompt([{"role": "user", "content": "Who is anna?"}])
    settings = {"temp": 5.0, "top_k": 20, "top_p": 0.999, "min_p": 0.0}
    sampling = Sampling(5.0, top_k=20, top_p=0.999)
    drawn = []
    with Answerer(VERIFIER, n_slots=1, n_ctx=N_CTX, n_threads=1) as answerer:
        for seed in range(6):
            question = Question(prompt, replace(sampling, seed=seed), 20)
            drawn.append(answerer.answer([question])[0])
    with closing(llama_cpp.Llama(str(VERIFIER), n_ctx=N_CTX, n_threads=1, verbose=False)) as llm:
        for seed, answer in enumerate(drawn):
            llm.set_seed(seed)
            assert list(islice(llm.generate(prompt, **settings), len(answer))) == answer
    assert len({tuple(answer) for answer in drawn}) > 2, "seeds make a difference"


def test_answers_do_not_depend_on_what_was_asked_before_or_interrupted(template: Template) -> None:
    prompts = [
        template.prompt([{"role": "user", "content": f"Who is {n}?"}]) for n in ("anna", "leo")
    ]
    questions = [Question(p, Sampling(1.0, seed=i), 20) for i, p in enumerate(prompts * 4)]

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with Answerer(VERIFIER, n_slots=3, n_ctx=N_CTX, n_threads=1) as answerer:
        first = answerer.answer(questions)
        with pytest.raises(KeyboardInterrupt):
            answerer.answer(questions, interrupt)
        assert answerer.answer(questions) == first
    assert len({tuple(answer) for answer in first}) > 2, "seeds make a difference"


def test_an_answer_ends_with_the_end_the_limit_or_the_context(template: Template) -> None:
    prompt = template.prompt([{"role": "user", "content": "Who is anna?"}])
    with Answerer(VERIFIER, n_slots=2, n_ctx=N_CTX, n_threads=1) as answerer:
        short, whole = answerer.answer([Question(prompt, Sampling(), n) for n in (3, 200)])
        story = template.text("the grey cat")
        (full,) = answerer.answer([Question(story, Sampling(), 10_000)])
    assert len(short) == 3 < len(whole) < 200
    assert whole[-1] == template.llm.token_eos()
    assert len(story) + len(full) <= N_CTX


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [([], ValueError, "needs a prompt"), ([9999], ValueError, "not in the vocabulary")],
)
def test_a_bad_prompt_is_refused_and_the_next_one_answered(
    prompt: list[int], error: type[Exception], words: str
) -> None:
    with Answerer(VERIFIER, n_slots=2, n_ctx=N_CTX, n_threads=1) as answerer:
        with pytest.raises(error, match=words):
            answerer.answer([Question([5, 6], Sampling(), 4), Question(prompt, Sampling(), 4)])
        with pytest.raises(ContextError, match="there is room for"):
            answerer.answer([Question([5] * 2000, Sampling(), 4)])
        assert len(answerer.answer([Question([5, 6], Sampling(), 4)])[0]) <= 4


@pytest.fixture
def served() -> Iterator[str]:
    """The address of a server with OpenAI's completions API, over the tiny verifier."""
    template, lock = Template(VERIFIER), threading.Lock()
    answerer = Answerer(VERIFIER, n_slots=1, n_ctx=N_CTX, n_threads=1)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = template.llm.tokenize(asked["prompt"].encode(), add_bos=False, special=True)
            sampling = Sampling(asked["temperature"], seed=asked["seed"])
            with lock:
                (said,) = answerer.answer([Question(prompt, sampling, asked["max_tokens"])])
            ended = said[-1] == template.llm.token_eos()
            choice = {"text": template.decode(said), "finish_reason": "stop" if ended else "length"}
            broken = "fail" in asked["prompt"]
            body = json.dumps({"error": "no"} if broken else {"choices": [choice]}).encode()
            self.send_response(500 if broken else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, answerer:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_answers_as_the_verifier_here_does(served: str, template: Template) -> None:
    prompts = [text.prompt for text in answers(6)]
    questions = [Question(list(prompt), Sampling(), 48) for prompt in prompts]
    remote = Endpoint(served, template, at_once=3).answer(questions)
    assert remote == [list(text.tokens[text.start :]) for text in answers(6)]


def test_a_server_that_fails_or_is_not_there_is_told(served: str, template: Template) -> None:
    bad = Question(template.text("fail"), Sampling(), 4)
    with pytest.raises(DFlashError, match=r"/v1/completions answered 500: .*no"):
        Endpoint(served, template, at_once=2).answer([bad])
    with pytest.raises(DFlashError, match="is the server running"):
        Endpoint("http://127.0.0.1:9/v1", template, at_once=2).answer([bad])


def test_the_verifier_makes_up_user_turns(template: Template) -> None:
    with Answerer(VERIFIER, n_slots=8, n_ctx=N_CTX, n_threads=1) as answerer:
        turns = synthesize(answerer, template, 6, seed=1)
        assert turns == synthesize(answerer, template, 6, seed=1)
    assert 0 < len(turns) <= 6
    assert len(set(turns)) == len(turns)
    assert all(turn.strip() and "<|im" not in turn for turn in turns)


# ---- prompts -------------------------------------------------------------------------------


def test_prompts_come_in_four_spellings(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Who is anna?"}]
    lines = [json.dumps({"messages": messages}), json.dumps(messages), "Who is anna?"]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join([*lines, "", json.dumps({"prompt": "the grey cat"})]))
    *chats, text = read_prompts(file)
    assert all(chat.messages == tuple(messages) for chat in chats)
    assert text.text == "the grey cat"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": 1}', 'line 2: expected "messages" or "prompt", found question'),
        ("[]", 'line 2: expected messages with "role" and "content"'),
        ('{"messages": [{"role": "user"}]}', 'line 2: expected messages with "role"'),
        ("{", "line 2: "),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"Who is anna?\n{line}\n")
    with pytest.raises(DFlashError, match=words):
        read_prompts(file)


def test_every_turn_of_a_conversation_is_asked_and_kept(tmp_path: Path, template: Template) -> None:
    messages = [
        {"role": "user", "content": "Who is anna?"},
        {"role": "assistant", "content": "anna is here."},
        {"role": "user", "content": "Who is leo?"},
        {"role": "assistant", "content": "leo is there."},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(messages) + "\n")
    (asked,) = read_prompts(file)
    questions = list(questions_of(asked, template))
    assert questions == [template.prompt(messages[:1]), template.prompt(messages[:3])]
    kept = list(as_they_are(asked, template))
    assert [list(text.prompt) for text in kept] == questions
    assert template.decode(kept[1].tokens[kept[1].start :]).startswith("leo is there.")


def test_thinking_is_switched_where_the_template_has_a_switch() -> None:
    messages = [{"role": "user", "content": "Who is anna?"}]
    thinking = Template(VERIFIER, thinking=True)
    with pytest.raises(DFlashError, match="no switch for thinking"):
        thinking.prompt(messages)
    switch = "{{ messages[0].content }}{% if enable_thinking %} Think.{% else %} Say.{% endif %}"
    texts = []
    for template in (thinking, Template(VERIFIER, thinking=False)):
        template.llm.metadata["tokenizer.chat_template"] = switch
        texts.append(template.decode(template.prompt(messages)))
    assert texts == ["Who is anna? Think.", "Who is anna? Say."]


def test_an_ngram_drafter_goes_on_as_the_last_place_that_ended_alike_did() -> None:
    assert ngram.propose([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 3) == [8, 1, 2]
    assert ngram.propose([1, 2, 9, 3, 2], 4) == [9, 3, 2]
    assert ngram.propose([1, 2, 3], 4) == []
    text = Conversation((5, 1, 2, 9, 1, 2, 9), 2)
    ids = np.array([[1], [2], [9], [1], [2], [7], [4]], np.int32)  # the best token after each
    reading = Reading(np.zeros((7, 1), np.float32), ids, np.zeros((7, 1), np.float32))
    # After 9, 1: "2" as the verifier says, then "9" where it says 7. After 9: 1, 2, 9 all wrong.
    assert ngram.accepted_drafts([(text, reading, [4])], 3).tolist() == [1]
    assert ngram.accepted_drafts([(text, reading, [4, 5])], 3).tolist() == [1, 0]


# ---- conversations -------------------------------------------------------------------------


def test_conversations_survive_a_file(tmp_path: Path) -> None:
    texts = [Conversation((1, 2, 3), 2), Conversation((4, 5), 1)]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(map(to_line, texts)))
    assert read_conversations(file) == texts


@pytest.mark.parametrize("line", ['{"tokens": [1, 2]}', '{"tokens": [1], "start": 1}', "nothing"])
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(to_line(Conversation((1, 2), 1)) + line + "\n")
    with pytest.raises(DFlashError, match="line 2"):
        read_conversations(file)


def test_a_fixed_share_is_held_out_by_prompt() -> None:
    texts = [Conversation((*map(int, str(i)), 7, i % 5, 3), 5) for i in range(10_000, 14_000)]
    train, held_out = split(texts, 0.1)
    assert {*train, *held_out} == set(texts)
    assert 0.07 < len(held_out) / len(texts) < 0.13
    asked = {text.prompt for text in held_out}
    assert not asked & {text.prompt for text in train}, "answers to one prompt stay together"
    other_answers = [Conversation((*text.tokens, 9), text.start) for text in texts]
    assert {text.prompt for text in split(other_answers, 0.1)[1]} == asked


def test_one_prompt_at_least_is_held_out() -> None:
    texts = [Conversation((i, 1, 2), 1) for i in range(8)]
    train, held_out = split(texts, 1e-9)
    assert (len(train), len(held_out)) == (7, 1)
    assert split([], 0.1) == ([], [])


def test_a_cut_conversation_has_an_answer_or_is_none() -> None:
    text = Conversation(tuple(range(10)), 6)
    assert cut(text, 8) == Conversation(tuple(range(8)), 6)
    assert cut(text, 7) is None


def test_an_epoch_has_each_text_once_and_texts_of_like_length_together() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(10, 500, 1001)]
    made = batches(lengths, 4, epoch=0, seed=1)
    indices = [i for batch in made for i in batch]
    assert len(indices) == len(set(indices)) == 1000
    spread = np.mean([np.ptp([lengths[i] for i in batch]) for batch in made])
    assert spread < 0.2 * np.ptp(lengths)
    assert made == batches(lengths, 4, epoch=0, seed=1)
    assert made != batches(lengths, 4, epoch=1, seed=1)


# ---- an interruption while answers are kept ----------------------------------------------------


@pytest.mark.parametrize("n_kept", [20.5, 24, 15.5])
def test_a_group_of_answers_that_was_torn_is_begun_anew(tmp_path: Path, n_kept: float) -> None:
    """Groups are of 16; what lies in the folder ends within a group, or within a line of it."""
    options = TrainOptions(VERIFIER, tmp_path, Data(max_tokens=8, at_once=1))
    verifier = GGUFVerifier(VERIFIER, 1, 0)
    work = Workspace(options, verifier)
    template = verifier.tokenizer(None)
    prompts = [template.prompt([{"role": "user", "content": f"Who is {n}?"}]) for n in range(40)]
    work.write_lines(work.prompts, (f"{prompt}\n" for prompt in prompts))
    began: list[int] = []

    def note(_: str, done: int, total: int) -> None:
        assert total == 40
        began.append(done)

    make_answers(options, verifier, work, note)
    assert began[0] == 0
    whole = work.conversations.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == len(work.read_conversations()) == 40
    n, torn = int(n_kept), lines[int(n_kept)][:12] if n_kept % 1 else b""
    work.conversations.write_bytes(b"".join(lines[:n]) + torn)
    assert len(work.read_conversations()) == n
    began.clear()
    make_answers(options, verifier, work, note)
    assert began[0] == n // 16 * 16
    assert work.conversations.read_bytes() == whole
    began.clear()
    make_answers(options, verifier, work, note)
    assert began == []
