"""What a chat template is told beside the messages: the model's settings, the wished effort, the request's own words."""

from typing import Any, Protocol

from headrace_api.prompt.template import ChatTemplate
from headrace_api.schemas.base import JsonObject
from headrace_shared.errors import InvalidRequestError
from headrace_shared.model_card import ModelCard

_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates let a model think or not."""


class Wishes(Protocol):
    """The part of a request that asks for variables."""

    chat_template_kwargs: JsonObject | None

    @property
    def reasoning_effort(self) -> str | None: ...


def template_variables(wishes: Wishes, card: ModelCard, template: ChatTemplate) -> dict[str, Any]:
    """The later wins: the model's defaults, what ``reasoning_effort`` comes to, ``chat_template_kwargs``.

    Raises InvalidRequestError when the template knows neither an effort nor whether to think.
    """
    return {
        **card.chat_template_kwargs,
        **_of_effort(wishes.reasoning_effort, card, template),
        **(wishes.chat_template_kwargs or {}),
    }


def _of_effort(effort: str | None, card: ModelCard, template: ChatTemplate) -> dict[str, Any]:
    if effort is None:
        return {}
    thinks = effort != "none"
    if thinks and not any(template.reads(name) for name in ("reasoning_effort", *_SWITCHES)):
        raise InvalidRequestError(
            f"reasoning_effort: the chat template of {card.name!r} knows no effort, nor whether to think; leave it out.",
            param="reasoning_effort",
        )
    return {"reasoning_effort": card.reasoning_efforts.get(effort, effort), **dict.fromkeys(_SWITCHES, thinks)}
