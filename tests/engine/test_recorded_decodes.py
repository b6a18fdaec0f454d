"""Steps over static inputs that are filled up give the tokens of steps as they come. On CUDA they are played from graphs."""

from dataclasses import replace

import pytest
import torch
from tiny_engine import PATHS, build, prompts, run

from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.execute.build import parts_for
from headrace_worker.execute.recorded import RecordedDecodes, RecordingLimits, batch_sizes
from headrace_worker.settings import WorkerSettings

ASKED = prompts(3, 33, 18, 64, 47)
COUNT = 24
BLOCKS = 64


class ByTensors(PagedSdpa):
    """Knows of a batch what its tensors hold, as what was recorded on a device does."""

    recordable = True

    def attend(self, layer, cache, rows, batch):
        true = replace(batch, context_lens=batch.contexts.tolist(), starts=batch.query_starts.tolist())
        return super().attend(layer, cache, rows, true)


def recording(built, most_rows):
    """``built`` with its decodes played, and of each batch that was its rows and how many of them were somebody's."""
    attention, played = built.runner._attention, []
    attention.backend = ByTensors()
    limits = RecordingLimits(most_rows, most_blocks=16, spare_block=BLOCKS - 1)
    block_size = attention.cache.block_size

    def record(compute):
        def play():
            slots = attention.batch.slots
            played.append((len(slots), int((slots // block_size != limits.spare_block).sum())))
            return compute()

        return play

    recorded = RecordedDecodes(built.runner._network, attention, limits, built.model.device)
    recorded.record(record)
    built.runner._network = recorded
    return played


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_batch_sizes_are_powers_of_two_and_the_largest(most, sizes):
    assert batch_sizes(most) == sizes


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_tokens_are_those_of_steps_as_they_come(name, tiny, generate):
    built = build(tiny(name), PATHS["portable"], blocks=BLOCKS)
    played = recording(built, most_rows=16)
    answers = run(built, ASKED, COUNT, budget=24, blocks=14)
    assert answers.tokens == [generate(name, prompt, COUNT) for prompt in ASKED]
    assert answers.mixed_steps > 0
    assert answers.preemptions > 0
    assert {(1, 1), (2, 2), (4, 3), (4, 4)} <= set(played)


def test_larger_batches_than_were_recorded_run_as_they_come(tiny, generate):
    built = build(tiny("llama"), PATHS["portable"], blocks=BLOCKS)
    played = recording(built, most_rows=3)
    assert run(built, ASKED, COUNT, budget=256).tokens == [generate("llama", prompt, COUNT) for prompt in ASKED]
    assert played == []
    assert run(built, ASKED[:3], COUNT, budget=256).tokens == [generate("llama", prompt, COUNT) for prompt in ASKED[:3]]
    assert played == [(3, 3)] * (COUNT - 1)


def test_rows_of_nobody_write_to_no_block_that_a_sequence_can_have(tiny):
    built = build(tiny("llama"), PATHS["portable"], blocks=BLOCKS)
    played = recording(built, most_rows=4)
    run(built, ASKED[:3], COUNT, budget=256, blocks=20)
    assert set(played) == {(4, 3)}
    for layer in built.runner._attention.cache.layers:
        assert layer.key[:20].any()
        assert not layer.key[20 : BLOCKS - 1].any()


def test_a_model_that_cannot_be_recorded_runs_as_it_comes(tiny, generate, caplog):
    built = build(tiny("llama"), PATHS["portable"], blocks=BLOCKS)
    runner = built.runner
    limits = RecordingLimits(8, most_blocks=16, spare_block=BLOCKS - 1)
    recorded = RecordedDecodes(runner._network, runner._attention, limits, torch.device("cpu"))

    def record(compute):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    recorded.record(record)
    assert caplog.records[-1].reason == "CUDA error: operation not permitted when stream is capturing"
    runner._network = recorded
    assert run(built, ASKED[:2], COUNT).tokens == [generate("llama", prompt, COUNT) for prompt in ASKED[:2]]


@pytest.mark.parametrize(
    ("options", "rows"),
    [({}, 64), ({"max_num_seqs": 5}, 5), ({"enforce_eager": True}, 0), ({"cpu_offload_gb": 0.5}, 0)],
)
def test_the_largest_recorded_batch_is_that_of_the_scheduler_or_none(options, rows):
    assert parts_for(WorkerSettings(model="m", **options)).recorded_rows == rows
