"""How far a model in fewer bits is from itself in float32, on a fixed text."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.attention.cache_kind import CacheFormat
from headrace_worker.execute.build import BuiltRunner, assemble
from headrace_worker.execute.inputs import build_inputs
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.models.load import LoadedModel, ModelSource, load_model
from headrace_worker.schedule.plan import Slice
from headrace_worker.schedule.request import Request

PROSE = Path(__file__).with_name("prose.txt")
BLOCK = 16
_GRID_BLOCK = 32


class Precision(NamedTuple):
    """Settings of a worker, by their names."""

    dtype: str = "float32"
    quantization: str = "none"
    kv_cache_dtype: str = "auto"


PRECISIONS = {
    "float32": Precision(),
    "float16": Precision("float16"),
    "bfloat16": Precision("bfloat16"),
    "int8": Precision(quantization="int8"),
    "int4": Precision(quantization="int4"),
    "kv-int8": Precision(kv_cache_dtype="int8"),
    "kv-fp8": Precision(kv_cache_dtype="fp8"),
    "int8+kv-int8": Precision(quantization="int8", kv_cache_dtype="int8"),
}
"""By what is not float32 in them."""


@dataclass(frozen=True)
class Exactness:
    """Against float32, over the places of the text."""

    perplexity: float
    agreement: float
    """Share of places whose most likely token is the same."""
    divergence: float
    """Mean of KL(float32 || this), nats."""


def build_as(model: str, precision: str, cache_bytes: int = 256 << 20, *, moved: bool = False) -> BuiltRunner:
    """A runner of ``model`` in one of ``PRECISIONS``; ``moved``: with the weights of ``move_off_grids``."""
    how = PRECISIONS[precision]
    loaded = load_model(ModelSource(model, dtype=how.dtype, quantization=how.quantization, progress_bar=False))
    if moved:
        move_off_grids(loaded)
    form = CacheFormat.named(how.kv_cache_dtype)
    return assemble(loaded, CacheSize(block_size=BLOCK, memory_bytes=cache_bytes, format=form))


def move_off_grids(loaded: LoadedModel) -> None:
    """Move each weight at random, always in the same way, within a step of four bits over its block.

    A model from a quantized file is on the grids that it is to be quantized to, and would lose nothing.
    """
    generator = torch.Generator().manual_seed(0)
    for weight in loaded.model.parameters():
        if weight.ndim == 2 and weight.shape[1] % _GRID_BLOCK == 0:
            blocks = weight.data.float().view(weight.shape[0], -1, _GRID_BLOCK)
            low, high = blocks.aminmax(dim=2, keepdim=True)
            offset = torch.rand(blocks.shape, generator=generator) - 0.5
            weight.data = (blocks + offset * ((high - low) / 15)).view(weight.shape).to(weight.dtype)


def logits_of(built: BuiltRunner, ids: list[int]) -> torch.Tensor:
    """[tokens, vocab]: what follows each token of a text."""
    job = GenerateJob(JobHeader("text", "bench"), pack_ids(ids), sampling=SamplingSpec(), stopping=StoppingSpec())
    sequence = Request.from_job(job, arrival=0).sequences[0]
    sequence.block_table = list(range(-(-len(ids) // BLOCK)))
    runner = built.runner
    with torch.inference_mode():
        step = build_inputs([Slice(sequence, 0, len(ids), samples=True)], BLOCK, torch.device("cpu"))
        runner._attention.begin(step.batch)
        return runner._network.logits(runner._network.hidden(step.input_ids, step.positions))


def compare(logits: torch.Tensor, exact: torch.Tensor, ids: list[int]) -> Exactness:
    """Of what ``logits_of`` says of a text in one precision and in float32."""
    scores, due = logits[:-1].log_softmax(1), exact[:-1].log_softmax(1)
    taken = scores.gather(1, torch.tensor(ids[1:])[:, None])
    return Exactness(
        perplexity=float((-taken.mean()).exp()),
        agreement=float((scores.argmax(1) == due.argmax(1)).float().mean()),
        divergence=float((due.exp() * (due - scores)).sum(1).mean()),
    )
