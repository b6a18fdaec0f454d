"""Every architecture we name gives transformers' own tokens, on every path through the engine."""

import pytest
from tiny_engine import PATHS, build, prompts, run
from tiny_models import CONFIGS

from headrace_worker.execute.lean import LeanNetwork

ASKED = prompts(3, 33, 18, 64, 47)
COUNT = 24
LEAN = {name for name in CONFIGS if name.startswith(("llama", "mistral", "qwen", "phi3", "gemma"))} - {
    "llama_odd_sizes"
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_equal_generate_alone_and_in_a_mixed_batch_with_preemption(name, path, tiny, generate):
    expected = [generate(name, prompt, COUNT) for prompt in ASKED]
    assert all(len(set(tokens)) > 5 for tokens in expected), "a model that repeats itself proves nothing"
    built = build(tiny(name), PATHS[path])

    alone = [run(built, [prompt], COUNT).tokens[0] for prompt in ASKED[:2]]
    assert alone == expected[:2]

    # 14 blocks hold 224 tokens of the 285 that the answers need in the end.
    mixed = run(built, ASKED, COUNT, budget=24, blocks=14)
    assert mixed.tokens == expected
    assert mixed.mixed_steps > 0
    assert mixed.preemptions > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_the_known_families_run_lean(name, tiny):
    network = build(tiny(name), PATHS["lean"]).runner._network
    assert isinstance(network, LeanNetwork) == (name in LEAN)
