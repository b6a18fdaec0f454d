"""What a conversation remembers, and what of an answer reaches the terminal."""

import json

import httpx
import pytest

from headrace_cli.chat import Conversation, _piece, _refusal
from headrace_cli.errors import CliError
from headrace_cli.terminal import without_controls


def test_a_conversation_sends_the_system_message_and_all_turns() -> None:
    conversation = Conversation(system="be brief")
    conversation.asked("one")
    conversation.answered("1")
    assert conversation.asked("two") == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]


def test_a_question_without_an_answer_is_taken_back() -> None:
    conversation = Conversation()
    conversation.asked("one")
    conversation.answered("")
    assert conversation.asked("two") == [{"role": "user", "content": "two"}]


def test_a_piece_is_the_content_and_nothing_else() -> None:
    assert _piece({"choices": [{"delta": {"role": "assistant"}}]}) == ""
    assert _piece({"choices": [{"delta": {"content": "x"}}]}) == "x"
    assert _piece({"choices": [], "usage": {}}) == ""


def test_an_error_event_ends_the_answer() -> None:
    with pytest.raises(CliError, match="the answer broke off: lost"):
        _piece({"error": {"message": "lost"}})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (json.dumps({"error": {"message": "no such model"}}), "no such model"),
        ("<html>", "HTTP 502: <html>"),
        ("[]", "HTTP 502: []"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(body: str, words: str) -> None:
    assert _refusal(httpx.Response(502, text=body)) == words


def test_a_models_text_cannot_drive_the_terminal() -> None:
    assert without_controls("a\x1b[31mred\x1b[0m\x07\x9b2J\rb\tc\n\u00e9") == "ared2Jb\tc\n\u00e9"
