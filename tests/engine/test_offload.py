"""Weights that are on the device only while their layer computes. The device is played by copies here."""

import pytest
import torch
from tiny_engine import PATHS, build, prompts, run

from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.models.offload import OffloadedLayer, first_layers
from headrace_worker.settings import WorkerSettings


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_tokens_are_those_of_a_model_that_is_all_there(name, tiny, generate):
    built = build(tiny(name), PATHS["portable"])
    layers = first_layers(built.model.model, 1 << 30)
    assert len(layers) == len(built.model.layers)
    fetched = []

    def fetch(kept):
        fetched.append(kept)
        return kept.clone()

    for layer in layers:
        OffloadedLayer(layer, keep=torch.clone, fetch=fetch)
    kept = [parameter.data_ptr() for layer in layers for parameter in layer.parameters()]
    asked = prompts(3, 33)
    assert run(built, asked, 8).tokens == [generate(name, prompt, 8) for prompt in asked]
    assert len(fetched) % len(kept) == 0
    assert len(fetched) >= 9 * len(kept)
    # What a layer computed with is gone again.
    assert [parameter.data_ptr() for layer in layers for parameter in layer.parameters()] == kept


def test_the_first_layers_are_taken_as_far_as_they_fit(tiny):
    model = load_model(ModelSource(str(tiny("llama")), device="cpu")).model
    every = list(model.get_decoder().layers)
    size = sum(parameter.nbytes for parameter in every[0].parameters())
    assert first_layers(model, 2 * size) == every[:2]
    assert first_layers(model, 3 * size - 1) == every[:2]
    assert first_layers(model, 100 * size) == every
    with pytest.raises(ModelLoadError, match=r"one layer has .* GiB; give it more"):
        first_layers(model, size - 1)


def test_on_a_cpu_there_is_nothing_to_offload(tiny):
    with pytest.raises(ModelLoadError, match="cpu_offload_gb: on a CPU the weights are in its memory in any case"):
        load_model(ModelSource(str(tiny("llama")), device="cpu", cpu_offload_bytes=1 << 30))


def test_a_split_model_is_not_offloaded():
    with pytest.raises(ValueError, match="leave cpu_offload_gb out"):
        WorkerSettings(model="m", tensor_parallel_size=2, cpu_offload_gb=1)
