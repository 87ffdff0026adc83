"""Answers that are trained on: greedy, sampled, from a server, and interrupted."""

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
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import training
from training import N_CTX, VERIFIER, answers

from dflash_local import ContextError, DFlashError
from dflash_local.train.answerer import Answerer, Question, Sampling
from dflash_local.train.answers import make_answers
from dflash_local.train.endpoint import Endpoint
from dflash_local.train.options import Data, TrainOptions
from dflash_local.train.questions import synthesize
from dflash_local.train.verifiers.gguf_template import Template
from dflash_local.train.verifiers.gguf_verifier import GGUFVerifier
from dflash_local.train.workspace import Workspace

# pytest finds fixtures by the names of a module.
template = training.template


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
