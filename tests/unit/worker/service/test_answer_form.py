"""Which parsers a worker announces for its model, and what it refuses to start with."""

from pathlib import Path
from typing import Any

import pytest

from headrace_shared.parse.tools.registry import unregister_tool_parser
from headrace_worker.engine.build import EngineSetupError
from headrace_worker.models.files import ModelFiles
from headrace_worker.service.answer_form import AnswerForm, answer_form, check_parsers
from headrace_worker.settings import WorkerSettings

QWEN = "<tool_call> {% if enable_thinking %}<think></think>{% endif %}"
PLUGIN = """
from headrace_shared.parse.tools.registry import ToolKind, register_tool_parser, tool_parser

register_tool_parser(ToolKind("my_own", tool_parser("hermes").factory))
"""


def settings(**fields: Any) -> WorkerSettings:
    return WorkerSettings(model="m", **fields)


def form(template: str | None = None, tool_template: str | None = None, **fields: Any) -> AnswerForm:
    return answer_form(settings(**fields), ModelFiles(b"", chat_template=template, tool_template=tool_template))


def test_templates_suggest_the_parsers() -> None:
    assert form(QWEN) == AnswerForm("hermes", True, "qwen3")
    assert form("{{ messages }}") == form(None) == AnswerForm(None, True, None)
    assert form("{{ messages }}", "[TOOL_CALLS]").tool_parser == "mistral"


def test_names_go_before_what_templates_suggest() -> None:
    assert form(QWEN, tool_call_parser="qwen3_coder", reasoning_parser="deepseek_r1") == AnswerForm(
        "qwen3_coder", True, "deepseek_r1"
    )
    assert form(QWEN, tool_call_parser="none", reasoning_parser="none") == AnswerForm(None, True, None)


def test_both_can_be_switched_off() -> None:
    assert form(QWEN, enable_auto_tool_choice=False, enable_reasoning=False) == AnswerForm("hermes", False, None)
    assert form(QWEN, enable_auto_tool_choice=True, enable_reasoning=True) == AnswerForm("hermes", True, "qwen3")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"enable_auto_tool_choice": True}, "needs --tool-call-parser"),
        ({"enable_reasoning": True}, "needs --reasoning-parser"),
    ],
)
def test_what_is_switched_on_must_be_possible(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineSetupError, match=words):
        form("{{ messages }}", **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tool_call_parser": "hermes2"}, "no tool parser 'hermes2' here, only .*hermes, .*mistral"),
        ({"reasoning_parser": "r1"}, "no reasoning parser 'r1' here, only deepseek_r1, "),
        ({"reasoning_parser": "qwen3", "enable_reasoning": False}, "contradict each other"),
        ({"tool_parser_plugin": Path("/nowhere.py")}, "there is no such file"),
    ],
)
def test_what_does_not_exist_is_refused_before_the_model_is_loaded(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineSetupError, match=words):
        check_parsers(settings(**fields))


def test_an_own_parser_can_be_named(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    own = {"tool_parser_plugin": plugin, "tool_call_parser": "my_own"}
    try:
        check_parsers(settings(**own))
        assert form(QWEN, **own).tool_parser == "my_own"
    finally:
        unregister_tool_parser("my_own")
