"""What MODEL on the command line stands for; what is wrong with it is said before anything starts."""

import re
from pathlib import Path

from headrace_cli import demo_model
from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.terminal import Terminal

DEMO = "demo"
_HUGGING_FACE_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_GGUF_MAGIC = b"GGUF"


def resolve(model: str | None, terminal: Terminal) -> str:
    """The path or Hugging Face id that a worker is to load. None and ``demo``: the demo model, fetched when needed.

    Raises CliError for a path that is missing or holds no model; an id is left to the worker to find.
    """
    if model is None or model == DEMO:
        return str(demo_model.ensure(terminal))
    path = Path(model).expanduser()
    if model and path.is_dir():
        return str(_checked_directory(path.absolute()))
    if path.is_file():
        return str(_checked_file(path.absolute()))
    if path.suffix == ".gguf" or model.startswith(("/", "./", "../", "~")):
        raise _problem(f"no such file or directory: {model}")
    if not _HUGGING_FACE_ID.fullmatch(model):
        raise _problem(f"{model!r} is neither a path that exists nor a Hugging Face id like owner/name")
    return model


def _checked_directory(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    if ggufs := sorted(path.glob("*.gguf")):
        raise _problem(f"{path} has no config.json; to serve its GGUF file, pass {ggufs[0]}")
    raise _problem(f"{path} is not a model directory: it has no config.json")


def _checked_file(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise _problem(f"cannot read {path}: {error.strerror}") from None
    if magic != _GGUF_MAGIC:
        raise _problem(f"{path} is not a GGUF file; MODEL is a model directory, a GGUF file or a Hugging Face id")
    return path


def _problem(message: str) -> CliError:
    return CliError(message, exit_code=EXIT_CONFIGURATION)
