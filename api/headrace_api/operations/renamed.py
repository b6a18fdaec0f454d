"""Errors of a chat request in the words of the request that it was made of."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from headrace_shared.errors import InvalidRequestError


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Passes InvalidRequestError on with the parameter that the client has sent.

    ``names``: from the chat's to its own; what begins with a dot is a part of a path.
    """
    try:
        yield
    except InvalidRequestError as error:
        param = error.param or ""
        there = _renamed(param, names)
        if there == param:
            raise
        raise InvalidRequestError(error.message.replace(param, there, 1), param=there, code=error.code) from error


def _renamed(param: str, names: Mapping[str, str]) -> str:
    for name, there in names.items():
        if name.startswith("."):
            param = param.replace(name, there)
        elif param == name or param.startswith((f"{name}.", f"{name}[")):
            param = there + param[len(name) :]
    return param
