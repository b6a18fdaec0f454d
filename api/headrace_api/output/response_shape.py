"""ResponseShape: a response's object and items, whoever tells them."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from headrace_api.errors import public_message
from headrace_api.output.blocks import BlockKind, BlockReader, Opened
from headrace_api.output.logprobs import TokenNames, chat_logprobs
from headrace_api.output.message import MessageForm
from headrace_api.schemas.chat import ChatTokenLogprob
from headrace_api.schemas.response_items import (
    FunctionCall,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
)
from headrace_api.schemas.responses import (
    CachedTokens,
    IncompleteDetails,
    ReasoningTokens,
    Response,
    ResponseFailure,
    ResponseUsage,
)
from headrace_shared.errors import ErrorCode, HeadraceError
from headrace_shared.protocol.event import TokenLogprob
from headrace_shared.text.tokenizer import Tokenizer

_FAILURES = {
    ErrorCode.OVERLOADED: "rate_limit_exceeded",
    ErrorCode.RATE_LIMITED: "rate_limit_exceeded",
    ErrorCode.INVALID_REQUEST: "invalid_prompt",
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: "invalid_prompt",
}


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """What is known of a response before it begins."""

    request_id: str
    blank: Response
    """As it is when it is put on the queue."""
    prompt_tokens: int
    form: MessageForm
    tokenizer: Tokenizer
    top_logprobs: int | None = None
    """None: no logprobs."""

    def in_progress(self) -> Response:
        return msgspec.structs.replace(self.blank, status="in_progress")

    def ended(self, reader: BlockReader, output: list[OutputItem]) -> Response:
        """As the answer ended by itself."""
        whole = reader.complete
        return msgspec.structs.replace(
            self.blank,
            status="completed" if whole else "incomplete",
            incomplete_details=None if whole else IncompleteDetails("max_output_tokens"),
            output=output,
            usage=self._usage(reader),
        )

    def failed(self, reader: BlockReader, output: list[OutputItem], error: HeadraceError) -> Response:
        """With what there was until then. One that was cancelled has no error."""
        cancelled = error.code is ErrorCode.CANCELLED
        failure = ResponseFailure(_FAILURES.get(error.code, "server_error"), public_message(error))
        return msgspec.structs.replace(
            self.blank,
            status="cancelled" if cancelled else "failed",
            error=None if cancelled else failure,
            output=output,
            usage=self._usage(reader),
        )

    def item(self, block: Opened, text: str, entries: Sequence[TokenLogprob], status: str) -> OutputItem:
        """Ids are made of the request's, so that every node gives the same ones."""
        name = f"{self.request_id}_{block.index}"
        match block.kind:
            case BlockKind.TEXT:
                content = [] if status == "in_progress" else [self.text(text, entries)]
                return OutputMessage(id=f"msg_{name}", status=status, content=content)
            case BlockKind.THOUGHTS:
                thoughts = [] if status == "in_progress" else [ReasoningText(text)]
                return ReasoningItem(id=f"rs_{name}", content=thoughts, status=status)
            case BlockKind.CALL:
                return FunctionCall(
                    id=f"fc_{name}", call_id=block.call_id, name=block.name, arguments=text, status=status
                )

    def text(self, text: str, entries: Sequence[TokenLogprob]) -> OutputText:
        return OutputText(text, [], self.logprobs(entries))

    def logprobs(self, entries: Sequence[TokenLogprob]) -> list[ChatTokenLogprob]:
        if self.top_logprobs is None:
            return []
        return chat_logprobs(entries, TokenNames(self.tokenizer, as_ids=False), self.top_logprobs).content

    def _usage(self, reader: BlockReader) -> ResponseUsage:
        return ResponseUsage(
            input_tokens=self.prompt_tokens,
            input_tokens_details=CachedTokens(reader.cached_tokens),
            output_tokens=reader.completion_tokens,
            output_tokens_details=ReasoningTokens(reader.thought_tokens),
            total_tokens=self.prompt_tokens + reader.completion_tokens,
        )
