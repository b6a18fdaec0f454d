"""LeanNetwork: known architectures with all their layers computed in one call of the native kernels."""

from ctypes import POINTER, byref, cast, sizeof
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from headrace_worker.execute.linear import NativeLinear, PackedEmbedding, release_file
from headrace_worker.execute.native.library import AttentionCall, DecoderCall, LayerCall, address
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.execute.weights import Packing, pack
from headrace_worker.models.families import Decoder, DecoderLayer, Projection
from headrace_worker.models.layers import AttentionLayer

_LANES = 16
_ROWS_BETWEEN_LOOKS = 128
"""Rows times layers: some ten milliseconds on two cores."""
_GATES = {"silu": 2, "gelu_tanh": 3}
"""Modes of ``Linear`` in linear.h."""


@dataclass(slots=True)
class _Buffers:
    """Activations of a step, [rows] by what the name says; kept from step to step, for the most rows seen."""

    normed: torch.Tensor
    merged: torch.Tensor
    attended: torch.Tensor
    delta: torch.Tensor
    gated: torch.Tensor
    scratch: torch.Tensor
    """Bytes, for rows that are quantized."""


def can_be_lean(decoder: Decoder, layers: list[AttentionLayer]) -> bool:
    """Whether the kernels' sizes fit: all layers alike but for their windows, and whole units of sixteen."""
    shapes = {
        (each.num_heads, each.num_kv_heads, each.head_dim, each.value_dim, each.scale, each.softcap) for each in layers
    }
    rotaries = {each.rotary for each in decoder.layers}
    sinks = any(each.has_sinks for each in layers)
    same_dim = layers[0].head_dim == layers[0].value_dim
    return len(shapes) == 1 and len(rotaries) <= 2 and not sinks and same_dim and decoder.intermediate % _LANES == 0


class LeanNetwork:
    """A Network without transformers' modules: they are emptied as their weights are packed."""

    def __init__(self, model: PreTrainedModel, decoder: Decoder, attention: PagedAttention, packing: Packing) -> None:
        """``model`` cannot be run any more afterwards."""
        self._packing = packing
        self._kernels, self._threads = packing.kernels, packing.threads
        self._attention = attention
        self._decoder = decoder
        self._rotaries = sorted({layer.rotary for layer in decoder.layers}, key=str)
        self._keep: list[torch.Tensor] = []
        self._layers = (LayerCall * len(decoder.layers))()
        modules = model.get_decoder().layers
        for index, layer in enumerate(decoder.layers):
            self._layers[index] = self._pack_layer(index, layer)
            modules[index] = nn.Identity()
        decoder.layers.clear()
        # It names the old attention modules, and so would keep their weights.
        attention.layer_index.clear()
        head = pack(decoder.head.weight(), packing.head, self._kernels, self._threads)
        self._head = NativeLinear(head, decoder.head.bias(), self._kernels, self._threads)
        model.set_output_embeddings(nn.Identity())
        decoder.head.weights.clear()
        if decoder.tied_scale is not None:
            decoder.embedding = PackedEmbedding(self._head, decoder.tied_scale)
            model.set_input_embeddings(nn.Identity())
        release_file(model)
        self._call = self._prepare()
        self._buffers = self._allocate(1)

    def hidden(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        residual = self._decoder.embedding(input_ids).float()
        rows = residual.shape[0]
        if rows > self._buffers.normed.shape[0]:
            self._buffers = self._allocate(rows)
        call, batch = self._call, self._attention.batch
        tables = [self._rotate(residual, positions, name) for name in self._rotaries]
        for index, (cosine, sine) in enumerate(tables):
            call.cosine[index], call.sine[index] = cosine.data_ptr(), sine.data_ptr()
        call.attention.rotary_dim = tables[0][0].shape[1]
        call.residual = residual.data_ptr()
        call.attention.query_starts, call.attention.contexts = batch.query_starts.data_ptr(), batch.contexts.data_ptr()
        call.attention.block_tables, call.attention.slots = batch.block_tables.data_ptr(), batch.slots.data_ptr()
        call.attention.table_row = batch.block_tables.shape[1]
        call.attention.num_sequences, call.attention.num_rows = batch.num_sequences, rows
        self._decode(rows)
        return self._buffers.normed[:rows]

    def _decode(self, rows: int) -> None:
        """All layers in one call, or several of them when the step may be given up in between."""
        call, every = self._call, len(self._layers)
        at_once = max(1, _ROWS_BETWEEN_LOOKS // rows) if self._attention.may_be_given_up else every
        for first in range(0, every, at_once):
            self._attention.check()
            # Each call also computes the last norm, whose output the next one's layers write over.
            call.layers = cast(byref(self._layers, first * sizeof(LayerCall)), POINTER(LayerCall))
            call.num_layers = min(at_once, every - first)
            if self._kernels.decode(byref(call)) != 0:
                raise MemoryError("no memory for the kernels' scratch space")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden)
        cap = self._decoder.final_softcap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    def _rotate(
        self, like: torch.Tensor, positions: torch.Tensor, name: str | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of each row, [rows, rotary_dim]."""
        named = () if name is None else (name,)
        cosine, sine = self._decoder.rotary(like, positions.unsqueeze(0), *named)
        return cosine[0].contiguous(), sine[0].contiguous()

    def _hold(self, tensor: torch.Tensor | None) -> int | None:
        """The address of a copy that lives as long as we do."""
        if tensor is None:
            return None
        self._keep.append(tensor.detach().float().clone(memory_format=torch.contiguous_format))
        return int(self._keep[-1].data_ptr())

    def _pack(self, projection: Projection) -> int:
        packed = pack(projection.weight(), self._packing.layers, self._kernels, self._threads)
        self._keep.append(packed.data)
        return int(packed.data.data_ptr())

    def _pack_layer(self, index: int, layer: DecoderLayer) -> LayerCall:
        cache, rules = self._attention.cache.layers[index], self._attention.layers[index]
        return LayerCall(
            input_norm=self._hold(layer.input_norm),
            middle_norm=self._hold(layer.middle_norm),
            attention_norm=self._hold(layer.attention_norm),
            gated_norm=self._hold(layer.gated_norm),
            query_norm=self._hold(layer.query_norm),
            key_norm=self._hold(layer.key_norm),
            merged=self._pack(layer.merged),
            output=self._pack(layer.output),
            gate_up=self._pack(layer.gate_up),
            down=self._pack(layer.down),
            merged_bias=self._hold(layer.merged.bias()),
            output_bias=self._hold(layer.output.bias()),
            gate_up_bias=self._hold(layer.gate_up.bias()),
            down_bias=self._hold(layer.down.bias()),
            key_cache=cache.key.data_ptr(),
            value_cache=cache.value.data_ptr(),
            key_scales=address(cache.key_scales),
            value_scales=address(cache.value_scales),
            window=rules.sliding_window or 0,
            rotary=self._rotaries.index(layer.rotary),
            format=self._packing.layers,
        )

    def _prepare(self) -> DecoderCall:
        """Everything that is the same in each step."""
        decoder, rules = self._decoder, self._attention.layers[0]
        attention = AttentionCall(
            num_heads=rules.num_heads,
            num_kv_heads=rules.num_kv_heads,
            head_dim=rules.head_dim,
            value_dim=rules.value_dim,
            block_size=self._attention.cache.block_size,
            kept=self._attention.cache.layers[0].format,
            threads=self._threads,
            scale=rules.scale,
            softcap=rules.softcap or 0.0,
            norm_eps=decoder.norm_eps,
        )
        return DecoderCall(
            layers=self._layers,
            final_norm=self._hold(decoder.final_norm),
            attention=attention,
            num_layers=len(self._layers),
            hidden=decoder.hidden,
            intermediate=decoder.intermediate,
            gate=_GATES[decoder.activation],
            norm_eps=decoder.norm_eps,
        )

    def _allocate(self, rows: int) -> _Buffers:
        rules, decoder = self._attention.layers[0], self._decoder
        heads = rules.num_heads * rules.head_dim
        widest = max(decoder.hidden, heads, decoder.intermediate)
        buffers = _Buffers(
            normed=torch.empty((rows, decoder.hidden)),
            merged=torch.empty((rows, heads + 2 * rules.num_kv_heads * rules.head_dim)),
            attended=torch.empty((rows, heads)),
            delta=torch.empty((rows, decoder.hidden)),
            gated=torch.empty((rows, decoder.intermediate)),
            scratch=torch.empty(self._kernels.scratch_bytes(rows, widest), dtype=torch.uint8),
        )
        call = self._call
        call.normed, call.merged, call.attended = (
            buffers.normed.data_ptr(),
            buffers.merged.data_ptr(),
            buffers.attended.data_ptr(),
        )
        call.delta, call.gated = buffers.delta.data_ptr(), buffers.gated.data_ptr()
        call.scratch = buffers.scratch.data_ptr()
        return buffers
