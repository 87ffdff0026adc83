"""libllama's log goes to Python's logging, and nobody else's output is touched."""

from __future__ import annotations

import ctypes
import logging
import threading
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import MakeLlama

from dflash_local import Llama, ModelError, _core
from dflash_local._api import parents_log
from dflash_local.llama_log import captured_log, listening


def libllamas_callback() -> int | None:
    callback, user_data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(callback), ctypes.byref(user_data))
    return ctypes.cast(callback, ctypes.c_void_p).value


def say(level: int, *pieces: bytes) -> None:
    """As libllama does, through its callback."""
    callback = llama_cpp.llama_log_callback(libllamas_callback())
    for i, piece in enumerate(pieces):
        callback(level if i == 0 else 5, piece, None)


@pytest.fixture(autouse=True)
def quiet_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a model that was loaded with ``verbose=False``; before, llama_cpp prints all."""
    monkeypatch.setattr(parents_log.logger, "level", logging.ERROR)


@pytest.mark.parametrize(
    ("level", "named"),
    [(1, logging.DEBUG), (2, logging.INFO), (3, logging.WARNING), (4, logging.ERROR)],
)
def test_lines_go_to_the_logger_at_their_level(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], level: int, named: int
) -> None:
    with caplog.at_level(logging.DEBUG, "dflash_local"):
        say(level, b"one ", b"line\nand ", b"another %d\n")
    assert caplog.record_tuples == [
        ("dflash_local", named, "one line"),
        ("dflash_local", named, "and another %d"),
    ]
    assert capfd.readouterr() == ("", "")


def test_what_is_logged_while_a_model_is_loaded_is_not_printed(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
) -> None:
    with caplog.at_level(logging.DEBUG, "dflash_local"):
        llm = make_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], n_ctx=1024)
        llm("anna is", max_tokens=3)
        llm.close()
    assert capfd.readouterr() == ("", "")
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert any("n_ctx_train" in text and level == logging.WARNING for level, text in said)
    assert any("loaded meta data" in text and level == logging.INFO for level, text in said)


def test_the_parents_own_models_print_as_before_where_they_were_told_to(
    capfd: pytest.CaptureFixture[str], make_llama: MakeLlama, tiny_verifier: Path
) -> None:
    make_llama(llama_cpp.Llama, tiny_verifier, verbose=True)
    assert "loaded meta data" in capfd.readouterr().err
    make_llama(llama_cpp.Llama, tiny_verifier, verbose=False)
    assert "loaded meta data" not in capfd.readouterr().err


def test_the_callback_stays_the_same() -> None:
    before = libllamas_callback()
    assert before == _core.log_callback()
    with captured_log(), captured_log():
        assert libllamas_callback() == before
    assert libllamas_callback() == before


def test_each_thread_captures_what_is_logged_in_it() -> None:
    barrier = threading.Barrier(4)
    found: dict[int, list[str]] = {}

    def work(i: int) -> None:
        with captured_log() as log:
            barrier.wait()
            for n in range(50):
                say(4, b"thread %d, " % i, b"line %d\n" % n)
                say(2, b"no error\n")
        found[i] = log

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [f"thread {i}, line {n}\n" for n in range(50)] for i in range(4)}


def test_a_listener_that_fails_does_not_reach_libllama(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be thrown through C: it is told to Python's hook for such errors."""
    told: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda event: told.append(event.exc_type))

    def fail(_level: int, _line: str) -> None:
        raise ZeroDivisionError

    with listening(fail):
        say(2, b"a line\n")
    assert told == [ZeroDivisionError]
    say(2, b"another\n")
    assert told == [ZeroDivisionError]


def test_a_file_that_libllama_cannot_load_is_an_error_with_its_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(ModelError, match=r"broken.gguf.*failed to (read|load)") as caught:
        Llama(broken)
    assert isinstance(caught.value, ValueError)
