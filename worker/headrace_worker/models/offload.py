"""Layers whose weights stay in the host's memory, and are copied to the device each time they compute."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from headrace_worker.models.errors import ModelLoadError

Move = Callable[[torch.Tensor], torch.Tensor]


class OffloadedLayer:
    """A decoder layer that has its weights on the device only while it computes."""

    def __init__(self, layer: nn.Module, keep: Move, fetch: Move) -> None:
        """``keep``: to where a weight stays; ``fetch``: a copy of that on the device."""
        self._kept = [(parameter, keep(parameter.data)) for parameter in layer.parameters()]
        self._fetch = fetch
        self._release()
        layer.register_forward_pre_hook(self._before)
        # Also when the layer fails or its step is given up.
        layer.register_forward_hook(self._after, always_call=True)

    def _before(self, layer: nn.Module, inputs: Any) -> None:
        for parameter, kept in self._kept:
            parameter.data = self._fetch(kept)

    def _after(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self._release()

    def _release(self) -> None:
        for parameter, kept in self._kept:
            parameter.data = kept


def check(config: PretrainedConfig, device: torch.device) -> None:
    """Raises ModelLoadError for a model none of which can be offloaded."""
    if device.type != "cuda":
        raise ModelLoadError("cpu_offload_gb: on a CPU the weights are in its memory in any case; leave it out")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelLoadError("cpu_offload_gb: the weights are quantized, and only plain ones can be offloaded")


def move(model: PreTrainedModel, device: torch.device, offload_bytes: int) -> None:
    """Move ``model`` to a CUDA device, but for the weights of its first layers, as far as they fit into ``offload_bytes``.

    Raises ModelLoadError when not one of them fits.
    """
    chosen = first_layers(model, offload_bytes)
    held = [(parameter, parameter.data) for layer in chosen for parameter in layer.parameters()]
    for parameter, weight in held:
        parameter.data = weight.new_empty(0)
    model.to(device)
    for parameter, weight in held:
        parameter.data = weight
    for layer in chosen:
        # Memory that the system cannot move: the device copies it by itself, while the host goes on.
        OffloadedLayer(layer, keep=torch.Tensor.pin_memory, fetch=lambda kept: kept.to(device, non_blocking=True))


def first_layers(model: PreTrainedModel, most_bytes: int) -> list[nn.Module]:
    """As many of the decoder's layers as have their weights in ``most_bytes``. Raises ModelLoadError when none has."""
    left = most_bytes
    chosen: list[nn.Module] = []
    for layer in _layers(model):
        size = sum(parameter.nbytes for parameter in layer.parameters())
        if size > left:
            if not chosen:
                raise ModelLoadError(f"cpu_offload_gb: one layer has {size / (1 << 30):.2g} GiB; give it more")
            break
        left -= size
        chosen.append(layer)
    return chosen


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    """Whatever the architecture calls them."""
    lists = [child for child in model.get_decoder().children() if isinstance(child, nn.ModuleList)]
    return max(lists, key=len)
