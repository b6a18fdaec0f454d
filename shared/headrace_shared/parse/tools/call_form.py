"""Grammars that hold a model to its own form of calls, as structural tags."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace_shared.parse.tools.tool import Tool

_ANY_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a family writes a call: ``before_name`` NAME ``after_name`` ARGUMENTS ``end``.

    ``opening``, ``separator`` and ``closing`` stand before, between and after all calls of an answer. ``trigger``: the
    beginning of a call (with an opening: of that) which free text does not have. ``style``: how the arguments are
    written, one of xgrammar's styles of the format ``json_schema``. ``quoted``: the name stands in a JSON string.
    ``numbered``: a colon and a number stand between the name and ``after_name``.
    """

    trigger: str
    before_name: str
    after_name: str
    end: str
    opening: str = ""
    separator: str = ""
    closing: str = ""
    style: str = "json"
    quoted: bool = True
    numbered: bool = False

    def auto(self, tools: Sequence[Tool], *, parallel: bool) -> dict[str, Any]:
        """The format of an answer in which the model may call these tools. What begins a call must be one.

        Arguments of tools that are not strict may be any object. Raises ValueError without tools.
        """
        wrapped = self.opening or self.closing
        tags = [self._calls(tools, parallel)] if wrapped else [self._call(tool) for tool in _some(tools)]
        return {
            "type": "triggered_tags",
            "triggers": [self.trigger],
            "tags": tags,
            "at_least_one": False,
            "stop_after_first": not parallel,
        }

    def required(self, tools: Sequence[Tool], *, parallel: bool) -> dict[str, Any]:
        """The format of an answer that is one call of these tools or, when ``parallel``, more.

        All arguments obey their schemas: the caller has asked for calls that it can use. Raises ValueError without tools.
        """
        return self._calls([replace(tool, strict=True) for tool in tools], parallel)

    def _calls(self, tools: Sequence[Tool], parallel: bool) -> dict[str, Any]:
        calls = {
            "type": "tags_with_separator",
            "tags": [self._call(tool) for tool in _some(tools)],
            "separator": self.separator,
            "at_least_one": True,
            "stop_after_first": not parallel,
        }
        if not self.opening and not self.closing:
            return calls
        return {"type": "tag", "begin": self.opening, "content": calls, "end": self.closing}

    def _call(self, tool: Tool) -> dict[str, Any]:
        name = json.dumps(tool.name, ensure_ascii=False)[1:-1] if self.quoted else tool.name
        schema = tool.parameters if tool.strict and tool.parameters is not None else _ANY_OBJECT
        arguments: dict[str, Any] = {"type": "json_schema", "json_schema": schema, "style": self.style}
        begin = self.before_name + name
        if not self.numbered:
            return {"type": "tag", "begin": begin + self.after_name, "content": arguments, "end": self.end}
        number = [{"type": "regex", "pattern": r"\d+"}, {"type": "const_string", "value": self.after_name}]
        return {
            "type": "tag",
            "begin": begin + ":",
            "content": {"type": "sequence", "elements": [*number, arguments]},
            "end": self.end,
        }


def _some(tools: Sequence[Tool]) -> Sequence[Tool]:
    if not tools:
        raise ValueError("there are no tools to call")
    return tools
