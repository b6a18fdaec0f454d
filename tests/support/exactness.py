"""How far a model in fewer bits is from itself in float32, on a fixed text."""

from dataclasses import dataclass
from pathlib import Path

import torch

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.build import BuiltRunner, assemble
from headrace_worker.execute.inputs import build_inputs
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.schedule.plan import Slice
from headrace_worker.schedule.request import Request

PROSE = Path(__file__).with_name("prose.txt")
BLOCK = 16
PRECISIONS = {
    "float32": ("float32", "none"),
    "float16": ("float16", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("float32", "int8"),
    "int4": ("float32", "int4"),
}


@dataclass(frozen=True)
class Exactness:
    """Against float32, over the places of the text."""

    perplexity: float
    agreement: float
    """Share of places whose most likely token is the same."""
    divergence: float
    """Mean of KL(float32 || this), nats."""


def build_as(model: str, precision: str, cache_bytes: int = 256 << 20) -> BuiltRunner:
    """A runner of ``model`` in one of ``PRECISIONS``."""
    dtype, quantization = PRECISIONS[precision]
    loaded = load_model(ModelSource(model, dtype=dtype, quantization=quantization, progress_bar=False))
    return assemble(loaded, CacheSize(block_size=BLOCK, memory_bytes=cache_bytes))


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
    scores, due = logits[:-1].log_softmax(1), exact[:-1].log_softmax(1)
    taken = scores.gather(1, torch.tensor(ids[1:])[:, None])
    return Exactness(
        perplexity=float((-taken.mean()).exp()),
        agreement=float((scores.argmax(1) == due.argmax(1)).float().mean()),
        divergence=float((due.exp() * (due - scores)).sum(1).mean()),
    )
