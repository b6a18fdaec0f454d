"""Which parser a template asks for, what grammar holds a model to its form, and parsers of one's own."""

import json
from pathlib import Path

import pytest
import xgrammar
from chat_templates import TEMPLATES
from tool_calls import FAMILIES, Call
from xgrammar.testing import _is_grammar_accept_string

from headrace_shared.parse.tools.plugin import ToolParserPluginError, load_tool_parser_plugin
from headrace_shared.parse.tools.registry import (
    CallIds,
    detect_tool_parser,
    tool_parser,
    tool_parser_names,
    unregister_tool_parser,
)
from headrace_shared.parse.tools.tool import Tool

LLAMA = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'

# What the families' public templates have of markers, and the parser.
SIGNS = [
    ("<|start|>assistant to=functions. <|channel|>commentary json<|message|> <|call|>", "openai"),
    ("[AVAILABLE_TOOLS] [TOOL_CALLS] [", "mistral"),
    ("<|im_system|>tool_declare<|im_middle|>", "kimi_k2"),
    ("<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c> ```json", "deepseek_v3"),
    ("<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>tool_call_name", "deepseek_v31"),
    ("set toolcall_begin_token = '<minimax:tool_call>'", "minimax_m2"),
    ("<seed:tool_call>\n<function=", "seed_oss"),
    ("<tool_call>\n<function=example_function_name>\n<parameter=", "qwen3_coder"),
    ("<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>", "glm45"),
    ("<longcat_tool_call>", "longcat"),
    ("<|action_start|><|plugin|>\n", "internlm"),
    ("<tool_calls>[ <|extra_0|>", "hunyuan_a13b"),
    ("<tool_calls>[", "jamba"),
    ("<function_calls>\nget_weather(city='New York')\n</function_calls>", "olmo3"),
    ("functools[{", "phi4_mini_json"),
    ("<|tool|> <|/tool|>", "phi4_mini_json"),
    ("<|function_call_library|> <function_call> ", "granite-20b-fc"),
    ("<|start_of_role|>available_tools<|end_of_role|> <tool_call></tool_call>", "granite4"),
    ("<|start_of_role|>available_tools<|end_of_role|> <|tool_call|>", "granite"),
    ("<|header_start|> Use exact format: [func_name1(param1=value1)", "llama4_pythonic"),
    ("Respond in the format [func_name1(params_name1=params_value1", "pythonic"),
    ('[{"name": "tool_call_name", "arguments": {"arg1": "value1"}}', "xlam"),
    ("<|start_header_id|>" + LLAMA, "llama3_json"),
]


@pytest.mark.parametrize(("template", "name"), SIGNS)
def test_a_template_shows_its_family(template: str, name: str) -> None:
    found = detect_tool_parser(template)
    assert found is not None
    assert found.name == name


def test_templates_without_tools_ask_for_no_parser() -> None:
    found = {name: kind.name for name, text in TEMPLATES.items() if (kind := detect_tool_parser(text))}
    assert found == {"qwen2": "hermes", "qwen3": "hermes", "mistral": "mistral", "deepseek": "deepseek_v3"}


def test_names_are_those_of_vllm() -> None:
    seed = {"granite-20b-fc", "granite", "hermes", "internlm", "jamba", "llama3_json", "mistral", "pythonic"}
    assert seed < set(tool_parser_names())
    assert tool_parser("llama4_json") is tool_parser("llama3_json")
    with pytest.raises(KeyError):
        tool_parser("nothing")


def test_the_template_shows_the_generation_of_a_family() -> None:
    old, new = tool_parser("mistral"), tool_parser("mistral", "[TOOL_CALLS] [ARGS]")
    assert old.form != new.form
    assert old.call_ids is new.call_ids is CallIds.NINE_ALPHANUMERICS
    assert detect_tool_parser("[TOOL_CALLS] [ARGS]") is new


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "s": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
EMPTY = {"type": "object", "properties": {}}
TOOLS = [Tool("f", "", SCHEMA, strict=True), Tool("now", "", EMPTY, strict=True), Tool("free", "", SCHEMA)]
GENERATIONS = {"mistral v11": "[TOOL_CALLS] [ARGS]"}
# "<|call|>", with which openai's calls end, is an end-of-text token, of which no grammar knows.
ELSEWHERE = {"mistral v11 without [ARGS]", "openai"}
WITH_FORM = [name for name in FAMILIES if tool_parser(name.split()[0]).form is not None and name not in ELSEWHERE]


@pytest.mark.parametrize("name", WITH_FORM)
@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_grammar_allows_what_the_family_writes_and_strict_tools_allow(name: str, choice: str, parallel: bool) -> None:
    form = tool_parser(name.split()[0], GENERATIONS.get(name, "")).form
    assert form is not None
    made = form.auto(TOOLS, parallel=parallel) if choice == "auto" else form.required(TOOLS, parallel=parallel)
    grammar = xgrammar.Grammar.from_structural_tag(json.dumps({"type": "structural_tag", "format": made}))

    def allows(*calls: Call, before: str = "") -> bool:
        return _is_grammar_accept_string(grammar, before + FAMILIES[name].write(calls))

    good, now = Call("f", {"a": 1, "s": "x"}), Call("now", {})
    assert allows(good)
    assert allows(now)
    assert allows(Call("free", {"a": 1}))
    assert allows(Call("free", {"zz": [1]})) == (choice == "auto")
    assert allows(good, now) == parallel
    assert not allows(Call("f", {"a": "x"}))
    assert not allows(Call("f", {}))
    assert not allows(Call("nope", {}))
    assert allows(good, before="Hi ") == (choice == "auto")
    assert _is_grammar_accept_string(grammar, "Hi") == (choice == "auto")


def test_a_grammar_needs_tools() -> None:
    form = tool_parser("hermes").form
    assert form is not None
    with pytest.raises(ValueError, match="no tools"):
        form.auto([], parallel=True)


PLUGIN = """
from headrace_shared.parse.tools.json_calls import JsonCallsParser, JsonForm
from headrace_shared.parse.tools.registry import ToolKind, register_tool_parser

FORM = JsonForm(starts=("<mine>",), ends=("</mine>",))
register_tool_parser(ToolKind("NAME", lambda tools, prompt_tail: JsonCallsParser(FORM), signs=("<mine>",)))
"""


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.py"
    path.write_text(text)
    return path


def test_a_file_adds_parsers(tmp_path: Path) -> None:
    names = load_tool_parser_plugin(_file(tmp_path, PLUGIN.replace("NAME", "mine")))
    try:
        assert names == ["mine"]
        assert "mine" in tool_parser_names()
        assert detect_tool_parser("<mine>") is tool_parser("mine")
        pieces = tool_parser("mine").factory([], "").feed('<mine>{"name": "f"}')
        assert len(pieces) == 2
    finally:
        unregister_tool_parser("mine")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / 0", "failed to load with ZeroDivisionError: division by zero"),
        ("x = 1", "registers no parser; it should call register_tool_parser"),
        (PLUGIN.replace("NAME", "hermes"), "there is a tool parser named hermes already; choose another name"),
        (PLUGIN.replace("NAME", "mine") + "1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_adds_nothing(tmp_path: Path, text: str, says: str) -> None:
    before = tool_parser_names()
    with pytest.raises(ToolParserPluginError, match=r"own\.py") as caught:
        load_tool_parser_plugin(_file(tmp_path, text))
    assert says in str(caught.value)
    assert tool_parser_names() == before


def test_a_missing_file_and_one_that_is_not_python_are_named(tmp_path: Path) -> None:
    with pytest.raises(ToolParserPluginError, match=r"nothing\.py: there is no such file"):
        load_tool_parser_plugin(tmp_path / "nothing.py")
    path = tmp_path / "own.txt"
    path.write_text("")
    with pytest.raises(ToolParserPluginError, match=r"should end in \.py"):
        load_tool_parser_plugin(path)
