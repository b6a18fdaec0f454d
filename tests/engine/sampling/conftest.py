"""Sequences as the sampler sees them."""

from types import SimpleNamespace

import pytest
import torch

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.sampler import Sampler
from headrace_worker.schedule.request import Request, Sequence

VOCAB = 1000
EOS = 3


def sequence(
    prompt=(1, 2), output=(), *, choice: int = 0, min_tokens: int = 0, stop_token_ids=(), **sampling
) -> Sequence:
    job = GenerateJob(
        JobHeader("r", "queue"),
        pack_ids(prompt),
        n=choice + 1,
        sampling=SamplingSpec(**sampling),
        stopping=StoppingSpec(max_tokens=1000, min_tokens=min_tokens, stop_token_ids=stop_token_ids),
    )
    request = Request.from_job(job, arrival=0, resumed={choice: list(output)})
    return request.sequences[choice]


def sampler(vocab_size: int = VOCAB) -> Sampler:
    return Sampler(vocab_size, frozenset({EOS}))


def logits_of(rows: int, vocab_size: int = VOCAB, *, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """What the tests of the sampler are made with."""
    return SimpleNamespace(sequence=sequence, sampler=sampler, logits=logits_of, vocab_size=VOCAB, eos=EOS)
