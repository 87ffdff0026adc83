"""``dflash-local chat`` as its users meet it through a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator

import chats
import pytest
from chats import CHAT, ENDLESS, TINY, posix_only
from terminal import Terminal

pytestmark = chats.needs_the_demo
# pytest finds fixtures by the names of a module.
cache = chats.cache


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    opened = Terminal(*CHAT, *getattr(request, "param", ()))
    yield opened
    opened.close()


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize("terminal", [["--max-tokens", "24", "--width", "4"]], indirect=True)
def test_a_terminal_gets_colours_statistics_and_commands(terminal: Terminal) -> None:
    at = terminal.wait_for("/help lists commands")
    assert "smollm2-135m-dflash" in terminal.text()
    at = terminal.wait_for("> ", at)
    terminal.type("What is the capital of France?\n")
    answer = terminal.wait_for("Paris", at)
    at = terminal.wait_for("acceptance length", answer)
    assert "\x1b[2m" in terminal.text(answer)
    terminal.type("/stats\n")
    at = terminal.wait_for("accepted per position", at)
    terminal.type("/nonsense\n")
    at = terminal.wait_for("no such command", at)
    terminal.type("/exit\n")
    assert terminal.exit_status() == 0
    assert "Traceback" not in terminal.text()


@posix_only
@pytest.mark.parametrize("terminal", [[*TINY, "--max-tokens", "48"]], indirect=True)
def test_a_terminal_is_told_which_widths_were_chosen_and_why(terminal: Terminal) -> None:
    at = terminal.wait_for("> ", terminal.wait_for("adaptive widths · threads 1"))
    terminal.type("Who is anna?\n")
    said = at
    at = terminal.wait_for("\n", terminal.wait_for("tokens/s", at))
    chosen = r"tokens/s .*(widths \d:\d+%|drafting does not pay here: \d+% plain steps)"
    assert re.search(chosen, terminal.text(said))
    terminal.type("/stats\n")
    at = terminal.wait_for("a step pays where it emits more than verifying and drafting", at)
    at = terminal.wait_for("     0    1.00      -", at)
    at = terminal.wait_for("     7 ", at)
    terminal.type("/exit\n")
    assert terminal.exit_status() == 0


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize("terminal", [["--max-tokens", "0", "--width", "4"]], indirect=True)
def test_ctrl_c_stops_the_answer_and_a_second_ends_the_program(terminal: Terminal) -> None:
    at = terminal.wait_for_prompt()
    terminal.type(f"{ENDLESS}\n")
    answer = terminal.wait_for("\n", at)
    terminal.wait_for(" ", answer)
    terminal.type("\x03")
    at = terminal.wait_for_prompt(terminal.wait_for("tokens/s", answer))
    assert "the context is full" not in terminal.text(answer)
    terminal.type("/reset\n")
    at = terminal.wait_for_prompt(terminal.wait_for("is forgotten", at))
    terminal.type("What is the capital of France?\n")
    answer = terminal.wait_for("\n", at)
    terminal.wait_for_prompt(terminal.wait_for("tokens/s", answer))
    assert "Paris" in terminal.text(answer)
    terminal.type("\x03")
    assert terminal.exit_status() == 0
    assert "Traceback" not in terminal.text()


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize("terminal", [["-p", ENDLESS, "--max-tokens", "0"]], indirect=True)
def test_ctrl_c_in_one_answer_exits_with_130(terminal: Terminal) -> None:
    terminal.wait_for(" ")
    terminal.type("\x03")
    assert terminal.exit_status() == 130
    assert "Traceback" not in terminal.text()
