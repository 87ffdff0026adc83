"""Answers of a server that is busy, restarts, or has nothing to say; the requests are real."""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from templates import VERIFIER, Done, run, write_rows

from dflash_local import DFlashError
from dflash_local.cli import train
from dflash_local.train import endpoint
from dflash_local.train.answerer import Question, Sampling
from dflash_local.train.endpoint import Endpoint
from dflash_local.train.verifiers.gguf_template import Template

WORDS = ("you", "so", "the", "and", "river", "name", "of", "is")
SMALL = (
    *("--max-tokens", "24", "--max-length", "128", "--at-once", "4", "--held-out", "0.2"),
    *("--layers", "1", "--block", "5", "--target-layers", "0,1,2", "--threads", "1"),
    *("--steps", "2", "--evaluate-every", "2", "--blocks", "2"),
)

#: What to do with the n-th request, from 1, of a prompt: None answers it, a number is the status
#: of an error, "reset" closes the connection, anything else is the body.
Fault = Callable[[int, str], Any]


class Server:
    """An address, and the prompts that were asked there."""

    def __init__(self) -> None:
        self.url = ""
        self.fault: Fault = lambda _n, _prompt: None
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.lock = threading.Lock()


def choice(text: Any, reason: Any = "stop") -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": reason}]}


@contextmanager
def serving() -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
            with served.lock:
                served.asked.append(prompt)
                fault = served.fault(len(served.asked), prompt)
            if fault == "reset":
                self.connection.close()
                return
            words = random.Random(prompt)
            answer = choice(" ".join(words.choice(WORDS) for _ in range(12)))
            body = fault if isinstance(fault, dict) else {"error": "busy"} if fault else answer
            self.send_response(fault if isinstance(fault, int) else 200)
            for name, value in served.headers.items() if isinstance(fault, int) else ():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        served.url = f"http://127.0.0.1:{server.server_port}/v1"
        yield served
        server.shutdown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Waits are short here; what a server asks for is waited for."""
    monkeypatch.setattr(Endpoint.__init__, "__defaults__", ((0.01, 0.02, 0.03),))
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(VERIFIER)


def questions(template: Template, n: int) -> list[Question]:
    return [Question(template.text(f"river {i}"), Sampling(), 24) for i in range(n)]


def rows(folder: Path, n: int) -> Path:
    texts = (f"Tell me about the river number {i} please" for i in range(n))
    return write_rows(
        folder / "rows.jsonl", [{"messages": [{"role": "user", "content": text}]} for text in texts]
    )


def generate(folder: Path, server: Server, n: int, *arguments: object, step: str = "") -> Done:
    given = [step or "generate", "--verifier", VERIFIER, "--out", folder / "out"]
    prompts = ("--prompts", rows(folder, n), "--endpoint", server.url)
    return run(train.main, *given, *prompts, *SMALL, *arguments)


def kept(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "out/work/conversations.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# ---- a server that does not answer at once -------------------------------------------------


@pytest.mark.parametrize("fault", [503, 502, 504, 429, 408, 500, "reset", choice("")])
def test_a_request_that_fails_once_is_sent_again(
    server: Server, template: Template, fault: Any
) -> None:
    server.fault = lambda n, _: fault if n == 5 and not isinstance(fault, dict) else None
    asked = questions(template, 12)
    answers = Endpoint(server.url, template, at_once=2).answer(asked)
    assert all(answers)
    assert len(server.asked) == 12 + (not isinstance(fault, dict))


def test_a_server_that_loads_its_model_is_waited_for(server: Server, template: Template) -> None:
    server.fault = lambda n, _: 503 if n <= 2 else None
    assert all(Endpoint(server.url, template, at_once=2).answer(questions(template, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("spelled", ["seconds", "a date"])
def test_a_server_says_how_long_to_wait(server: Server, template: Template, spelled: str) -> None:
    server.fault = lambda n, _: 429 if n == 1 else None
    in_two = email.utils.formatdate(time.time() + 2, usegmt=True)  # whole seconds
    server.headers = {"Retry-After": "1" if spelled == "seconds" else in_two}
    start = time.monotonic()
    assert all(Endpoint(server.url, template, at_once=1).answer(questions(template, 1)))
    assert time.monotonic() - start >= 0.9


def test_what_cannot_be_reached_is_told_at_once(template: Template) -> None:
    patient = Endpoint("http://127.0.0.1:9/v1", template, at_once=2, delays=(3600.0,))
    with pytest.raises(DFlashError, match="is the server running"):
        patient.answer(questions(template, 3))


def test_after_a_failure_nothing_that_was_answered_is_asked_again(
    server: Server, tmp_path: Path
) -> None:
    server.fault = lambda n, _: 503 if n > 15 else None
    done = generate(tmp_path, server, 40)
    assert done.status == 1
    assert "answered 503" in done.err
    assert len(kept(tmp_path)) == 15
    server.fault = lambda _n, _prompt: None
    before = Counter(server.asked)
    assert generate(tmp_path, server, 40).status == 0
    asked_again = Counter(server.asked) - before
    answered = {prompt for prompt in before if prompt not in asked_again}
    assert len(answered) == 15
    assert sum(asked_again.values()) == 25
    lines = kept(tmp_path)
    assert [line["prompt"] for line in lines] == list(range(40))


def test_a_line_that_was_torn_off_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    assert generate(tmp_path, server, 12).status == 0
    file = tmp_path / "out/work/conversations.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - 9])
    server.asked.clear()
    assert generate(tmp_path, server, 12).status == 0
    assert len(server.asked) == 1
    assert file.read_bytes() == whole


# ---- a server that has nothing to say ------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (choice("", "length"), "the server's answer is empty (finish_reason length)"),
        (choice("", None), "the server's answer is empty (finish_reason not said)"),
        (choice("", "stop"), "the server's answer is empty (finish_reason stop)"),
        (choice("", "content_filter"), "the server's answer is empty"),
        (choice("you are", "content_filter"), "the server's filter cut the answer"),
        (choice(None, "length"), "the server gave no text (finish_reason length)"),
        (choice(None, "stop"), "the server gave no text (finish_reason stop)"),
        (400, 'the server refuses the prompt (400: {"error": "busy"})'),
    ],
)
def test_a_prompt_without_an_answer_is_left_out_and_counted(
    server: Server, tmp_path: Path, reply: Any, reason: str
) -> None:
    server.fault = lambda n, prompt: reply if n > 4 and "number 7 " in prompt else None
    for _ in range(2):
        done = generate(tmp_path, server, 24)
        assert done.status == 0, done.err
    assert len(server.asked) == 24, "it is not asked again"
    assert len(kept(tmp_path)) == 24
    done = generate(tmp_path, server, 24, step="fit")
    assert done.status == 0, done.err
    assert f"1 of 24 texts: {reason}" in done.err
    assert "None" not in done.err


def test_the_end_of_an_answer_and_its_limit_are_told_apart(server: Server, tmp_path: Path) -> None:
    server.fault = lambda _, prompt: choice("you are", "length") if "number 7 " in prompt else None
    assert generate(tmp_path, server, 20).status == 0
    texts = kept(tmp_path)
    assert [text["ended"] for text in texts] == [i != 7 for i in range(20)]
    assert [text["tokens"][-1] == 2 for text in texts] == [i != 7 for i in range(20)]


def test_too_many_without_an_answer_stop_the_run(server: Server, tmp_path: Path) -> None:
    server.fault = lambda _, prompt: choice("") if "number 1" in prompt else None
    done = generate(tmp_path, server, 20)
    assert done.status == 1
    assert "11 of 20 answers cannot be used" in done.err
    done = generate(tmp_path, server, 20, "--most-refused", "60%")
    assert done.status == 0
    assert len(server.asked) == 20


@pytest.mark.parametrize("reply", [{}, {"choices": []}, choice(5), [1]])
def test_what_is_no_completion_is_told(server: Server, template: Template, reply: Any) -> None:
    server.fault = lambda _n, _prompt: reply if isinstance(reply, dict) else {"choices": reply}
    with pytest.raises(DFlashError, match="expected"):
        Endpoint(server.url, template, at_once=2).answer(questions(template, 2))


def test_the_delays_grow() -> None:
    assert list(endpoint.DELAYS) == sorted(endpoint.DELAYS)
    assert 30 < sum(endpoint.DELAYS) < 120, "a server that restarts takes about that long"
