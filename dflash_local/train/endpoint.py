"""Answers from a running server with OpenAI's completions API: llama-server, vLLM, and the like."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dflash_local.errors import DFlashError

from .generate import Question
from .verifier import ChatTokenizer, Progress

_SECONDS = 600.0  # for one answer


class Endpoint:
    """A server that runs the verifier; it has to be the same model with the same tokenizer.

    Args:
        url: up to and with "/v1".
        template: the verifier's tokenizer, which prompts and answers go through as text.
        at_once: requests in flight.
    """

    def __init__(self, url: str, template: ChatTokenizer, at_once: int) -> None:
        self._url = url.rstrip("/") + "/completions"
        self._template = template
        self._at_once = at_once

    def answer(
        self, questions: Sequence[Question], progress: Progress = lambda *_: None
    ) -> list[list[int]]:
        """The answers as tokens, in the order of the questions.

        Raises:
            DFlashError: the server cannot be reached, or answers with an error.
        """
        answers, n_tokens = [], 0
        with ThreadPoolExecutor(self._at_once) as pool:
            try:
                for answer in pool.map(self._one, questions):
                    answers.append(answer)
                    n_tokens += len(answer)
                    progress(len(answers), n_tokens)
            except BaseException:  # Ctrl-C too: those that wait are not sent any more
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return answers

    def _one(self, question: Question) -> list[int]:
        reply = self._post(
            {
                "prompt": self._template.exact_text(question.tokens),
                "max_tokens": question.max_tokens,
                "temperature": question.sampling.temperature,
                "seed": question.sampling.seed,
            }
        )
        try:
            choice = reply["choices"][0]
            text, reason = str(choice["text"]), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise DFlashError(f"{self._url} gave {str(reply)[:200]}, expected choices") from error
        return self._template.answer(text, ended=reason == "stop")

    def _post(self, fields: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._url, json.dumps(fields).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            said = error.read()[:300].decode("utf-8", "replace")
            raise DFlashError(f"{self._url} answered {error.code}: {said}") from error
        except (OSError, ValueError) as error:
            raise DFlashError(
                f"{self._url} cannot be asked ({error}): is the server running, and its address "
                "one that ends in /v1?"
            ) from error
