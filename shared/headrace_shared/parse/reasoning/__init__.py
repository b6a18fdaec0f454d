"""Splits raw answers into what the model thinks and what it says, while they are generated."""

from headrace_shared.parse.reasoning.parser import Answer, Piece, Reasoning, ReasoningParser
from headrace_shared.parse.reasoning.registry import (
    ReasoningKind,
    detect_reasoning_parser,
    reasoning_parser,
    reasoning_parser_names,
)

__all__ = [
    "Answer",
    "Piece",
    "Reasoning",
    "ReasoningKind",
    "ReasoningParser",
    "detect_reasoning_parser",
    "reasoning_parser",
    "reasoning_parser_names",
]
