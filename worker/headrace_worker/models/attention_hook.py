"""The place where transformers' own model code meets our attention.

transformers looks attention functions up by name; ours hands each call to whichever handler the
calling thread has installed, so that several engines can live in one process.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "headrace"
"""What to pass as ``attn_implementation``."""


class AttentionHandler(Protocol):
    """Computes attention for the packed tokens of one step."""

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **features: Any,
    ) -> torch.Tensor:
        """``query``, ``key``, ``value``: [1, heads, tokens, head_dim]; returns [1, tokens, heads, value_dim]."""

    def mask(self, **features: Any) -> None:
        """A model asks for a mask. None is made: the handler's attention knows what a token may see."""


class _Installed(threading.local):
    handler: AttentionHandler | None = None


_installed = _Installed()


@contextmanager
def installed(handler: AttentionHandler) -> Iterator[None]:
    """Within the block, model code that this thread runs attends through ``handler``."""
    before = _installed.handler
    _installed.handler = handler
    try:
        yield
    finally:
        _installed.handler = before


def _handler() -> AttentionHandler:
    if _installed.handler is None:
        raise RuntimeError("a model ran outside of an engine step")
    return _installed.handler


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **features: Any,
) -> tuple[torch.Tensor, None]:
    return _handler().attend(module, query, key, value, attention_mask, **features), None


def _mask(**features: Any) -> None:
    _handler().mask(**features)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
