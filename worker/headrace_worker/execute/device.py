"""Devices: how what a step is told gets there, and which one a thread's kernels go to."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch


def on_device(array: "np.ndarray[Any, Any]", device: torch.device) -> torch.Tensor:
    """A tensor of ``array``, which must not be written any more; on a CPU it is the same memory.

    A GPU gets it by way of memory that the system cannot move, so that nobody waits for the copy.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def using(device: torch.device) -> AbstractContextManager[Any]:
    """Within it, the calling thread's kernels go to ``device``: Triton's go to no other one, whatever their tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
