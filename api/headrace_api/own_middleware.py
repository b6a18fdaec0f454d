"""Middleware of the operator's own, named by where Python finds it."""

import importlib
import inspect
from typing import Annotated, Any

from pydantic import AfterValidator
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware


def imported(path: str) -> Middleware:
    """``package.module.name`` of an ASGI class, or of ``async def name(request, call_next)``. Raises ValueError."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        raise ValueError(f"{path} should be package.module.name")
    try:
        # A module that is not ours may raise anything.
        found: Any = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {error}") from error
    if inspect.isclass(found):
        factory: Any = found
        return Middleware(factory)
    if inspect.iscoroutinefunction(found):
        return Middleware(BaseHTTPMiddleware, dispatch=found)
    raise ValueError(f"{path} is neither a class nor an async function")


def _importable(path: str) -> str:
    imported(path)
    return path


MiddlewarePath = Annotated[str, AfterValidator(_importable)]
