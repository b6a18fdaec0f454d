"""What a worker announces of what its operator chose."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any, cast

import pytest

from headrace_shared.queue.blobs import BlobStore
from headrace_worker.engine.build import EngineSetup, build_engine
from headrace_worker.execute.grammar import installed
from headrace_worker.service.answer_form import AnswerForm
from headrace_worker.service.card import publish_card
from headrace_worker.settings import WorkerSettings


class Shelf:
    """Blobs that nobody reads."""

    async def put(self, blob: bytes) -> str:
        return f"{len(blob)}"


def setup_of(settings: WorkerSettings) -> EngineSetup:
    # The simulated engine constrains nothing; only whether something does is of interest here.
    return replace(build_engine(settings), grammars=cast(Any, lambda _: None))


@pytest.mark.parametrize(
    ("chosen", "announced"),
    [
        ("auto", ("xgrammar", "guidance", "outlines", "lm-format-enforcer")),
        ("xgrammar", ("xgrammar",)),
        ("guidance", ("guidance",)),
        ("outlines", ("outlines",)),
    ],
)
async def test_the_chosen_grammar_backend_is_announced(chosen: str, announced: tuple[str, ...]) -> None:
    settings = WorkerSettings(model="m", engine="simulated", guided_decoding_backend=cast(Any, chosen))
    card = await publish_card(settings, setup_of(settings), AnswerForm(), cast(BlobStore, Shelf()))
    assert card.grammar_backends == announced


async def test_the_newer_name_of_the_grammar_backend_says_the_same() -> None:
    settings = WorkerSettings(model="m", engine="simulated", structured_outputs_config={"backend": "guidance"})
    card = await publish_card(settings, setup_of(settings), AnswerForm(), cast(BlobStore, Shelf()))
    assert card.grammar_backends == ("guidance",)
    with pytest.raises(ValueError, match="name different backends"):
        WorkerSettings(model="m", guided_decoding_backend="outlines", structured_outputs_config={"backend": "guidance"})


async def test_a_grammar_backend_that_is_not_installed_is_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None if name == "lmformatenforcer" else find_spec(name))
    settings = WorkerSettings(model="m", engine="simulated")
    card = await publish_card(settings, setup_of(settings), AnswerForm(), cast(BlobStore, Shelf()))
    assert card.grammar_backends == ("xgrammar", "guidance", "outlines")


async def test_names_and_roles_are_announced_as_they_were_chosen() -> None:
    settings = WorkerSettings(model="m", engine="simulated", served_model_name=["a", "b"], response_role="bot")
    card = await publish_card(
        settings, build_engine(settings), AnswerForm("hermes", False, "qwen3"), cast(BlobStore, Shelf())
    )
    assert (card.name, card.aliases, card.root, card.response_role) == ("a", ("b",), "m", "bot")
    assert (card.tool_parser, card.auto_tool_choice, card.reasoning_parser) == ("hermes", False, "qwen3")
    assert card.grammar_backends == ()
