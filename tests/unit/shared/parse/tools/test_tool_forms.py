"""What answers of each family mean, also those that models write against the form."""

import pytest
from tool_calls import joined, told

from headrace_shared.parse.message import MessageParser
from headrace_shared.parse.reasoning import Reasoning, reasoning_parser
from headrace_shared.parse.tools.forced import NamedCallParser, required_calls
from headrace_shared.parse.tools.registry import tool_parser
from headrace_shared.parse.tools.tool import Tool

TOOLS = [
    Tool(
        "add",
        parameters={
            "type": "object",
            "properties": {"a": {"type": "integer"}, "note": {"type": "string"}, "on": {"type": "boolean"}},
        },
    )
]
F, B = "<function=add>\n", "\uff5c"
DS_CALL, DS_SEP, DS_END = (
    f"<{B}tool\u2581call\u2581begin{B}>",
    f"<{B}tool\u2581sep{B}>",
    f"<{B}tool\u2581call\u2581end{B}>",
)
HARMONY = "<|start|>assistant<|channel|>commentary"

# Family, answer, content, names, arguments.
ANSWERS = [
    ("hermes", '<tool_call>{"arguments": {"a": 2}, "name": "add"}</tool_call>', "", ["add"], ['{"a": 2}']),
    ("hermes", '<tool_call>{"name": "add", "id": [1], "arguments": {"a":2} }', "", ["add"], ['{"a":2}']),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', "", ["now"], ["{}"]),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", ["now"], ["{}"]),
    ("hermes", '<tool_call>{"name": "n\\u00e4", "arguments": {"a": "\\u00e4"}}', "", ["nä"], ['{"a": "\\u00e4"}']),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 2', "", ["add"], ['{"a": 2']),
    ("hermes", '<tool_call>{"name": "add", "argum', '<tool_call>{"name": "add", "argum', [], []),
    ("hermes", "<tool_call>add(2)</tool_call>", "<tool_call>add(2)</tool_call>", [], []),
    ("hermes", "<tool_call>{'name': 'add'}</tool_call>", "<tool_call>{'name': 'add'}</tool_call>", [], []),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}', '<tool_call>{"name": "", "arguments": {}}', [], []),
    ("hermes", '<tool_call>{"name": "\\ud800", "x": 1}', '<tool_call>{"name": "\\ud800", "x": 1}', [], []),
    ("hermes", "a <tool_call> is\n<tool_call>", "a <tool_call> is\n<tool_call>", [], []),
    ("hermes", '<tool_call>{}<tool_call>{"name": "f"}', "<tool_call>{}", ["f"], ["{}"]),
    ("hermes", '<tool_call>{"name": "f"}} ok', "} ok", ["f"], ["{}"]),
    ("hermes", '<tool_call>{"name": "f"}</tool_ca', "", ["f"], ["{}"]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}', "NaN}}", ["f"], ['{"a": ']),
    ("granite4", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 2}"}</tool_call>', "", ["f"], ['{"a": 2}']),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "abc123def"}]', "", ["f"], ["{}"]),
    ("mistral", "Hi[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{}[TOOL_CALLS]g{}", "Hi", ["f", "g"], ["{}", "{}"]),
    ("mistral", "[TOOL_CALLS] not json at all", "[TOOL_CALLS] not json at all", [], []),
    ("mistral", "[TOOL_CALLS][]", "[TOOL_CALLS][]", [], []),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}}, 5]', ", 5]", ["f"], ["{}"]),
    ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {}}', "", ["f"], ["{}"]),
    ("llama3_json", 'I look: {"name": "f", "parameters": {"a": 1}}', "I look: ", ["f"], ['{"a": 1}']),
    ("llama3_json", '{"name": "f", "arguments": {}}{"name": "g", "parameters": {}}', "", ["f", "g"], ["{}", "{}"]),
    ("llama3_json", '{"type": "function", "name": "f", "parameters": {}};', "", ["f"], ["{}"]),
    ("llama3_json", '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', [], []),
    ("llama3_json", '{"name": "Ada"}', '{"name": "Ada"}', [], []),
    ("llama3_json", "<|python_tag|>print(1)", "<|python_tag|>print(1)", [], []),
    ("pythonic", "[f(a=-1.5, b='it\\'s', c=[1, (2,)], d={'x': None})]", "", ["f"], ['{"a": -1.5, "b": "it\'s", "c": [1, [2]], "d": {"x": null}}']),
    ("pythonic", "[a.b(), g(x=\"\"\"p'q\"\"\", y='', z=1_000,)] ok", " ok", ["a.b", "g"], ["{}", '{"x": "p\'q", "y": "", "z": 1000}']),
    ("pythonic", "[f(a=[1, 2", "", ["f"], ["{"]),
    ("pythonic", "[link](https://example.com)", "[link](https://example.com)", [], []),
    ("pythonic", "[f(1)]", "[f(1)]", [], []),
    ("pythonic", "[f(a=1), f(a=b'x')]", "b'x')]", ["f", "f"], ['{"a": 1}', "{"]),
    ("pythonic", "[f(a=__import__('os'))]", "__import__('os'))]", ["f"], ["{"]),
    ("llama4_pythonic", "[f(a=1)]", "", ["f"], ['{"a": 1}']),
    ("olmo3", "So <function_calls>f(a=true)\ng(b=null)</function_calls>", "So ", ["f", "g"], ['{"a": true}', '{"b": null}']),
    ("granite", '[{"name": "f", "arguments": {}}]', "", ["f"], ["{}"]),
    ("granite", '<tool_call>[{"name": "f", "arguments": {}}]', "", ["f"], ["{}"]),
    ("granite", "[1, 2]", "[1, 2]", [], []),
    ("granite-20b-fc", '<function_call> {"name": 123}', '<function_call> {"name": 123}', [], []),
    ("internlm", 'Hm<|action_start|><|plugin|>{"name": "f", "arguments": {}}<|action_end|>\n', "Hm", ["f"], ["{}"]),
    ("phi4_mini_json", "functools are great", "functools are great", [], []),
    ("phi4_mini_json", '<|tool_call|>[{"name": "f", "parameters": {}}]<|/tool_call|>', "", ["f"], ["{}"]),
    ("xlam", '```json\n[{"name": "f", "arguments": {}}]\n```', "", ["f"], ["{}"]),
    ("xlam", "```python\nprint()\n```", "```python\nprint()\n```", [], []),
    ("qwen3_coder", f"<tool_call>\n{F}<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>", "", ["add"], ['{"a": 2}']),
    ("qwen3_coder", f"Hi\n{F}<parameter=note>\n 2 \n</parameter></function>", "Hi\n", ["add"], ['{"note": " 2 "}']),
    ("qwen3_coder", f"{F}<parameter=a>\n2\n<parameter=on>True\n</function>", "", ["add"], ['{"a": 2, "on": true}']),
    ("qwen3_coder", f"<tool_call>{F}<parameter=a>2</parameter></tool_call>", "", ["add"], ['{"a": 2}']),
    ("qwen3_coder", f"{F}<parameter=a>two</parameter></function>", "", ["add"], ['{"a": "two"}']),
    ("qwen3_coder", f"{F}<parameter=other>2</parameter></function>", "", ["add"], ['{"other": "2"}']),
    ("qwen3_coder", f"{F}<parameter=a>1</parameter><parameter=note>and so", "", ["add"], ['{"a": 1']),
    ("qwen3_coder", "<tool_call>\nadd", "<tool_call>\nadd", [], []),
    ("qwen3_coder", "<function=add>hm</function>", "<function=add>hm</function>", [], []),
    ("glm45", "<tool_call>add<arg_key>a</arg_key><arg_value>2</arg_value></tool_call>", "", ["add"], ['{"a": 2}']),
    ("glm45", "<tool_call>now</tool_call>\n", "", ["now"], ["{}"]),
    ("glm45", "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>[1]</arg_value>", "", ["f"], ['{"x": [1]']),
    ("glm45", "<tool_call>hello world", "<tool_call>hello world", [], []),
    ("deepseek_v3", f"{DS_CALL}function{DS_SEP}f\n```json\n\n```{DS_END}", "", ["f"], ["{}"]),
    ("deepseek_v31", f"{DS_CALL}f{DS_SEP}{{}}{DS_END}{DS_CALL}g{DS_SEP}{DS_END}", "", ["f", "g"], ["{}", "{}"]),
    ("deepseek_v31", f"{DS_CALL}f{DS_END}", f"{DS_CALL}f{DS_END}", [], []),
    ("kimi_k2", "<|tool_call_begin|>f:3<|tool_call_argument_begin|> {} <|tool_call_end|>", "", ["f"], ["{}"]),
    ("kimi_k2", "<|tool_calls_section_begin|> hm", "<|tool_calls_section_begin|> hm", [], []),
    ("openai", f"{HARMONY} to=functions.f <|constrain|>json<|message|>{{}}<|call|>", "", ["f"], ["{}"]),
    ("openai", "to=functions.f<|channel|>commentary json<|message|><|call|>", "", ["f"], ["{}"]),
    ("openai", f"Hi{HARMONY} to=functions.f code<|message|>x = 1<|call|>", "Hi", ["f"], ["x = 1"]),
    ("openai", f"{HARMONY} to=python<|message|>1<|call|>", f"{HARMONY} to=python<|message|>1<|call|>", [], []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "content", "names", "arguments"), ANSWERS)
def test_an_answer_is_told_as_its_family_means_it(
    name: str, text: str, content: str, names: list[str], arguments: list[str]
) -> None:
    kind = tool_parser(name)
    for pieces in ([text], list(text), [text[:7], text[7:]]):
        answer = told(kind.factory(TOOLS, ""), pieces)
        assert (answer.content, answer.names, answer.arguments) == (content, names, arguments)


def test_required_calls_are_a_list_of_names_and_parameters() -> None:
    text = '[{"name": "f", "parameters": {"a": 1}}, {"name": "g", "arguments": {}}]'
    answer = told(required_calls(), list(text))
    assert (answer.content, answer.names, answer.arguments) == ("", ["f", "g"], ['{"a": 1}', "{}"])


def test_a_named_call_has_the_whole_answer_as_its_arguments() -> None:
    answer = told(NamedCallParser("f"), list(' {"a": 1}'))
    assert (answer.content, answer.names, answer.arguments) == ("", ["f"], ['{"a": 1}'])
    assert told(NamedCallParser("f"), ["", " "]).names == []


def test_gpt_oss_thinks_calls_and_says() -> None:
    text = (
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>I add.<|end|>"
        f"{HARMONY} to=functions.add <|constrain|>json<|message|>{{}}<|call|>"
    )

    def pieces(cut: list[str]) -> list[object]:
        parser = MessageParser(reasoning_parser("gpt-oss").factory(""), tool_parser("openai").factory(TOOLS, ""))
        found = [piece for part in cut for piece in parser.feed(part)] + parser.finish()
        thought = "".join(piece.text for piece in found if isinstance(piece, Reasoning))
        return [thought, *joined(piece for piece in found if not isinstance(piece, Reasoning))]

    assert pieces([text]) == pieces(list(text))
    assert [getattr(piece, "name", getattr(piece, "text", piece)) for piece in pieces([text])] == [
        "hm",
        "I add.",
        "add",
        "{}",
    ]


def test_a_long_answer_is_read_in_time_that_grows_with_its_length() -> None:
    """A parser that looks at all the text again for each token would take minutes here."""
    text = '<tool_call>{"x": "' + "y" * 100_000 + '", "name": "f", "arguments": {"a": "' + "z" * 100_000 + '"}}'
    pieces = [text[at : at + 2] for at in range(0, len(text), 2)]
    assert told(tool_parser("hermes").factory(TOOLS, ""), pieces).names == ["f"]
