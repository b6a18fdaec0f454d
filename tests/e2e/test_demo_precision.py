"""The demo model in fewer bits stays what it is in float32."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from exactness import PROSE, build_as, compare, logits_of
from transformers import AutoTokenizer

from headrace_cli import demo_model
from headrace_cli.terminal import Terminal


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield demo_model.ensure(Terminal())
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exact(model: Path) -> tuple[list[int], torch.Tensor]:
    """A text's tokens, and their logits in float32."""
    ids = AutoTokenizer.from_pretrained(model)(PROSE.read_text("utf-8"))["input_ids"]
    return ids, logits_of(build_as(str(model), "float32"), ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "agreement", "divergence"),
    # The demo model comes from a file of four bits, so that four and eight lose little of it.
    [
        ("float16", 0.99, 1e-4),
        ("bfloat16", 0.98, 1e-3),
        ("int8", 0.98, 0.005),
        ("int4", 0.98, 0.005),
        ("kv-int8", 0.98, 0.005),
        ("int8+kv-int8", 0.98, 0.005),
    ],
)
def test_a_known_text_gets_the_same_likely_tokens(
    precision: str, agreement: float, divergence: float, model: Path, exact: tuple[list[int], torch.Tensor]
) -> None:
    ids, due = exact
    found = compare(logits_of(build_as(str(model), precision), ids), due, ids)
    assert found.agreement >= agreement
    assert found.divergence <= divergence
