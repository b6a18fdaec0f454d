"""RankPart: what a rank above 0 has to know to load its part of a model."""

from dataclasses import dataclass

import torch

from headrace_shared.telemetry.logs import LogFormat
from headrace_worker.execute.build import Parts
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.load import LoadedModel, ModelSource


@dataclass(frozen=True, slots=True)
class RankPart:
    """It goes through a pipe, as JSON."""

    rank: int
    leader_pid: int
    store: str
    """The file in which the ranks find each other."""
    source: ModelSource
    """With this rank's device."""
    cache: CacheSize
    threads: int
    attention: str
    """As the setting ``attention_backend``."""
    log_level: str
    log_format: LogFormat


def parts_of(loaded: LoadedModel, attention: str) -> Parts:
    """The faster parts that know nothing of the other ranks: packed layers would forget to add up what each computes."""
    return Parts(native=loaded.dtype is torch.float32, packed=False, lean=False, attention=attention)


def rank_devices(name: str, size: int) -> list[str]:
    """The device of each rank, for a setting. Raises ModelLoadError when there are not enough of them."""
    has_cuda = torch.cuda.is_available()
    if name == "cpu" or not has_cuda:
        if has_cuda:
            # transformers splits models over the accelerators that a machine has, whatever it is asked.
            raise ModelLoadError(
                "tensor_parallel_size: this machine has GPUs; to split the model over processes on its CPU, hide them "
                "with CUDA_VISIBLE_DEVICES= in the environment"
            )
        return [name if name != "auto" else "cpu"] * size
    if torch.cuda.device_count() < size:
        raise ModelLoadError(
            f"tensor_parallel_size is {size}, and this machine has {torch.cuda.device_count()} GPUs for one process each"
        )
    return [f"cuda:{rank}" for rank in range(size)]
