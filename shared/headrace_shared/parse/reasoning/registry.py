"""The reasoning parsers by name, and which of them a chat template asks for.

The names and forms are those of vLLM's ``vllm/reasoning``; the forms are described at each entry.
"""

from collections.abc import Callable
from dataclasses import dataclass

from headrace_shared.parse.reasoning.harmony import HarmonyParser
from headrace_shared.parse.reasoning.marker_pair import MarkerPair, Wrapper
from headrace_shared.parse.reasoning.parser import ReasoningParser


@dataclass(frozen=True, slots=True)
class ReasoningKind:
    """One family of models.

    ``factory`` makes the parser of one answer from the end of its rendered prompt, which tells whether the template
    opened the reasoning or closed it. ``starts``, ``ends``: the markers in all their spellings, the usual one first.
    ``ended_by``: what also ends the reasoning, and is part of the answer. ``answer_after``: what the answer proper, to
    which a grammar applies, comes after; the ends unless said. ``keeps_special_tokens``: markers are special tokens, so detokenization must not skip those. ``signs``: what a chat
    template of the family has, all of it.
    """

    name: str
    factory: Callable[[str], ReasoningParser]
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    signs: tuple[str, ...]
    keeps_special_tokens: bool = False
    ended_by: tuple[str, ...] = ()
    answer_after: str | None = None

    def detect(self, chat_template: str) -> bool:
        """Whether the template looks like one of this family."""
        return all(sign in chat_template for sign in self.signs)


def reasoning_parser(name: str) -> ReasoningKind:
    """The family of that name or alias. Raises KeyError for an unknown one."""
    return _BY_NAME[_ALIASES.get(name, name)]


def detect_reasoning_parser(chat_template: str) -> ReasoningKind | None:
    """The first family whose signs the template has; None when the template knows of no reasoning."""
    return next((kind for kind in _KINDS if kind.detect(chat_template)), None)


def reasoning_parser_names() -> list[str]:
    """All names that ``reasoning_parser`` knows, sorted."""
    return sorted([*_BY_NAME, *_ALIASES])


def _pair(name: str, form: MarkerPair, *signs: str, keeps_special_tokens: bool = False) -> ReasoningKind:
    return ReasoningKind(name, form.parser, form.starts, form.ends, signs, keeps_special_tokens, form.ended_by)


# Ordered: a template that shows the signs of several families belongs to the first.
_KINDS = (
    ReasoningKind(
        "openai_gptoss",
        HarmonyParser,
        ("<|channel|>analysis<|message|>",),
        ("<|end|>",),
        ("<|channel|>",),
        keeps_special_tokens=True,
        answer_after="<|channel|>final<|message|>",
    ),
    # Magistral: "[THINK]Let me see.[/THINK]It is 4."; without a start all is answer.
    _pair(
        "mistral",
        MarkerPair(("[THINK]",), ("[/THINK]",), unmarked_is_reasoning=False),
        "[THINK]",
        keeps_special_tokens=True,
    ),
    # "<seed:think>Let me see.</seed:think>It is 4."; the start may be missing.
    _pair("seed_oss", MarkerPair(("<seed:think>",), ("</seed:think>",)), "<seed:think>", keeps_special_tokens=True),
    # Granite 3.2: "Here is my thought process: Let me see. Here is my response: It is 4."; quantized: "Here's".
    _pair(
        "granite",
        MarkerPair(
            ("Here is my thought process:", "Here's my thought process:"),
            ("Here is my response:", "Here's my response:"),
            unmarked_is_reasoning=False,
        ),
        "Here is my thought process:",
    ),
    # "<think>\nLet me see.\n</think>\n<answer>\nIt is 4.\n</answer>"; without a start all is answer.
    _pair(
        "hunyuan_a13b",
        MarkerPair(unmarked_is_reasoning=False, wrapper=Wrapper("<answer>", "</answer>")),
        "<|extra_0|>",
        "<think>",
    ),
    # "Let me see.\n</think>\n\n<response>\nIt is 4.\n</response>\n", or "Let me see.\n</think>\nIt is 4."
    _pair(
        "ernie45",
        MarkerPair(wrapper=Wrapper("<response>", "</response>")),
        "<response>",
        "<think>",
        keeps_special_tokens=True,
    ),
    # "<think>Let me see.</think>It is 4."; the start may be missing, and calls of tools also end the reasoning.
    _pair("kimi_k2", MarkerPair(ended_by=("<|tool_calls_section_begin|>",)), "<|im_middle|>", "<think>"),
    # "Let me see.\n</think>\n\nIt is 4."; the template has the start.
    _pair("minimax_m2", MarkerPair(), "]~b]", "<think>"),
    # "\n<think>Let me see.</think>\nIt is 4."; "/nothink" templates close it in the prompt, later ones open it there.
    _pair("glm45", MarkerPair(unmarked_is_reasoning=False), "[gMASK]", "<think>"),
    # "Let me see.</think>It is 4."; the template has the start.
    _pair("step3", MarkerPair(), "<|BOT|>", "<think>"),
    # DeepSeek V3.1: "Let me see.</think>It is 4."; the template opens or closes it, as ``thinking`` says.
    _pair("deepseek_v3", MarkerPair(unmarked_is_reasoning=False), "<\uff5cAssistant\uff5c>", "thinking", "</think>"),
    # "<think>\nLet me see.\n</think>\n\nIt is 4."; the start may be missing.
    _pair("deepseek_r1", MarkerPair(), "<\uff5cAssistant\uff5c>", "</think>"),
    # "<think>Let me see.</think>It is 4."; the markers are plain text, the start may be missing.
    _pair("olmo3", MarkerPair(), "<function_calls>", "<think>"),
    # "<think>\nLet me see.\n</think>\n\nIt is 4."; the first templates leave the start to the model, later ones have it.
    # Qwen3.5 may call a tool while it thinks. Last: its parser takes from the prompt what it does not know.
    _pair("qwen3", MarkerPair(ended_by=("<tool_call>\n<function=",), unmarked_is_reasoning=False), "</think>"),
)
_BY_NAME = {kind.name: kind for kind in _KINDS}
_ALIASES = {"gpt-oss": "openai_gptoss"}
