"""What the registry knows of a family of tool parsers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from headrace_shared.parse.tools.call_form import CallForm
from headrace_shared.parse.tools.parser import ToolParser
from headrace_shared.parse.tools.tool import Tool


class CallIds(Enum):
    """How a family's templates want the id of a call to look."""

    DEFAULT = "default"  # chatcmpl-tool-<hex>
    NINE_ALPHANUMERICS = "nine_alphanumerics"  # Mistral's tokenizers refuse any other
    NAME_AND_COUNT = "name_and_count"  # functions.<name>:<calls before it in the conversation>


@dataclass(frozen=True, slots=True)
class ToolKind:
    """One family of models.

    ``factory`` makes the parser of one answer from the request's tools and the end of its rendered prompt.
    ``signs``: what a chat template of the family has, all of it; without any the family is never detected.
    ``keeps_special_tokens``: markers are special tokens, so detokenization must not skip those. ``form``: for holding
    the model to calls in its own form; None where no grammar can.
    """

    name: str
    factory: Callable[[Sequence[Tool], str], ToolParser]
    signs: tuple[str, ...] = ()
    keeps_special_tokens: bool = False
    call_ids: CallIds = CallIds.DEFAULT
    form: CallForm | None = None

    def detect(self, chat_template: str) -> bool:
        """Whether the template looks like one of this family."""
        return bool(self.signs) and all(sign in chat_template for sign in self.signs)
