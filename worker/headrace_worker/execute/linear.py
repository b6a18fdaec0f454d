"""Linear layers with their weights laid out once for the processor, instead of at each call."""

import logging
from collections.abc import Callable, Iterator
from ctypes import byref

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headrace_worker.execute.native.library import Kernels, LinearCall

log = logging.getLogger(__name__)

_ONEDNN_ROWS = 32
"""The batch size that oneDNN lays weights out for; with others it was seen to do so again at each call."""

_LANES = 16


class NativeLinear(nn.Module):  # type: ignore[misc]  # torch comes without types here
    """``x W^T + bias`` in our own kernel, float32: a row has the same bits alone and in any batch."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: Kernels, threads: int) -> None:
        """``weight``: [outputs, inputs]; it may be freed afterwards."""
        super().__init__()
        self._kernels, self._threads = kernels, threads
        self.out_features, self.in_features = weight.shape
        self.packed = pack(weight, kernels, threads)
        self._bias = bias.detach().float().clone() if bias is not None else None
        self._call = LinearCall(
            packed=self.packed.data_ptr(),
            bias=self._bias.data_ptr() if self._bias is not None else None,
            outputs=self.out_features,
            inputs=self.in_features,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]"""
        rows = x.reshape(-1, self.in_features).contiguous()
        y = torch.empty((rows.shape[0], self.out_features))
        call = self._call
        call.x, call.y, call.rows = rows.data_ptr(), y.data_ptr(), rows.shape[0]
        self._kernels.linear(byref(call), self._threads)
        return y.view(*x.shape[:-1], self.out_features)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the weight: int64 [...] -> [..., inputs]. Raises IndexError for a row that is not there."""
        flat = ids.reshape(-1).contiguous()
        if bool(((flat < 0) | (flat >= self.out_features)).any()):
            raise IndexError("a token id is outside of the model's vocabulary")
        out = torch.empty((*ids.shape, self.in_features))
        self._kernels.unpack_rows(
            self.packed.data_ptr(), flat.data_ptr(), out.data_ptr(), len(flat), self.in_features, self._threads
        )
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


LinearFactory = Callable[[torch.Tensor, torch.Tensor | None], nn.Module]
"""(weight [outputs, inputs], bias [outputs] or None) -> the layer that replaces them."""


def pack(weight: torch.Tensor, kernels: Kernels, threads: int) -> torch.Tensor:
    """Panels of sixteen outputs, as linear.h wants them."""
    outputs, inputs = weight.shape
    dense = weight.detach().float().contiguous()
    packed = torch.empty(-(-outputs // _LANES) * _LANES * inputs)
    kernels.pack(dense.data_ptr(), packed.data_ptr(), outputs, inputs, threads)
    return packed


def linear_factory(kernels: Kernels | None, threads: int) -> LinearFactory | None:
    """The best layer for float32 on this CPU; None when torch's own stays."""
    if kernels is not None:
        return lambda weight, bias: NativeLinear(weight, bias, kernels, threads)
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return OneDnnLinear
    return None


def pack_linears(model: PreTrainedModel, make: LinearFactory) -> int:
    """Replace every plain float32 linear layer of ``model``; returns how many.

    Each dense weight is freed as soon as it is packed, so that there is never more than one layer
    twice in memory. A head that shares its weight with the embedding is packed as well, and the
    embedding then looks tokens up in it (with oneDNN's layout it cannot, and keeps the dense weight).
    """
    replaced = 0
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = type(embedding) is nn.Embedding and embedding.weight is head.weight
    for parent, name, child in list(_linears(model)):
        weight = child.weight.t() if isinstance(child, Conv1D) else child.weight
        setattr(parent, name, make(weight, child.bias))
        child.weight = None
        replaced += 1
    head = model.get_output_embeddings()
    if tied and isinstance(head, NativeLinear):
        model.set_input_embeddings(PackedEmbedding(head))
    release_file(model)
    log.debug("linear layers packed", extra={"layers": replaced})
    return replaced


def release_file(model: PreTrainedModel) -> None:
    """Copy what is left of the weights, small things mostly: one view of it keeps a whole checkpoint file mapped."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear | Conv1D]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            # Not their subclasses, which may do more than a product.
            if type(child) in (nn.Linear, Conv1D) and child.weight.dtype is torch.float32:
                yield parent, name, child
