"""Logits processors of the operator's own, which a request names."""

import importlib
import inspect
import logging
import re
from collections.abc import Sequence
from typing import Any, Self

import torch

from headrace_shared.protocol.sampling import ProcessorCall
from headrace_worker.schedule import request

log = logging.getLogger(__name__)


class OwnProcessor:
    """A callable ``(output_ids, logits) -> logits``, or ``(prompt_ids, output_ids, logits) -> logits``.

    It must be a pure function of these: the same request is computed in other batches, and on
    other workers.
    """

    def __init__(self, name: str, call: Any) -> None:
        """Raises TypeError or ValueError for something that cannot be called."""
        self.name = name
        self._call = call
        self._takes_prompt = len(inspect.signature(call).parameters) == 3

    def apply(self, sequence: request.Sequence, row: torch.Tensor) -> None:
        """Change a row of logits [vocab] in place. Raises whatever the callable raises, and TypeError for what is no such row."""
        prompt, output = sequence.token_ids[: sequence.prompt_len], sequence.token_ids[sequence.prompt_len :]
        made = self._call(prompt, output, row) if self._takes_prompt else self._call(output, row)
        if not isinstance(made, torch.Tensor) or made.shape != row.shape:
            raise TypeError("it did not return logits of the shape that it was given")
        if made is not row:
            row.copy_(made)


class ProcessorLoader:
    """Imports those processors that the operator allows."""

    def __init__(self, pattern: str | None) -> None:
        """``pattern``: regular expression for their whole names; None: no name is allowed."""
        self._pattern = None if pattern is None else re.compile(pattern)

    def load(self, calls: Sequence[ProcessorCall]) -> list[OwnProcessor]:
        """Takes as long as the import does. Raises ValueError that says which one cannot be used."""
        return [self._load(call) for call in calls]

    def _load(self, call: ProcessorCall) -> OwnProcessor:
        name = call.qualname
        if self._pattern is None or not self._pattern.fullmatch(name):
            raise ValueError(f"{name} is not allowed by this server")
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
            return OwnProcessor(name, found(*call.args, **call.kwargs) if call.build else found)
        # Whatever the operator's code raises when it is imported or called.
        except Exception as error:
            log.exception("logits processor cannot be made", extra={"processor": name})
            raise ValueError(f"{name} cannot be made: {type(error).__name__}") from error


class OwnProcessors:
    """The rows that name some. One that fails ends its own request alone."""

    def __init__(self, rows: Sequence[tuple[int, request.Sequence]]) -> None:
        self._rows = rows
        self.failed: dict[request.Sequence, str] = {}
        """What to tell the clients of those that failed at the last ``apply``."""

    @classmethod
    def for_batch(cls, sequences: Sequence[request.Sequence]) -> Self | None:
        rows = [(row, sequence) for row, sequence in enumerate(sequences) if sequence.processors]
        return cls(rows) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        self.failed = {}
        for row, sequence in self._rows:
            for processor in sequence.processors:
                try:
                    processor.apply(sequence, logits[row])
                except Exception as error:
                    log.exception(
                        "logits processor failed",
                        extra={"processor": processor.name, "request_id": sequence.request_id},
                    )
                    self.failed[sequence] = f"{processor.name} failed: {type(error).__name__}"
                    break
