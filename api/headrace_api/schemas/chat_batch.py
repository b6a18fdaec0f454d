"""POST /v1/chat/completions/batch: several conversations that are asked the same way, one choice for each."""

from typing import Annotated

from pydantic import Field

from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.completions import MOST_PROMPTS
from headrace_api.schemas.conversation import Messages
from headrace_api.schemas.problems import Problem


class ChatBatchRequest(ChatRequest):
    """Body of POST /v1/chat/completions/batch."""

    messages: Annotated[  # type: ignore[assignment] # what a chat has once
        list[Messages],
        Field(min_length=1, max_length=MOST_PROMPTS, description="Conversations, each with the messages of a chat."),
    ]

    def conflicts(self) -> list[Problem]:
        asked = {
            "stream": bool(self.stream),
            "n": self.choices > 1,
            "best_of": (self.best_of or 1) > 1,
            "use_beam_search": bool(self.use_beam_search),
            "tools": bool(self.tools),
            "prompt_logprobs": self.prompt_logprobs is not None,
            "include_metrics": bool(self.include_metrics),
        }
        problems = [
            Problem(name, "is not possible for a batch of conversations") for name, is_set in asked.items() if is_set
        ]
        named = {problem.param for problem in problems}
        return [*problems, *(problem for problem in super().conflicts() if problem.param not in named)]

    def conversation(self, index: int) -> ChatRequest:
        """One of them as a request of its own."""
        return ChatRequest.model_construct(self.model_fields_set, **dict(self) | {"messages": self.messages[index]})
