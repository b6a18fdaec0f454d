"""Linear layers with their weights laid out once for the processor, instead of at each call."""

import logging
from collections.abc import Callable, Iterator
from ctypes import byref

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headrace_worker.execute.native.library import Kernels
from headrace_worker.execute.weights import PackedWeight, Packing, pack
from headrace_worker.models.families import has_plain_weight

log = logging.getLogger(__name__)

_ONEDNN_ROWS = 32
"""The batch size that oneDNN lays weights out for; with others it was seen to do so again at each call."""


class NativeLinear(nn.Module):  # type: ignore[misc]  # torch comes without types here
    """``x W^T + bias`` in our own kernel, in float32: a row has the same bits alone and in any batch."""

    def __init__(self, weight: PackedWeight, bias: torch.Tensor | None, kernels: Kernels, threads: int) -> None:
        super().__init__()
        self._kernels, self._threads = kernels, threads
        self.out_features, self.in_features = weight.outputs, weight.inputs
        self.packed = weight
        self._bias = bias.detach().float().clone() if bias is not None else None
        self._call = weight.call(self._bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]"""
        rows = x.reshape(-1, self.in_features).contiguous()
        y = torch.empty((rows.shape[0], self.out_features))
        scratch = torch.empty(self._kernels.scratch_bytes(*rows.shape), dtype=torch.uint8)
        call = self._call
        call.x, call.y, call.rows, call.scratch = rows.data_ptr(), y.data_ptr(), rows.shape[0], scratch.data_ptr()
        self._kernels.linear(byref(call), self._threads)
        return y.view(*x.shape[:-1], self.out_features)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the weight: int64 [...] -> [..., inputs]. Raises IndexError for a row that is not there."""
        flat = ids.reshape(-1).contiguous()
        if bool(((flat < 0) | (flat >= self.out_features)).any()):
            raise IndexError("a token id is outside of the model's vocabulary")
        out = torch.empty((*ids.shape, self.in_features))
        self._kernels.unpack_rows(byref(self._call), flat.data_ptr(), out.data_ptr(), len(flat), self._threads)
        return out


class PackedEmbedding(nn.Module):  # type: ignore[misc]  # torch comes without types here
    """Token vectors looked up in the head's packed weight, for models whose embedding and head are one."""

    def __init__(self, head: NativeLinear, scale: float = 1.0) -> None:
        super().__init__()
        self._head, self._scale = head, scale

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """[...] -> [..., hidden]. Raises IndexError for an id that the model does not have."""
        return self._head.rows(input_ids).mul_(self._scale)


class OneDnnLinear(nn.Module):  # type: ignore[misc]  # torch comes without types here
    """The same through oneDNN, for an installation without compiled kernels."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ONEDNN_ROWS)
        self._bias = bias.detach().clone() if bias is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return y.view(*x.shape[:-1], self.out_features)


def pack_linears(model: PreTrainedModel, packing: Packing) -> int:
    """Replace every plain linear layer of ``model`` by our own; returns how many.

    A head that shares its weight with the embedding is packed as well, and the embedding then looks
    tokens up in it. Whatever else the model has computes in float32 afterwards.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = type(embedding) is nn.Embedding and embedding.weight is head.weight

    def make(child: nn.Module, weight: torch.Tensor) -> nn.Module:
        packed = pack(weight, packing.head if child is head else packing.layers, packing.kernels, packing.threads)
        return NativeLinear(packed, child.bias, packing.kernels, packing.threads)

    replaced = _replace(model, make)
    own_head = model.get_output_embeddings()
    if tied and isinstance(own_head, NativeLinear):
        model.set_input_embeddings(PackedEmbedding(own_head))
    release_file(model)
    if model.dtype is not torch.float32:
        model.float()
    return replaced


def reorder_linears(model: PreTrainedModel) -> int:
    """The same with oneDNN's layers, for a float32 model; one that shares head and embedding keeps the dense weight too."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return 0
    replaced = _replace(model, lambda child, weight: OneDnnLinear(weight, child.bias))
    release_file(model)
    return replaced


def _replace(model: PreTrainedModel, make: Callable[[nn.Module, torch.Tensor], nn.Module]) -> int:
    """Each dense weight is freed as soon as its layer is made: never is more than one layer twice in memory."""
    found = list(_linears(model))
    for parent, name, child in found:
        setattr(parent, name, make(child, child.weight.t() if isinstance(child, Conv1D) else child.weight))
        child.weight = None
    log.debug("linear layers packed", extra={"layers": len(found)})
    return len(found)


def release_file(model: PreTrainedModel) -> None:
    """Copy what is left of the weights, small things mostly: one view of it keeps a whole checkpoint file mapped."""
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:
            parameter.data = parameter.data.clone()


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear | Conv1D]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            # Not their subclasses, which may do more than a product.
            if type(child) in (nn.Linear, Conv1D) and has_plain_weight(child):
                yield parent, name, child
