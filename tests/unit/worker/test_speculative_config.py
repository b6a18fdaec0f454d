"""What can be said of guesses, in one JSON object or with the older options."""

import pytest
from pydantic import ValidationError

from headrace_worker.settings import WorkerSettings
from headrace_worker.speculative_config import SpeculativeConfig


def settings(**given: object) -> WorkerSettings:
    return WorkerSettings(model="m", **given)


def problems(**given: object) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(**given)
    return str(caught.value)


def test_without_any_of_it_nothing_is_guessed() -> None:
    assert settings().speculation is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"method": "ngram", "num_speculative_tokens": 3}, (5, 5)),
        ({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}, (4, 4)),
        ({"num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2}, (2, 4)),
        ({"model": "[ngram]", "num_speculative_tokens": 3, "prompt_lookup_min": 2}, (2, 2)),
    ],
)
def test_ngrams_have_the_lengths_that_vllm_gives_them(given: dict[str, object], expected: tuple[int, int]) -> None:
    config = settings(speculative_config=given).speculation
    assert config is not None
    assert (config.method, config.prompt_lookup_min, config.prompt_lookup_max) == ("ngram", *expected)


def test_a_model_is_a_draft_model_and_suffixes_have_a_length_of_their_own() -> None:
    assert SpeculativeConfig(model="x", num_speculative_tokens=2).method == "draft_model"
    assert SpeculativeConfig(method="suffix").tokens == 24
    assert SpeculativeConfig(method="suffix", suffix_decoding_max_tree_depth=9).tokens == 9


def test_the_older_options_say_the_same_as_the_json() -> None:
    older = settings(
        speculative_model="[ngram]",
        num_speculative_tokens=3,
        ngram_prompt_lookup_max=4,
        ngram_prompt_lookup_min=2,
        speculative_disable_by_batch_size=8,
    )
    json = {
        "method": "ngram",
        "num_speculative_tokens": 3,
        "prompt_lookup_max": 4,
        "prompt_lookup_min": 2,
        "disable_by_batch_size": 8,
    }
    assert older.speculation == settings(speculative_config=json).speculation
    draft = settings(speculative_model="small", num_speculative_tokens=2, speculative_max_model_len=100).speculation
    assert draft == SpeculativeConfig(method="draft_model", model="small", num_speculative_tokens=2, max_model_len=100)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "eagle3", "model": "x"}, "eagle3 needs heads"),
        ({"method": "medusa"}, "medusa needs heads"),
        ({"method": "qwen3_next_mtp"}, "qwen3_next_mtp needs heads"),
        ({"method": "magic"}, "method: must be one of ngram, suffix, draft_model"),
        ({"num_speculative_tokens": 3}, "method is needed"),
        ({"method": "ngram"}, "num_speculative_tokens is needed"),
        ({"method": "draft_model", "num_speculative_tokens": 3}, "model is needed"),
        ({"method": "ngram", "num_speculative_tokens": 0}, "num_speculative_tokens: Input should be greater"),
        ({"method": "suffix", "model": "x"}, "model belongs to method draft_model"),
        ({"method": "suffix", "prompt_lookup_max": 3}, "prompt_lookup_max belongs to method ngram"),
        ({"model": "x", "num_speculative_tokens": 2, "draft_tensor_parallel_size": 2}, "draft_tensor_parallel_size"),
        ({"model": "x", "num_speculative_tokens": 2, "quantization": "awq"}, "quantization: Extra inputs"),
        (
            {"num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 4},
            "prompt_lookup_min must not be above",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, object], told: str) -> None:
    text = problems(speculative_config=given)
    assert told in text
    assert "speculative_config: " in text


def test_an_option_that_contradicts_the_json_is_refused() -> None:
    text = problems(speculative_config={"method": "ngram", "num_speculative_tokens": 3}, num_speculative_tokens=4)
    assert "num_speculative_tokens is 4, and speculative_config says 3" in text


def test_the_simulated_engine_has_no_use_for_guesses() -> None:
    text = problems(engine="simulated", speculative_config={"method": "ngram", "num_speculative_tokens": 3})
    assert "speculative_config: the simulated engine has no use for guesses" in text
