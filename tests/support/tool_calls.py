"""Calls of tools as each family of models writes them, and how parsers tell them."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from headrace_shared.parse.tools.parser import CallArguments, CallStart, Content, ToolParser, ToolPiece
from headrace_shared.parse.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Call:
    """A name and the arguments of one call."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """What a parser has told of an answer."""

    content: str
    names: list[str]
    arguments: list[str]

    @property
    def calls(self) -> list[Call]:
        pairs = zip(self.names, self.arguments, strict=True)
        return [Call(name, json.loads(arguments)) for name, arguments in pairs]


def told(parser: ToolParser, pieces: Iterable[str]) -> Told:
    """What the parser tells of an answer that comes in these pieces; asserts the order that the interface promises."""
    content, names, arguments = "", [], []
    for piece in events(parser, pieces):
        match piece:
            case Content(text):
                assert text
                content += text
            case CallStart(index, name):
                assert index == len(names)
                names.append(name)
                arguments.append("")
            case CallArguments(index, text):
                assert text
                assert index == len(names) - 1
                arguments[index] += text
    return Told(content, names, arguments)


def events(parser: ToolParser, pieces: Iterable[str]) -> list[ToolPiece]:
    found = [piece for text in pieces for piece in parser.feed(text)]
    return found + parser.finish()


def joined(pieces: Iterable[ToolPiece]) -> list[ToolPiece]:
    """The same pieces with neighbours of one kind made one."""
    result: list[ToolPiece] = []
    for piece in pieces:
        match result[-1] if result else None, piece:
            case Content(before), Content(text):
                result[-1] = Content(before + text)
            case CallArguments(index, before), CallArguments(_, text):
                result[-1] = CallArguments(index, before + text)
            case _:
                result.append(piece)
    return result


def cut(text: str, at: Iterable[int]) -> list[str]:
    """The text in pieces that begin at these places."""
    places = [0, *sorted({place % (len(text) + 1) for place in at}), len(text)]
    return [text[begin:end] for begin, end in pairwise(places)]


@dataclass(frozen=True, slots=True)
class Family:
    """``write`` renders calls as the family's models do. ``values``: what their form can say.

    ``edges``: whether white space at the ends of a value survives the form. ``many``: whether an answer may hold
    several calls.
    """

    write: Callable[[Sequence[Call]], str]
    values: str = "json"
    edges: bool = True
    many: bool = True


def _objects(calls: Sequence[Call], key: str = "arguments") -> list[str]:
    return [json.dumps({"name": call.name, key: call.arguments}, ensure_ascii=False) for call in calls]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _functions(calls: Sequence[Call], tag: str, edge: str) -> str:
    return "\n".join(
        f"<{tag}>\n<function={call.name}>\n"
        + "".join(
            f"<parameter={key}>{edge}{_plain(value)}{edge}</parameter>\n" for key, value in call.arguments.items()
        )
        + f"</function>\n</{tag}>"
        for call in calls
    )


def _glm(calls: Sequence[Call], edge: str = "\n") -> str:
    return edge.join(
        f"<tool_call>{call.name}{edge}"
        + "".join(
            f"<arg_key>{key}</arg_key>{edge}<arg_value>{_plain(value)}</arg_value>{edge}"
            for key, value in call.arguments.items()
        )
        + "</tool_call>"
        for call in calls
    )


def _minimax(calls: Sequence[Call]) -> str:
    invokes = [
        f'<invoke name="{call.name}">\n'
        + "".join(f'<parameter name="{key}">{_plain(value)}</parameter>\n' for key, value in call.arguments.items())
        + "</invoke>\n"
        for call in calls
    ]
    return f"<minimax:tool_call>\n{''.join(invokes)}</minimax:tool_call>"


def _python(calls: Sequence[Call]) -> list[str]:
    return [f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})" for call in calls]


def _arguments(call: Call) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)


def _deepseek(calls: Sequence[Call], call_form: str, separator: str) -> str:
    bodies = [
        call_form.replace("NAME", call.name)
        .replace("ARGUMENTS", _arguments(call))
        .join(("<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"))
        for call in calls
    ]
    return f"<\uff5ctool\u2581calls\u2581begin\uff5c>{separator.join(bodies)}<\uff5ctool\u2581calls\u2581end\uff5c>"


def _kimi(calls: Sequence[Call]) -> str:
    bodies = [
        f"<|tool_call_begin|>functions.{call.name}:{index}<|tool_call_argument_begin|>{_arguments(call)}<|tool_call_end|>"
        for index, call in enumerate(calls)
    ]
    return f"<|tool_calls_section_begin|>{''.join(bodies)}<|tool_calls_section_end|>"


def _harmony(calls: Sequence[Call]) -> str:
    return "".join(
        f"<|start|>assistant<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>"
        f"{_arguments(call)}<|call|>"
        for call in calls
    )


_SEP = "<\uff5ctool\u2581sep\uff5c>"


FAMILIES = {
    "openai": Family(_harmony),
    "mistral": Family(lambda calls: f"[TOOL_CALLS] [{', '.join(_objects(calls))}]"),
    "mistral v11": Family(lambda calls: "".join(f"[TOOL_CALLS]{call.name}[ARGS]{_arguments(call)}" for call in calls)),
    "mistral v11 without [ARGS]": Family(
        lambda calls: "".join(f"[TOOL_CALLS]{call.name}{_arguments(call)}" for call in calls)
    ),
    "kimi_k2": Family(_kimi),
    "deepseek_v3": Family(lambda calls: _deepseek(calls, f"function{_SEP}NAME\n```json\nARGUMENTS\n```", "\n")),
    "deepseek_v31": Family(lambda calls: _deepseek(calls, f"NAME{_SEP}ARGUMENTS", "")),
    "minimax_m2": Family(_minimax, "text"),
    "seed_oss": Family(lambda calls: _functions(calls, "seed:tool_call", ""), "text", edges=False),
    "qwen3_coder": Family(lambda calls: _functions(calls, "tool_call", "\n"), "text"),
    "glm45": Family(_glm, "text"),
    "glm47": Family(lambda calls: _glm(calls, ""), "text"),
    "longcat": Family(
        lambda calls: "\n".join(f"<longcat_tool_call>\n{call}\n</longcat_tool_call>" for call in _objects(calls))
    ),
    "internlm": Family(
        lambda calls: "".join(
            f"<|action_start|><|plugin|>\n{call}<|action_end|>" for call in _objects(calls, "parameters")
        )
    ),
    "hunyuan_a13b": Family(lambda calls: f"<tool_calls>[{', '.join(_objects(calls))}]</tool_calls>"),
    "jamba": Family(lambda calls: "<tool_calls>[\n    " + ",\n    ".join(_objects(calls)) + "\n]</tool_calls>"),
    "olmo3": Family(lambda calls: "<function_calls>\n" + "\n".join(_python(calls)) + "\n</function_calls>", "python"),
    "phi4_mini_json": Family(lambda calls: f"functools[{', '.join(_objects(calls))}]"),
    "granite-20b-fc": Family(lambda calls: "\n".join(f"<function_call> {call}" for call in _objects(calls))),
    "granite": Family(lambda calls: f"<|tool_call|>[{', '.join(_objects(calls))}]"),
    "granite4": Family(lambda calls: "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in _objects(calls))),
    "hermes": Family(lambda calls: "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in _objects(calls))),
    "llama4_pythonic": Family(lambda calls: f"<|python_start|>[{', '.join(_python(calls))}]<|python_end|>", "python"),
    "pythonic": Family(lambda calls: f"[{', '.join(_python(calls))}]", "python"),
    "xlam": Family(lambda calls: f"[{', '.join(_objects(calls))}]"),
    "llama3_json": Family(lambda calls: "; ".join(_objects(calls, "parameters"))),
}
"""By the name of the parser, or of one of its forms: a name, a blank and a word."""

MARKERS = (
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<function=f>", "<parameter=a>"),
    *("</parameter>", "</function>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|python_tag|>"),
    *("<|channel|>commentary to=functions.f ", "<|message|>", "<|call|>", "<|start|>assistant", "functools"),
    *("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    *("<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581begin\uff5c>", _SEP, "```json", "```"),
    *("<\uff5ctool\u2581call\u2581end\uff5c>", "<|action_start|><|plugin|>", "<|action_end|>", "<function_call>"),
    *("<tool_calls>", "</tool_calls>", "<function_calls>", "</function_calls>", "<seed:tool_call>", "<|python_start|>"),
    *("<minimax:tool_call>", '<invoke name="f">', '<parameter name="a">', "</invoke>", "<longcat_tool_call>"),
)
SYNTAX = (
    *('{"name": "f", "arguments": ', '{"name"', '"name"', '"f"', '"arguments": ', '"parameters": ', "{", "}", "[", "]"),
    *(
        ": ",
        ", ",
        '"',
        "\\",
        "\\u12",
        "'",
        "f(",
        "a=",
        ")",
        "f",
        "functions.f:0",
        "null",
        "true",
        "1.5",
        " ",
        "\n",
        ";",
    ),
)

NAMES = st.sampled_from(["add", "now", "get_weather", "fs.read-file", "f", "name", "wetter_für_orte"])
KEYS = st.sampled_from(["a", "b", "city", "name", "größe", "is_on", "x1"])
TEXTS = st.text(max_size=12) | st.lists(st.sampled_from(MARKERS + SYNTAX), max_size=4).map("".join)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=5
)
GARBAGE = st.lists(st.sampled_from(MARKERS + SYNTAX) | st.text(max_size=4), max_size=14).map("".join)


@st.composite
def damaged(draw: st.DrawFn, family: Family) -> str:
    """Calls in which something is missing, doubled or too much."""
    text = family.write(draw(calls_of(family)))
    for _ in range(draw(st.integers(1, 3))):
        begin, size = draw(st.integers(0, len(text))), draw(st.integers(0, 6))
        text = text[:begin] + draw(st.sampled_from(["", *MARKERS, *SYNTAX])) + text[begin + size :]
    return text


CUTS = st.lists(st.integers(0, 10_000), max_size=8)


def calls_of(family: Family) -> st.SearchStrategy[list[Call]]:
    """Calls that the family's form can say."""
    values = VALUES
    if family.values == "text":
        values = values.filter(lambda value: not isinstance(value, str) or _sayable(value, family.edges))
        values = values.filter(lambda value: isinstance(value, str) or _sayable(json.dumps(value), True))
    arguments = st.dictionaries(KEYS, values, max_size=3)
    return st.lists(st.builds(Call, NAMES, arguments), min_size=1, max_size=3)


def tools_of(calls: Sequence[Call]) -> list[Tool]:
    """Tools whose schemas know the calls' arguments."""
    tools: dict[str, dict[str, Any]] = {}
    for call in calls:
        properties = tools.setdefault(call.name, {})
        for key, value in call.arguments.items():
            properties[key] = {"type": _type_of(value)}
    return [Tool(name, parameters={"type": "object", "properties": properties}) for name, properties in tools.items()]


def typed_alike(calls: Sequence[Call]) -> bool:
    """Whether no argument of one tool has values of two types."""
    types: dict[tuple[str, str], str] = {}
    return all(
        types.setdefault((call.name, key), _type_of(value)) == _type_of(value)
        for call in calls
        for key, value in call.arguments.items()
    )


def _sayable(text: str, edges: bool) -> bool:
    ends = ("</parameter>", "<parameter=", "</function>", "</arg_value>", "</tool_call>")
    return not any(end in text for end in ends) and (edges or text.strip("\n") == text)


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {type(None): "null", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]
