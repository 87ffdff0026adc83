"""Answers from a running server with OpenAI's completions API: llama-server, vLLM, and the like."""

from __future__ import annotations

import email.utils
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from dflash_local.errors import DFlashError

from .answerer import Question
from .verifiers.verifier import ChatTokenizer, Progress

_SECONDS = 600.0  # for one answer
#: Seconds before a request is sent again; a server may ask for more of them.
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_LONGEST_DELAY = 300.0
_BUSY = {408, 425, 429, 502, 503, 504}
_REFUSED = {400, 413, 422}


@dataclass(frozen=True)
class Answered:
    """What a server said to a question.

    Attributes:
        tokens: of the answer; none where it cannot be used.
        ended: whether it came to its end.
        problem: why it cannot be used.
    """

    tokens: list[int]
    ended: bool = False
    problem: str = ""


class Endpoint:
    """A server that runs the verifier; it has to be the same model with the same tokenizer.

    A request that a busy or restarting server did not answer is sent again, after a while.

    Args:
        url: up to and with "/v1".
        template: the verifier's tokenizer, which prompts and answers go through as text.
        at_once: requests in flight.
        delays: seconds before each further try of a request.
    """

    def __init__(
        self,
        url: str,
        template: ChatTokenizer,
        at_once: int,
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self._url = url.rstrip("/") + "/completions"
        self._template = template
        self._at_once = at_once
        self._delays = delays
        self._has_answered = False

    def answer(
        self, questions: Sequence[Question], progress: Progress = lambda *_: None
    ) -> list[list[int]]:
        """The answers as tokens, in the order of the questions; none for one without an answer.

        Raises:
            DFlashError: the server cannot be reached, or answers with an error.
        """
        answers: list[list[int]] = [[] for _ in questions]
        n_done = n_tokens = 0
        for index, answered in self.each(questions):
            answers[index] = answered.tokens
            n_done, n_tokens = n_done + 1, n_tokens + len(answered.tokens)
            progress(n_done, n_tokens)
        return answers

    def each(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answered]]:
        """Answers as they come, with the indices of their questions.

        Raises:
            DFlashError: as ``answer`` does, when all that was asked before has come.
        """
        stopped = threading.Event()
        waiting = iter(enumerate(questions))
        flying: dict[Future[Answered], int] = {}
        failure: DFlashError | None = None
        pool = ThreadPoolExecutor(self._at_once)
        try:
            while True:
                while failure is None and len(flying) < self._at_once:
                    if (following := next(waiting, None)) is None:
                        break
                    flying[pool.submit(self._one, following[1], stopped)] = following[0]
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    index = flying.pop(future)
                    try:
                        answered = future.result()
                    except DFlashError as error:
                        failure = failure or error
                        stopped.set()  # nobody waits for another try
                    else:
                        yield index, answered
        finally:  # Ctrl-C too: those that wait are not sent any more
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            raise failure

    def _one(self, question: Question, stopped: threading.Event) -> Answered:
        fields = {
            "prompt": self._template.exact_text(question.tokens),
            "max_tokens": question.max_tokens,
            "temperature": question.sampling.temperature,
            "seed": question.sampling.seed,
        }
        try:
            reply = self._patiently(fields, stopped)
        except _RefusedError as error:
            if not self._has_answered:  # it is the request, not the prompt
                raise DFlashError(str(error)) from error
            return Answered([], problem=f"the server refuses the prompt ({error.said:.80})")
        try:
            choice = reply["choices"][0]
            text, reason = choice["text"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise DFlashError(f"{self._url} gave {str(reply)[:200]}, expected choices") from error
        if text is not None and not isinstance(text, str):
            raise DFlashError(f"{self._url} gave {str(reply)[:200]}, expected a text")
        return self._answered(text, reason)

    def _answered(self, text: str | None, reason: Any) -> Answered:
        if not text:
            what = "the server gave no text" if text is None else "the server's answer is empty"
            return Answered([], problem=f"{what} (finish_reason {reason or 'not said'})")
        if reason == "content_filter":
            return Answered([], problem="the server's filter cut the answer")
        tokens = self._template.answer(text, ended=reason == "stop")
        return Answered(tokens, ended=reason == "stop")

    def _patiently(self, fields: dict[str, Any], stopped: threading.Event) -> Any:
        """The reply, to the last try if need be."""
        for delay in (*self._delays, None):
            try:
                reply = self._post(fields)
            except _BusyError as busy:
                seconds = max(delay or 0.0, busy.seconds)
                if delay is None or not busy.is_worth_it(self._has_answered):
                    raise DFlashError(str(busy)) from busy
                if stopped.wait(min(seconds, _LONGEST_DELAY)):
                    raise DFlashError(f"{busy}; not tried again") from busy
            else:
                self._has_answered = True
                return reply
        raise AssertionError("the last try returns or raises")

    def _post(self, fields: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._url, json.dumps(fields).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            said = _said(error)
            message = f"{self._url} answered {error.code}: {said}"
            if error.code in _BUSY:
                after = error.headers.get("Retry-After", "")
                raise _BusyError(message, said_so=True, seconds=_seconds(after)) from error
            if error.code >= 500:
                raise _BusyError(message) from error
            if error.code in _REFUSED:
                raise _RefusedError(message, f"{error.code}: {said}") from error
            raise DFlashError(message) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _BusyError(
                f"{self._url} cannot be asked ({error!s:.200}): is the server running, and its "
                "address one that ends in /v1?"
            ) from error


class _BusyError(Exception):
    """No answer this time.

    Attributes:
        said_so: by the server itself; else it is unknown whether there is one.
        seconds: that it asked to wait.
    """

    def __init__(self, message: str, *, said_so: bool = False, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.said_so = said_so
        self.seconds = seconds

    def is_worth_it(self, has_answered: bool) -> bool:
        """Whether to try again: what never answered at all is told at once."""
        return self.said_so or has_answered


class _RefusedError(Exception):
    """The server takes the request for a wrong one; ``said``: its words."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


def _said(error: urllib.error.HTTPError) -> str:
    """The beginning of an error's body, as far as it came."""
    try:
        return error.read(300).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return "no reason that could be read"


def _seconds(retry_after: str) -> float:
    """Of a header that has seconds, or a date."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
