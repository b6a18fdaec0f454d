"""The families of models whose calls are known.

The names are those of vLLM's ``vllm/tool_parsers``. Each form is that of the family's chat template.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from headrace_shared.parse.tools.call_form import CallForm
from headrace_shared.parse.tools.harmony import HarmonyCallsParser
from headrace_shared.parse.tools.json_calls import JsonCallsParser, JsonForm
from headrace_shared.parse.tools.kind import CallIds, ToolKind
from headrace_shared.parse.tools.mistral import MistralParser
from headrace_shared.parse.tools.parser import ToolParser
from headrace_shared.parse.tools.pythonic import PythonicForm, PythonicParser
from headrace_shared.parse.tools.sections import DeepSeekParser, KimiParser
from headrace_shared.parse.tools.tool import Tool
from headrace_shared.parse.tools.xml_calls import XmlCallsParser, XmlForm

Factory = Callable[[Sequence[Tool], str], ToolParser]

_NAME, _ARGUMENTS, _PARAMETERS = '{"name": "', '", "arguments": ', '", "parameters": '


def _json(*starts: str, ends: tuple[str, ...] = (), heads: str = "{") -> Factory:
    form = JsonForm(starts=starts, ends=ends, heads=heads)
    return lambda tools, prompt_tail: JsonCallsParser(form)


def _bare_json(
    *starts: str, ends: tuple[str, ...] = (), heads: str, prefixes: tuple[str, ...] = (), separator: str = ""
) -> Factory:
    form = JsonForm(starts, ends, prefixes, heads, bare=True, separator=separator, strict=True)
    return lambda tools, prompt_tail: JsonCallsParser(form)


def _pythonic(form: PythonicForm) -> Factory:
    return lambda tools, prompt_tail: PythonicParser(form)


def _xml(form: XmlForm) -> Factory:
    return lambda tools, prompt_tail: XmlCallsParser(form, tools)


def _tagged(tag: str) -> CallForm:
    return CallForm(f"<{tag}>", f"<{tag}>\n{_NAME}", _ARGUMENTS, f"}}\n</{tag}>", separator="\n")


def _listed(trigger: str, opening: str, closing: str, separator: str = ", ") -> CallForm:
    return CallForm(trigger, _NAME, _ARGUMENTS, "}", opening, separator, closing)


def _function_tags(tag: str) -> XmlForm:
    return XmlForm(
        opening=f"<{tag}>",
        call_begin="<function=",
        name_end=">",
        argument_begin="<parameter=",
        key_end=">",
        value_begin="",
        value_ends=("</parameter>", "\n<parameter=", "\n</function>"),
        call_end="</function>",
        closing=f"</{tag}>",
        padded=True,
    )


def _function_form(tag: str) -> CallForm:
    return CallForm(
        f"<{tag}>\n<function=",
        f"<{tag}>\n<function=",
        ">\n",
        f"</function>\n</{tag}>",
        separator="\n",
        style="qwen_xml",
        quoted=False,
    )


_GLM = XmlForm(
    opening="<tool_call>",
    call_begin="",
    name_end="",
    argument_begin="<arg_key>",
    key_end="</arg_key>",
    value_begin="<arg_value>",
    value_ends=("</arg_value>",),
    call_end="</tool_call>",
    closing="",
    untyped="json",
)
_GLM_CALL = CallForm("<tool_call>", "<tool_call>", "", "</tool_call>", style="glm_xml", quoted=False)
_MINIMAX = XmlForm(
    opening="<minimax:tool_call>",
    call_begin='<invoke name="',
    name_end='">',
    argument_begin='<parameter name="',
    key_end='">',
    value_begin="",
    value_ends=("</parameter>",),
    call_end="</invoke>",
    closing="</minimax:tool_call>",
)
_DEEPSEEK, _KIMI = DeepSeekParser, KimiParser
_TOOL_CALL = _json("<tool_call>", ends=("</tool_call>",), heads="{[")
_PHI = _json("functools", "<|tool_call|>", ends=("<|/tool_call|>",), heads="[{")

# Ordered: a template that shows the signs of several families belongs to the first.
KINDS = (
    # A call ends the answer: "<|call|>" is one of the model's end-of-text tokens.
    ToolKind(
        "openai",
        lambda tools, tail: HarmonyCallsParser(),
        ("<|channel|>", "<|call|>"),
        True,
        form=CallForm(
            "<|start|>assistant<|channel|>commentary to=functions.",
            "<|start|>assistant<|channel|>commentary to=functions.",
            " <|constrain|>json<|message|>",
            "",
            quoted=False,
        ),
    ),
    # Tokenizers since V11.
    ToolKind(
        "mistral",
        lambda tools, tail: MistralParser(),
        ("[TOOL_CALLS]", "[ARGS]"),
        True,
        CallIds.NINE_ALPHANUMERICS,
        CallForm("[TOOL_CALLS]", "[TOOL_CALLS]", "[ARGS]", "", quoted=False),
    ),
    ToolKind(
        "mistral",
        lambda tools, tail: MistralParser(),
        ("[TOOL_CALLS]",),
        True,
        CallIds.NINE_ALPHANUMERICS,
        _listed("[TOOL_CALLS]", "[TOOL_CALLS] [", "]"),
    ),
    ToolKind(
        "kimi_k2",
        lambda tools, tail: KimiParser(),
        ("<|im_middle|>", "tool_declare"),
        True,
        CallIds.NAME_AND_COUNT,
        CallForm(
            _KIMI.section_begin,
            _KIMI.call_begin + "functions.",
            _KIMI.arguments_begin,
            _KIMI.call_end,
            _KIMI.section_begin,
            "",
            _KIMI.section_end,
            quoted=False,
            numbered=True,
        ),
    ),
    ToolKind(
        "deepseek_v3",
        lambda tools, tail: DeepSeekParser(),
        (_DEEPSEEK.call_begin, "```json"),
        True,
        form=CallForm(
            _DEEPSEEK.section_begin,
            _DEEPSEEK.call_begin + "function" + _DEEPSEEK.separator,
            "\n```json\n",
            "\n```" + _DEEPSEEK.call_end,
            _DEEPSEEK.section_begin,
            "\n",
            _DEEPSEEK.section_end,
            quoted=False,
        ),
    ),
    ToolKind(
        "deepseek_v31",
        lambda tools, tail: DeepSeekParser(),
        (_DEEPSEEK.call_begin,),
        True,
        form=CallForm(
            _DEEPSEEK.section_begin,
            _DEEPSEEK.call_begin,
            _DEEPSEEK.separator,
            _DEEPSEEK.call_end,
            _DEEPSEEK.section_begin,
            "",
            _DEEPSEEK.section_end,
            quoted=False,
        ),
    ),
    # "<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">2</parameter>\n</invoke>\n</minimax:tool_call>"
    ToolKind(
        "minimax_m2",
        _xml(_MINIMAX),
        ("<minimax:tool_call>",),
        True,
        form=CallForm(
            "<minimax:tool_call>",
            '<invoke name="',
            '">\n',
            "</invoke>\n",
            "<minimax:tool_call>\n",
            "",
            "</minimax:tool_call>",
            style="minimax_xml",
            quoted=False,
        ),
    ),
    # As Qwen3 Coder, with other outer tags and values without line breaks.
    ToolKind(
        "seed_oss",
        _xml(_function_tags("seed:tool_call")),
        ("<seed:tool_call>",),
        True,
        form=_function_form("seed:tool_call"),
    ),
    ToolKind(
        "qwen3_coder",
        _xml(_function_tags("tool_call")),
        ("<tool_call>", "<function="),
        True,
        form=_function_form("tool_call"),
    ),
    # "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n</tool_call>"; GLM 4.7 leaves out line breaks.
    ToolKind(
        "glm45",
        _xml(_GLM),
        ("<arg_key>",),
        True,
        form=replace(_GLM_CALL, separator="\n"),
    ),
    ToolKind("glm47", _xml(_GLM), (), True, form=_GLM_CALL),
    # "<longcat_tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</longcat_tool_call>"
    ToolKind(
        "longcat",
        _json("<longcat_tool_call>", ends=("</longcat_tool_call>",)),
        ("<longcat_tool_call>",),
        True,
        form=_tagged("longcat_tool_call"),
    ),
    # "<|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 2}}<|action_end|>"
    ToolKind(
        "internlm",
        _json("<|action_start|><|plugin|>", ends=("<|action_end|>",)),
        ("<|action_start|><|plugin|>",),
        True,
        form=CallForm(
            "<|action_start|><|plugin|>",
            "<|action_start|><|plugin|>\n" + _NAME,
            _PARAMETERS,
            "}<|action_end|>",
        ),
    ),
    # "<tool_calls>[{"name": "add", "arguments": {"a": 2}}]</tool_calls>"
    ToolKind(
        "hunyuan_a13b",
        _json("<tool_calls>", ends=("</tool_calls>",), heads="["),
        ("<tool_calls>", "<|extra_0|>"),
        form=_listed("<tool_calls>", "<tool_calls>[", "]</tool_calls>"),
    ),
    # The same, each object in a line of its own.
    ToolKind(
        "jamba",
        _json("<tool_calls>", ends=("</tool_calls>",), heads="["),
        ("<tool_calls>",),
        True,
        form=_listed("<tool_calls>", "<tool_calls>[\n    ", "\n]</tool_calls>", ",\n    "),
    ),
    # Calls as in Python, each in a line between "<function_calls>" and "</function_calls>".
    ToolKind(
        "olmo3",
        _pythonic(PythonicForm("<function_calls>", "</function_calls>", listed=False)),
        ("<function_calls>",),
    ),
    # "<|tool_call|>[{"name": "add", "arguments": {"a": 2}}]<|/tool_call|>": with the tokenizer's own markers.
    ToolKind(
        "phi4_mini_json",
        _PHI,
        ("<|tool|>", "<|/tool|>"),
        True,
        form=_listed("<|tool_call|>", "<|tool_call|>[", "]<|/tool_call|>"),
    ),
    # "functools[{"name": "add", "arguments": {"a": 2}}]", as the template asks for.
    ToolKind(
        "phi4_mini_json",
        _PHI,
        ("functools[",),
        True,
        form=_listed("functools[", "functools[", "]"),
    ),
    # "<function_call> {"name": "add", "arguments": {"a": 2}}"
    ToolKind(
        "granite-20b-fc",
        _json("<function_call>"),
        ("<function_call>",),
        form=CallForm("<function_call>", "<function_call> " + _NAME, _ARGUMENTS, "}", separator="\n"),
    ),
    # As Hermes; arguments may be JSON in a string.
    ToolKind("granite4", _TOOL_CALL, ("<|start_of_role|>", "<tool_call>"), True, form=_tagged("tool_call")),
    # "<|tool_call|>[{"name": "add", "arguments": {"a": 2}}]"; Granite 3.1 writes "<tool_call>", or no marker.
    ToolKind(
        "granite",
        _bare_json("<|tool_call|>", "<tool_call>", heads="["),
        ("<|start_of_role|>", "tools"),
        True,
        form=_listed("<|tool_call|>", "<|tool_call|>[", "]"),
    ),
    # "<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>": Hermes 2 Pro, Qwen2.5, Qwen3 and many others.
    ToolKind("hermes", _TOOL_CALL, ("<tool_call>",), True, form=_tagged("tool_call")),
    # "<|python_start|>[add(a=2), now()]<|python_end|>", or without markers.
    ToolKind(
        "llama4_pythonic",
        _pythonic(PythonicForm("<|python_start|>", "<|python_end|>")),
        ("<|header_start|>", "[func_name1("),
        True,
    ),
    # "[add(a=2), now()]": Llama 3.2 and ToolACE.
    ToolKind("pythonic", _pythonic(PythonicForm()), ("[func_name1(",)),
    # "[{"name": "add", "arguments": {"a": 2}}]", in a fence or after another family's marker.
    ToolKind(
        "xlam",
        _bare_json("```", "[TOOL_CALLS]", "<tool_call>", heads="[", prefixes=("json",), ends=("```", "</tool_call>")),
        ('[{"name": "tool_call_name", "arguments"',),
    ),
    # "{"name": "add", "parameters": {"a": 2}}; {"name": "now", "parameters": {}}", or after "<|python_tag|>".
    ToolKind(
        "llama3_json",
        _bare_json("<|python_tag|>", '{"name"', heads="{", separator=";"),
        ('{"name": function name, "parameters": dictionary',),
        True,
        form=CallForm('{"name": ', _NAME, _PARAMETERS, "}", separator="; "),
    ),
)
ALIASES = {
    "llama4_json": "llama3_json",
    "mimo": "qwen3_coder",
    "qwen3_json": "hermes",
    "qwen3_xml": "qwen3_coder",
}
