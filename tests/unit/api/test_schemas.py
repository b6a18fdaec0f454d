"""The request models: nothing gets through that is wrong, nothing known is ignored."""

import contextlib
import json
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params as openai_text
from openai.types.chat import completion_create_params as openai_chat

from headrace_api.schemas.base import RequestModel
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.completions import CompletionRequest
from headrace_api.schemas.tokenize import DetokenizeRequest, TokenizeRequest
from headrace_shared.errors import InvalidRequestError

MODELS: list[type[RequestModel]] = [ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest]
BASES: dict[type[RequestModel], dict[str, Any]] = {
    ChatRequest: {"messages": [{"role": "user", "content": "hi"}]},
    CompletionRequest: {"prompt": "hi"},
    TokenizeRequest: {"prompt": "hi"},
    DetokenizeRequest: {"tokens": [1]},
}
# Names that the feature map lists for these endpoints and that OpenAI's own types do not have.
EXTENSIONS = [
    "add_special_tokens",
    "allowed_token_ids",
    "bad_words",
    "cache_salt",
    "ec_transfer_params",
    "echo",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
    "ignore_eos",
    "include_stop_str_in_output",
    "kv_transfer_params",
    "length_penalty",
    "logits_processors",
    "logprob_token_ids",
    "min_p",
    "min_tokens",
    "mm_processor_kwargs",
    "priority",
    "prompt_logprobs",
    "repetition_detection",
    "repetition_penalty",
    "request_id",
    "return_token_ids",
    "return_token_offsets",
    "return_tokens_as_token_ids",
    "return_weight_versions",
    "routed_experts_prompt_start",
    "session_id",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop_token_ids",
    "stream_interval",
    "structured_outputs",
    "thinking_token_budget",
    "top_k",
    "truncate_prompt_tokens",
    "truncation_side",
    "use_beam_search",
    "vllm_xargs",
    "watermarking",
    "best_of",
]
CHAT_EXTENSIONS = [
    "add_generation_prompt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "include_reasoning",
    "media_io_kwargs",
    "return_prompt_text",
]
TEXT_EXTENSIONS = ["prompt_embeds", "mm_payload", "response_format"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def parse(model: type[RequestModel], fields: dict[str, Any]) -> RequestModel:
    return model.parse(json.dumps(BASES[model] | fields).encode())


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (ChatRequest, {*get_type_hints(openai_chat.CompletionCreateParamsStreaming), *EXTENSIONS, *CHAT_EXTENSIONS}),
        (
            CompletionRequest,
            {*get_type_hints(openai_text.CompletionCreateParamsStreaming), *EXTENSIONS, *TEXT_EXTENSIONS},
        ),
    ],
)
def test_every_specified_field_is_honoured_or_refused(model: type[RequestModel], names: set[str]) -> None:
    assert names - set(model.model_fields) - set(model.not_supported) == set()


@pytest.mark.parametrize("model", MODELS)
def test_no_field_is_both_honoured_and_refused(model: type[RequestModel]) -> None:
    assert set(model.model_fields) & set(model.not_supported) == set()


@pytest.mark.parametrize("model", MODELS)
def test_null_asks_for_nothing_in_every_optional_field(model: type[RequestModel]) -> None:
    optional = [name for name, field in model.model_fields.items() if not field.is_required()]
    optional = [name for name in optional if name not in BASES[model]]
    assert parse(model, dict.fromkeys([*optional, *model.not_supported])).unknown_fields() == []


@given(body=json_values)
def test_any_json_is_parsed_or_refused(body: Any) -> None:
    for model in MODELS:
        with contextlib.suppress(InvalidRequestError):
            model.parse(json.dumps(body).encode())


@given(data=st.binary(max_size=40))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        ChatRequest.parse(data)


@settings(max_examples=300)
@given(data=st.data())
def test_a_wrong_value_is_always_blamed_on_its_field(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(MODELS))
    name = data.draw(st.sampled_from(sorted([*model.model_fields, *model.not_supported])))
    error = refusal(model, {name: data.draw(json_values)})
    if error is not None:
        blamed = error.param or ""
        together = {"top_logprobs", "prompt", "stream_options", "continue_final_message", "best_of"} | {
            "truncate_prompt_tokens",
            "suffix",
            "temperature",
        }
        assert blamed.startswith(name) or blamed in together
        assert len(error.message) < 2000


def refusal(model: type[RequestModel], fields: dict[str, Any]) -> InvalidRequestError | None:
    try:
        parse(model, fields)
    except InvalidRequestError as error:
        return error
    return None


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError):
        CompletionRequest.parse(f'{{"prompt": "a", "temperature": {value}}}'.encode())


def test_whole_numbers_are_numbers() -> None:
    request = CompletionRequest.parse(b'{"prompt": "a", "temperature": 1, "logit_bias": {"5": 2}}')
    assert request.temperature == 1.0
    assert isinstance(request.temperature, float)


def test_unknown_fields_are_told_apart_from_unsupported_ones() -> None:
    request = parse(ChatRequest, {"zebra": 1, "tools": None, "stream": True, "stream_options": {"yak": 2}})
    assert request.unknown_fields() == ["zebra", "stream_options.yak"]
