"""RankGroup: the processes that compute one model, as torch.distributed sees them."""

import os
import sys
from datetime import timedelta

import torch
from torch import distributed

_TIMEOUT = timedelta(hours=2)
"""Of one collective operation. Some processes may read their weights much faster than others; between steps nobody waits
in one."""


class RankGroup:
    """This process's place among them. One per process at a time."""

    def __init__(self, rank: int, size: int, store: str, device: torch.device) -> None:
        """``store``: a file that all of them see, in which they find each other. Returns when all are there."""
        self._device = device
        # All are on this machine, and what they say to each other is nobody else's business. transformers learns from
        # the environment which device is this process's.
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # noqa: TID251 it is written here, not read
        os.environ["LOCAL_RANK"] = str(rank)  # noqa: TID251 it is written here, not read
        is_cuda = device.type == "cuda"
        if is_cuda:
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "nccl" if is_cuda else "gloo",
            store=distributed.FileStore(store, size),
            rank=rank,
            world_size=size,
            timeout=_TIMEOUT,
            device_id=device if is_cuda else None,
        )

    def smallest(self, value: int) -> int:
        """Of the values that all of them bring."""
        shared = torch.tensor(value, device=self._device)
        distributed.all_reduce(shared, distributed.ReduceOp.MIN)
        return int(shared.item())

    def share(self, tensor: torch.Tensor) -> None:
        """Overwrite ``tensor`` with that of rank 0, which has the same shape."""
        distributed.broadcast(tensor, src=0)

    def leave(self) -> None:
        distributed.destroy_process_group()
