"""The calls of gpt-oss ("harmony"), as the reasoning parser of that family leaves them: with header and markers.

``<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 2}<|call|>``; the recipient
may also stand before the channel. Source: OpenAI's description of the harmony response format.
"""

import re

from headrace_shared.parse.tools import json_text
from headrace_shared.parse.tools.source import Malformed, Wait
from headrace_shared.parse.tools.streamed import StreamedParser

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|call|>", "<|end|>", "<|return|>")
# As in the reasoning parser: what is longer is no header.
_MAX_HEADER_CHARS = 256
_RECIPIENT = re.compile(r"(?:^|\s|\|>)to=functions\.(?P<name>[\w.\-:/]+)")


class HarmonyCallsParser(StreamedParser):
    """Reads messages to functions; those to other recipients are content as they are written."""

    markers = (START, CHANNEL)

    def _opening(self) -> Wait[None]:
        if (yield from self._source.following("to=")):
            yield from self._message()

    def _calls(self, marker: str) -> Wait[None]:
        yield from self._message()

    def _message(self) -> Wait[None]:
        source, out = self._source, self._out
        recipient = _RECIPIENT.search((yield from self._header()))
        if recipient is None:
            raise Malformed
        yield from source.skip_space()
        if (yield from source.ahead(*_ENDS)) or (yield from source.peek()) == "{":
            yield from json_text.arguments(source, out, recipient["name"], _ENDS)
            yield from source.following(*_ENDS)
            return
        # Code or other text: whoever runs the function knows what it is.
        out.start(recipient["name"])
        source.accept()
        marker = yield from source.until(*self.markers, *_ENDS, sink=json_text.passed_on(source, out))
        if marker in self.markers:
            source.untake(marker)

    def _header(self) -> Wait[str]:
        """Reads a header to its end and returns all of it, with what was read before."""
        source = self._source
        while True:
            end = source.pending.find(MESSAGE, 0, _MAX_HEADER_CHARS)
            other = min((at for bound in (START, *_ENDS) if (at := source.pending.find(bound)) >= 0), default=-1)
            if end >= 0 and (other < 0 or end < other):
                source.take(end + len(MESSAGE))
                return source.unaccepted
            if other >= 0 or len(source.pending) >= _MAX_HEADER_CHARS:
                raise Malformed
            yield from source.more()
