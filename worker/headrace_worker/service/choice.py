"""ChoiceText: from one choice's token ids to text that may be shown, ending it at a stop string."""

from collections.abc import Sequence

from headrace_shared.protocol.event import Delta, FinishReason
from headrace_shared.protocol.sampling import StoppingSpec
from headrace_shared.text.detokenizer import Detokenizer
from headrace_shared.text.stops import StopMatcher
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.schedule.plan import SequenceOutput


class ChoiceText:
    """A pure function of the tokens fed so far, so that another worker can rebuild it from the log."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stopping: StoppingSpec) -> None:
        self._detokenizer = Detokenizer(
            tokenizer,
            prompt_ids,
            skip_special_tokens=stopping.skip_special_tokens,
            spaces_between_special_tokens=stopping.spaces_between_special_tokens,
        )
        self._stops = StopMatcher(stopping.stop, stopping.include_stop_str_in_output) if stopping.stop else None
        self._stopping = stopping
        self.tokens = 0
        self.ended = False

    def replay(self, token_ids: Sequence[int]) -> None:
        """Take in the tokens of an earlier attempt, whose text has been shown."""
        for token_id in token_ids:
            self._text_of(token_id)

    def feed(self, output: SequenceOutput) -> Delta:
        """The event for one engine output. Sets ``ended`` with the choice's last one."""
        text, matched, used = self._consume(output)
        reason: FinishReason | None = output.finish_reason
        stop_reason: str | int | None = output.stop_reason
        if matched is not None:
            # The stop string was complete at this token, so a length limit met by the same token does not count.
            reason, stop_reason = FinishReason.STOP, matched
        elif reason is not None:
            text += self._rest()
        self.ended = reason is not None
        logprobs = None if output.logprobs is None else output.logprobs[:used]
        return Delta(output.choice, output.token_ids[:used], text, logprobs, reason, stop_reason)

    def _consume(self, output: SequenceOutput) -> tuple[str, str | None, int]:
        """(text, stop string met, tokens used): tokens after a met stop string are not part of the answer."""
        ids = output.token_ids
        ends_by_token = output.finish_reason is FinishReason.STOP and not self._stopping.include_stop_str_in_output
        shown = len(ids) - 1 if ends_by_token else len(ids)
        text = ""
        for index, token_id in enumerate(ids[:shown]):
            piece, matched = self._text_of(token_id)
            text += piece
            if matched is not None:
                return text, matched, index + 1
        self.tokens += len(ids) - shown
        return text, None, len(ids)

    def _text_of(self, token_id: int) -> tuple[str, str | None]:
        self.tokens += 1
        text = self._detokenizer.feed([token_id])
        if self._stops is None or self.tokens <= self._stopping.min_tokens:
            return text, None
        step = self._stops.feed(text)
        return step.text, step.matched

    def _rest(self) -> str:
        rest = self._detokenizer.finish()
        if self._stops is None:
            return rest
        step = self._stops.feed(rest)
        return step.text if step.matched is not None else step.text + self._stops.finish()
