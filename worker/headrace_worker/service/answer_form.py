"""AnswerForm: how a model's answers are to be read, which is found out once, at start."""

import logging
from dataclasses import dataclass

from headrace_shared.parse.selection import NO_PARSER, choose_reasoning_parser, choose_tool_parser
from headrace_shared.parse.tools.plugin import ToolParserPluginError, load_tool_parser_plugin
from headrace_worker.engine.build import EngineSetupError
from headrace_worker.models.files import ModelFiles
from headrace_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What the model's card says of it."""

    tool_parser: str | None = None
    auto_tool_choice: bool = True
    reasoning_parser: str | None = None


def check_parsers(settings: WorkerSettings) -> None:
    """Before the model is loaded, which takes long. Raises EngineSetupError for a parser that does not exist."""
    try:
        if settings.tool_parser_plugin is not None:
            load_tool_parser_plugin(settings.tool_parser_plugin)
        _choose(settings, ModelFiles(b""))
    except (ToolParserPluginError, ValueError) as error:
        raise EngineSetupError(str(error)) from error
    if settings.enable_reasoning is False and settings.reasoning_parser not in ("auto", NO_PARSER):
        raise EngineSetupError(
            "--no-enable-reasoning and --reasoning-parser contradict each other; leave one of them out"
        )


def answer_form(settings: WorkerSettings, files: ModelFiles) -> AnswerForm:
    """Raises EngineSetupError when something is switched on that the model's templates do not suggest how to do."""
    form = _choose(settings, files)
    if settings.enable_auto_tool_choice and form.tool_parser is None:
        raise EngineSetupError(
            "--enable-auto-tool-choice needs --tool-call-parser: the chat template shows no form of calls that is known"
        )
    if settings.enable_reasoning and form.reasoning_parser is None:
        raise EngineSetupError(
            "--enable-reasoning needs --reasoning-parser: the chat template shows no form of thoughts that is known"
        )
    log.info("answers are read", extra={"tool_parser": form.tool_parser, "reasoning_parser": form.reasoning_parser})
    return form


def _choose(settings: WorkerSettings, files: ModelFiles) -> AnswerForm:
    templates = [template for template in (files.tool_template, files.chat_template) if template is not None]
    tools = choose_tool_parser(settings.tool_call_parser, templates)
    asked = NO_PARSER if settings.enable_reasoning is False else settings.reasoning_parser
    reasoning = choose_reasoning_parser(asked, templates)
    return AnswerForm(
        tool_parser=tools.name if tools else None,
        auto_tool_choice=settings.enable_auto_tool_choice is not False,
        reasoning_parser=reasoning.name if reasoning else None,
    )
