"""Logits processors as an operator might write them."""

import time

import torch


def only_token_9(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    """Changes the row in place."""
    logits[:] = -torch.inf
    logits[9] = 0.0
    return logits


class Counting:
    """Wants the token whose id is a base, plus the tokens so far; a pure function of them."""

    def __init__(self, base: int, *, step: int = 1) -> None:
        self._base = base
        self._step = step

    def __call__(self, prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        wanted = torch.full_like(logits, -torch.inf)
        wanted[self._base + len(prompt_ids) + self._step * len(output_ids)] = 0.0
        return wanted


def slow(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    """Changes nothing, but takes a search of a hundred tokens with four beams over a second."""
    time.sleep(0.003)
    return logits


def failing(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    """Breaks at the third token."""
    if len(output_ids) == 2:
        raise RuntimeError("a secret")
    return logits


def misshapen(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    return logits[:3]


NOT_CALLABLE = 7
