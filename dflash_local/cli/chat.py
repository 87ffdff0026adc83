"""``dflash-local chat``: talk to a model, drafting with DFlash."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace

from dflash_local import Llama
from dflash_local.cli.conversation import Conversation
from dflash_local.cli.interrupts import INTERRUPTED, interrupts
from dflash_local.cli.loading import find_pair, load
from dflash_local.cli.options import ChatOptions, parse
from dflash_local.cli.report import (
    Setup,
    exact_text,
    one_line,
    report,
    totals,
    width_text,
    write_json,
)
from dflash_local.cli.screen import Screen, open_screen
from dflash_local.errors import DFlashError
from dflash_local.machine.busy import BusyWatch
from dflash_local.machine.rpc import relayed
from dflash_local.runtime.rendering import AS_LLAMA_2, chat_template

HELP = (
    "/stats  what the drafts brought so far, and what the widths are chosen by\n"
    "/reset  forget the conversation\n"
    "/exit   leave (so do Ctrl-D, and Ctrl-C at the prompt)"
)


def main(argv: list[str]) -> int:
    """Run the subcommand; returns the exit status."""
    options = parse(argv)
    screen = open_screen()
    text: str | None = ""  # None: a conversation
    try:
        text = _one_shot_text(options)
        if text is not None and not text.strip():
            screen.notice("dflash-local chat: nothing to answer, standard input is empty (see -p)")
            return 0
        with _warnings_as_notices(screen), BusyWatch(options.threads):
            return _chat(options, text, screen)
    except KeyboardInterrupt:
        return 0 if text is None else INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left; Python must not flush it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DFlashError, OSError, RuntimeError, ValueError) as error:
        print(f"dflash-local chat: {error}", file=sys.stderr)
        return 1
    finally:
        if text is None:
            interrupts.forget()  # it is one way to leave a conversation


def _chat(options: ChatOptions, text: str | None, screen: Screen) -> int:
    with contextlib.ExitStack() as stack:
        with interrupts.held():
            verifier, drafter = find_pair(options)
            options = replace(options, rpc=stack.enter_context(relayed(options.rpc)))
            llm = stack.enter_context(contextlib.closing(load(options, (verifier, drafter))))
        if text is None:
            found = llm.drafter_path.name if llm.drafter_path else "none"
            screen.dim(f"verifier {verifier.name} · drafter {found}")
        if chat_template(llm) is None:
            screen.notice(f"{verifier.name} {AS_LLAMA_2}")
        setup = Setup(verifier, llm.drafter_path, _width(llm), options.threads)
        session = ChatSession(llm, options, setup, screen)
        return session.loop() if text is None else session.turn(text)


class ChatSession:
    """A loaded model, its conversation, and where both are shown."""

    def __init__(self, llm: Llama, options: ChatOptions, setup: Setup, screen: Screen) -> None:
        self._llm = llm
        self._setup = setup
        self._screen = screen
        self._stats_json = options.stats_json
        self._conversation = Conversation(llm, options)

    def loop(self) -> int:
        """Read and answer until the user leaves."""
        self._screen.dim(
            f"{width_text(self._setup.width)} · threads {self._setup.n_threads}"
            " · Ctrl-C stops an answer, Ctrl-D ends, /help lists commands"
        )
        while (text := self._next_line()) is not None:
            if text.startswith("/"):
                if not self._command(text.strip()):
                    break
            elif text.strip():
                self._try_turn(text)
        return 0

    def turn(self, text: str) -> int:
        """One question and its answer; returns the exit status, 130 if Ctrl-C stopped it."""
        n_dropped = self._conversation.add(text)
        if n_dropped:
            self._screen.notice(f"the context is full: forgot the oldest {n_dropped} turn(s)")
        try:
            with interrupts.stopping(self._llm.cancel):
                answer = self._conversation.answer(self._show)
        finally:
            self._screen.end_answer()
        facts = report(answer, self._llm.stats.last, self._setup)
        self._screen.dim(one_line(facts))
        if self._stats_json is not None:
            write_json(self._stats_json, facts)
        if answer.finish_reason == "context":
            self._screen.notice("the answer was cut: the context is full (see --n-ctx)")
        return INTERRUPTED if answer.finish_reason == "interrupted" else 0

    def _show(self, piece: str) -> None:
        interrupts.check()
        self._screen.piece(piece)

    def _try_turn(self, text: str) -> None:
        try:
            self.turn(text)
        except KeyboardInterrupt:  # a moment before the answer, or after it
            self._screen.notice("interrupted")
        except (DFlashError, RuntimeError, ValueError) as error:
            self._screen.notice(str(error))
        interrupts.forget()

    def _next_line(self) -> str | None:
        try:
            return _clean(self._screen.ask())
        except (EOFError, KeyboardInterrupt):
            self._screen.notice("")
            return None

    def _totals(self) -> list[str]:
        session = self._llm.session
        learned = None if session is None else session.learned()
        return [*totals(self._llm.stats.total, self._setup.width, learned), *self._exact()]

    def _exact(self) -> list[str]:
        found = self._llm.exact_widths
        return [] if found is None else [exact_text(found, self._llm.n_ctx())]

    def _command(self, name: str) -> bool:
        """Run a line that begins with a slash; False when the chat is to end."""
        if name == "/exit":
            return False
        if name == "/reset":
            self._conversation.reset()
            self._screen.notice("the conversation is forgotten")
        elif name == "/stats":
            self._screen.notice("\n".join(self._totals()))
        elif name == "/help":
            self._screen.notice(HELP)
        else:
            self._screen.notice(f"{name}: no such command (a space before it sends it)\n{HELP}")
        return True


def _width(llm: Llama) -> int | None:
    drafter = None if llm.session is None else llm.session.drafter
    if drafter is None:
        return 0
    return None if llm.width is None else min(llm.width, drafter.max_width)


def _one_shot_text(options: ChatOptions) -> str | None:
    """The only question (-p, or what is piped in), or None for a conversation."""
    if options.prompt is not None:
        return _clean(options.prompt)
    return None if sys.stdin.isatty() else _clean(sys.stdin.read())


def _clean(text: str) -> str:
    """Bytes that were no UTF-8 reach Python as surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@contextlib.contextmanager
def _warnings_as_notices(screen: Screen) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: screen.notice(f"warning: {message}")
        yield
