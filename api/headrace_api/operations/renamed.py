"""Errors of a chat request in the words of the request that it was made of."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from headrace_shared.errors import InvalidRequestError


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Passes InvalidRequestError on with the parameter that the client has sent: ``names`` from the chat's to its own."""
    try:
        yield
    except InvalidRequestError as error:
        param = error.param or ""
        name = next((name for name in names if param == name or param.startswith((f"{name}.", f"{name}["))), None)
        if name is None:
            raise
        there = names[name] + param[len(name) :]
        told = error.message.removeprefix(param) if error.message.startswith(param) else None
        raise InvalidRequestError(
            error.message if told is None else there + told, param=there, code=error.code
        ) from error
