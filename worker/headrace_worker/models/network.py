"""Network: a model as the engine runs it, packed tokens in and logits of chosen rows out."""

import copy
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from headrace_worker.models import attention_hook
from headrace_worker.models.attention_hook import AttentionHandler


class Network(Protocol):
    """The two halves of a language model. All rows of a step go through the first, few through the second."""

    def hidden(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[total] and [total] -> [total, hidden], after the last norm."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocab] in float32, newly made, with the model's own final scaling."""


class TransformersNetwork:
    """Any architecture, through transformers' own code."""

    def __init__(self, model: PreTrainedModel, attention: AttentionHandler) -> None:
        self._model = model
        self._decoder = model.get_decoder()
        self._attention = attention
        self._output: Any = None

    def hidden(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with attention_hook.installed(self._attention):
            self._output = self._decoder(
                input_ids=input_ids.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False
            )
        hidden: torch.Tensor = self._output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Runs the model's own forward with the decoder's answer given, so that whatever it does
        after the decoder (scaling, soft-capping) happens here as well."""
        answer = copy.copy(self._output)
        answer.last_hidden_state = hidden.unsqueeze(0)
        # An attribute of the instance hides the method of the class until it is deleted.
        self._decoder.forward = lambda *_args, **_kwargs: answer
        try:
            logits = self._model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=hidden.device)).logits
        finally:
            del self._decoder.forward
        rows: torch.Tensor = logits[0].float()
        return rows
