"""A conversation: what is read again, what makes room, and how an answer ends."""

from __future__ import annotations

from collections.abc import Iterator

import chats
import pytest
from chats import ENDLESS, QUESTION

from dflash_local import ContextError, Llama
from dflash_local.cli.conversation import Conversation, count_prompt_tokens
from dflash_local.cli.options import ChatOptions
from dflash_local.files import demo_pair

pytestmark = chats.needs_the_demo
# pytest finds fixtures by the names of a module.
cache = chats.cache


@pytest.mark.slow
def test_the_second_turn_reuses_the_first_and_still_drafts() -> None:
    with Llama(
        demo_pair.verifier(),
        drafter=demo_pair.drafter(),
        width=4,
        n_ctx=512,
        n_threads=1,
        n_threads_batch=1,
    ) as llm:
        conversation = Conversation(llm, ChatOptions(max_tokens=24))
        _ask(conversation, QUESTION)
        conversation.add("Now explain it to a child.")
        answer = conversation.answer(lambda _: None)
        stats = llm.stats.last
    assert stats.n_prompt < answer.n_prompt_tokens // 2
    assert 0 < stats.n_accepted < stats.n_drafted


@pytest.fixture(scope="module")
def small() -> Iterator[Llama]:
    llm = Llama(str(demo_pair.verifier()), n_ctx=256, n_threads=1, n_threads_batch=1)
    yield llm
    llm.close()


def _ask(conversation: Conversation, text: str) -> int:
    n_dropped = conversation.add(text)
    conversation.answer(lambda _: None)
    return n_dropped


@pytest.mark.slow
def test_the_oldest_turns_make_room_and_the_system_message_stays(small: Llama) -> None:
    options = ChatOptions(system="You are terse.", max_tokens=4)
    conversation = Conversation(small, options)
    long_turn = "one two three four five six seven eight nine ten " * 8
    dropped = [_ask(conversation, f"{i}: {long_turn}") for i in range(4)]
    assert sum(dropped) > 0
    assert conversation.messages[0] == {"role": "system", "content": "You are terse."}
    roles = [message["role"] for message in conversation.messages[1:]]
    assert roles == ["user", "assistant"] * (4 - sum(dropped))
    assert conversation.messages[-2]["content"].startswith("3:")
    assert count_prompt_tokens(small, conversation.messages[:-1]) + 4 <= small.n_ctx()


@pytest.mark.slow
def test_an_answer_ends_with_the_context_and_says_so(small: Llama) -> None:
    conversation = Conversation(small, ChatOptions(max_tokens=0))
    conversation.add(ENDLESS)
    answer = conversation.answer(lambda _: None)
    assert answer.finish_reason == "context"
    assert answer.n_prompt_tokens + answer.n_tokens in (small.n_ctx(), small.n_ctx() + 1)


def test_a_turn_that_cannot_fit_is_not_kept(small: Llama) -> None:
    conversation = Conversation(small, ChatOptions(max_tokens=4))
    _ask(conversation, "Hi")
    before = conversation.messages
    with pytest.raises(ContextError, match="256"):
        conversation.add("word " * 400)
    assert conversation.messages == before
    assert _ask(conversation, "Hi") == 0


def test_a_turn_that_was_interrupted_before_its_answer_is_not_kept(small: Llama) -> None:
    conversation = Conversation(small, ChatOptions(max_tokens=4))
    conversation.add("Hi")
    conversation.add("Hello")
    assert [message["content"] for message in conversation.messages] == ["Hello"]


def test_counted_prompt_tokens_are_those_llama_cpp_counts(small: Llama) -> None:
    messages = [{"role": "user", "content": "Say hello to the world"}]
    answer = small.create_chat_completion(messages=messages, max_tokens=1)
    assert count_prompt_tokens(small, messages) == answer["usage"]["prompt_tokens"]


def test_what_an_interrupted_answer_said_is_remembered(small: Llama) -> None:
    def interrupt(_piece: str) -> None:
        raise KeyboardInterrupt

    conversation = Conversation(small, ChatOptions(max_tokens=8))
    conversation.add("What is the capital of France?")
    answer = conversation.answer(interrupt)
    assert answer.finish_reason == "interrupted"
    assert conversation.messages[-1] == {"role": "assistant", "content": answer.text}
    assert answer.text
