"""Tiny models on disk, engines around them, and what transformers itself generates."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import make_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging


@pytest.fixture(scope="session", autouse=True)
def _quiet_single_thread() -> None:
    """Tests run side by side: one thread each, and no progress bars."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model by name, made at first use."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_model(name, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


Generate = Callable[[str, list[int], int], list[int]]


@pytest.fixture(scope="session")
def generate(tiny: Callable[[str], Path]) -> Generate:
    """``generate(name, prompt, count)``: transformers' greedy answer, eager attention, one prompt at a time."""
    models: dict[str, torch.nn.Module] = {}
    known: dict[tuple[str, tuple[int, ...], int], list[int]] = {}

    def answer(name: str, prompt: list[int], count: int) -> list[int]:
        key = (name, tuple(prompt), count)
        if key not in known:
            if name not in models:
                models[name] = AutoModelForCausalLM.from_pretrained(tiny(name), attn_implementation="eager").eval()
            inputs = torch.tensor([prompt])
            out = models[name].generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=count, pad_token_id=0
            )
            known[key] = out[0, len(prompt) :].tolist()
        return known[key]

    return answer
