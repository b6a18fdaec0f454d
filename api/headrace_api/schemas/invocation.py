"""POST /invocations: which endpoint a body is for."""

from typing import Any

from headrace_api.schemas.base import RequestModel
from headrace_api.schemas.problems import Problem


class Invocation(RequestModel):
    """The two fields that tell; the endpoint's own schema checks them and everything else."""

    messages: Any = None
    prompt: Any = None

    def conflicts(self) -> list[Problem]:
        if (self.messages is None) == (self.prompt is None):
            return [Problem("messages", "send either messages, for a chat, or prompt, for a text to continue")]
        return []

    def unknown_fields(self) -> list[str]:
        return []
