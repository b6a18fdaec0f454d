"""The channels of gpt-oss ("harmony").

An answer is a row of messages, each a header and a text: ``<|channel|>analysis<|message|>Let me see.<|end|>`` then
``<|start|>assistant<|channel|>final<|message|>It is 4.<|return|>``. A call of a tool is a message to a recipient:
``<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 2}<|call|>``.
Source: OpenAI's description of the harmony response format.
"""

import re
from enum import Enum, auto

from headrace_shared.parse.reasoning.marked_text import MarkedText
from headrace_shared.parse.reasoning.parser import Answer, Piece, Reasoning

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_BEGINS = (START, CHANNEL)
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_BOUNDS = (*_BEGINS, *_ENDS)
# A longer header is none: its text must not wait until the answer's end.
_MAX_HEADER_CHARS = 256
_HEADER = re.compile(
    r"(?:<\|start\|>assistant)?\s*(?P<to1>to=\S+?)?\s*"
    r"(?:<\|channel\|>(?P<channel>analysis|commentary|final))?\s*(?P<to2>to=\S+?)?\s*(?:<\|constrain\|>\s*\w+)?\s*"
)

# What an answer that ran out of tokens ends with between two messages: nothing that a client should see.
_CUT_HEADER = re.compile(r"(?:<\|start\|>(?:assistant)?)?(?:<\|channel\|>(?:analysis|commentary|final)?)?")


class _Part(Enum):
    OPENING = auto()  # nothing but white space so far; the prompt has the header's first words
    OUTSIDE = auto()  # between messages
    HEADER = auto()
    ANALYSIS = auto()
    SHOWN = auto()  # a message to the user
    RAW = auto()  # a message to a tool, or of no known form: left as it is, with its markers


class HarmonyParser:
    """Analysis is reasoning; texts of the other channels are the answer.

    Messages to a tool, and those with a header of another form, are passed on unchanged with header and markers.
    """

    def __init__(self, prompt_tail: str) -> None:
        self._text = MarkedText()
        self._part = _Part.OPENING
        self._header = ""
        self._thinking = True
        _, start, header = prompt_tail.rpartition(START)
        if CHANNEL in header and not any(end in header for end in _ENDS):
            self.feed(start + header)

    @property
    def thinking(self) -> bool:
        return self._thinking

    def feed(self, text: str) -> list[Piece]:
        self._text.pending += text
        pieces: list[Piece] = []
        while self._text.pending and self._read(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        rest = self._header + self._text.take()
        self._header = ""
        if not rest or (self._part is _Part.HEADER and _CUT_HEADER.fullmatch(rest)):
            return []
        return [Reasoning(rest) if self._part is _Part.ANALYSIS else Answer(rest)]

    def _read(self, pieces: list[Piece]) -> bool:
        """Reads on in the part that the text is in; False when that needs more text."""
        match self._part:
            case _Part.OPENING:
                return self._open()
            case _Part.HEADER:
                return self._read_header(pieces)
            case _:
                return self._read_message(pieces)

    def _open(self) -> bool:
        head = self._text.pending.lstrip()
        if "to=".startswith(head):
            return False
        self._part = _Part.HEADER if head.startswith("to=") else _Part.OUTSIDE
        return True

    def _read_header(self, pieces: list[Piece]) -> bool:
        whole = self._header + self._text.pending
        limit = _MAX_HEADER_CHARS + len(MESSAGE)
        # Cut to the limit, so that a header is one or not however its text arrives.
        bounds = [
            (at, bound)
            for bound in (MESSAGE, START, *_ENDS)
            if (at := whole.find(bound, len(self._header), limit)) >= 0
        ]
        if not bounds and len(whole) < limit:
            return False
        at, bound = min(bounds, default=(0, ""))
        header, self._header = self._header, ""
        if bound == MESSAGE:
            self._begin(whole[:at], pieces)
            self._text.pending = whole[at + len(MESSAGE) :]
            return True
        self._emit(header, pieces, _Part.RAW)
        return True

    def _begin(self, header: str, pieces: list[Piece]) -> None:
        match = _HEADER.fullmatch(header)
        if match is None or match["to1"] or match["to2"]:
            self._emit(header + MESSAGE, pieces, _Part.RAW)
            return
        self._part = _Part.ANALYSIS if match["channel"] == "analysis" else _Part.SHOWN
        self._thinking = self._part is _Part.ANALYSIS

    def _emit(self, text: str, pieces: list[Piece], part: _Part) -> None:
        self._part = part
        self._thinking = False
        if text:
            pieces.append(Answer(text))

    def _read_message(self, pieces: list[Piece]) -> bool:
        stretch = self._text.read(_BOUNDS)
        text = stretch.text
        raw = self._part is _Part.RAW
        if raw and stretch.marker in _ENDS:
            text += stretch.marker
        if text and self._part is _Part.ANALYSIS:
            pieces.append(Reasoning(text))
        elif text:
            self._emit(text, pieces, self._part)
        if stretch.marker is None:
            return False
        self._part = _Part.OUTSIDE
        if stretch.marker in _BEGINS:
            self._part, self._header = _Part.HEADER, stretch.marker
        return True
