"""Every bad value is a 400 that names its parameter, shows the value and says what is allowed."""

from typing import Any

import pytest
from live_api import Api, running_api
from scripted_worker import CONTEXT, ScriptedWorker, running_worker

from headrace_shared.model_card import GenerationDefaults

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"prompt": "hi"}
F, G = ({"type": "function", "function": {"name": name}} for name in "fg")


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


# fields of the body, the parameter to blame, words of the message
BOTH: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": "0.5"}, "temperature", 'should be a valid number, got "0.5"'),
    ({"temperature": True}, "temperature", "valid number, got true"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0, got -0.1"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2, got 2.1"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"top_p": 1.01}, "top_p", "less than or equal to 1"),
    ({"top_k": -2}, "top_k", "greater than or equal to -1"),
    ({"min_p": 1.1}, "min_p", "less than or equal to 1"),
    ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "greater than or equal to -2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 129}, "n", "less than or equal to 128"),
    ({"n": True}, "n", "valid integer, got true"),
    ({"n": 2, "temperature": 0}, "n", "must be 1 with temperature 0"),
    ({"n": 2, "best_of": 1}, "best_of", "should be at least n (2), got 1"),
    ({"n": 2, "best_of": 3, "stream": True}, "best_of", "should be equal to n (2) with stream: true, got 3"),
    ({"best_of": 3, "temperature": 0}, "best_of", "not possible with temperature 0"),
    ({"seed": 2**63}, "seed", "less than or equal to"),
    ({"seed": 1.5}, "seed", "valid integer"),
    ({"max_tokens": -1}, "max_tokens", "greater than or equal to"),
    ({"max_tokens": 0}, "max_tokens", "1"),
    ({"min_tokens": -1}, "min_tokens", "greater than or equal to 0"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "more than the 8 tokens"),
    ({"stop": ""}, "stop", "at least 1 character"),
    ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
    ({"stop": 5}, "stop", "a string or a list of strings, got 5"),
    ({"stop": ["x"] * 65}, "stop", "up to 64 stop strings, got 65"),
    ({"stop_token_ids": [257]}, "stop_token_ids", "between 0 and 256, got 257"),
    ({"stop_token_ids": [2**80]}, "stop_token_ids", "between 0 and 256"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "greater than or equal to 0"),
    (
        {"logit_bias": {"x": 1}},
        "logit_bias",
        "keys are token ids between 0 and 256, the model's vocabulary of 257; got 'x'",
    ),
    ({"logit_bias": {"257": 1}}, "logit_bias", "got '257'"),
    ({"logit_bias": {"1": "5"}}, "logit_bias.1", "valid number"),
    ({"logit_bias": [1]}, "logit_bias", "valid dictionary"),
    ({"allowed_token_ids": []}, "allowed_token_ids", "at least 1 item"),
    ({"allowed_token_ids": [999]}, "allowed_token_ids", "between 0 and 256"),
    ({"bad_words": [""]}, "bad_words[0]", "at least 1 character"),
    ({"bad_words": ["w"] * 129}, "bad_words", "at most 128 items"),
    ({"bad_words": ["w" * 600]}, "bad_words", "1024 tokens"),
    ({"priority": 2**53}, "priority", "less than or equal to"),
    ({"priority": "high"}, "priority", "valid integer"),
    ({"prompt_logprobs": 21}, "prompt_logprobs", "at most 20 for this model, got 21"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "should be 0 with stream: true, got 1"),
    ({"prompt_logprobs": -1, "stream": True}, "prompt_logprobs", "should be 0 with stream: true, got -1"),
    ({"max_tokens": 2.5}, "max_tokens", "valid integer, got 2.5"),
    ({"n": "2"}, "n", "valid integer"),
    ({"stream": "yes"}, "stream", "valid boolean"),
    ({"stream_options": {}}, "stream_options", "only allowed with stream"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "valid boolean, got 1"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
        "not supp",
    ),
    ({"request_id": "a" * 513}, "request_id", "at most 512 characters"),
    ({"request_id": ""}, "request_id", "at least 1 character"),
    ({"model": 7}, "model", "valid string"),
    ({"user": 7}, "user", "valid string"),
    ({"logits_processors": ["json.loads"]}, "logits_processors", "'json.loads' is not allowed by this server"),
    ({"logits_processors": ["loads"]}, "logits_processors[0]", "should match pattern"),
    ({"logits_processors": [{"qualname": "a.b", "arg": []}]}, "logits_processors[0]", "arg: extra inputs are not"),
    ({"logprob_token_ids": [1]}, "logprob_token_ids", "only allowed with logprobs"),
    ({"logprob_token_ids": []}, "logprob_token_ids", "at least 1"),
    ({"prompt_logprobs": -1}, "prompt_logprobs", "at most 20 for this model, got -1"),
    ({"prompt_logprobs": -2}, "prompt_logprobs", "greater than or equal to -1"),
    ({"repetition_detection": {"max_pattern_size": 2}}, "repetition_detection.min_count", "is required"),
    ({"repetition_detection": {"max_pattern_size": 2, "min_count": 1}}, "repetition_detection.min_count", "equal to 2"),
    (
        {"repetition_detection": {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2}},
        "repetition_detection.min_pattern_size",
        "not be above max_pattern_size",
    ),
    ({"stream_interval": 2}, "stream_interval", "only allowed with stream: true"),
    ({"stream": True, "stream_interval": 0}, "stream_interval", "greater than or equal to 1"),
    ({"use_beam_search": "yes"}, "use_beam_search", "valid boolean"),
    ({"length_penalty": 0.5}, "length_penalty", "only allowed with use_beam_search: true"),
    ({"use_beam_search": True, "stop": "x"}, "stop", "not possible with use_beam_search"),
    ({"use_beam_search": True, "top_p": 0.5}, "top_p", "not possible with use_beam_search"),
    ({"use_beam_search": True, "top_k": 5}, "top_k", "not possible with use_beam_search"),
    ({"use_beam_search": True, "min_p": 0.5}, "min_p", "not possible with use_beam_search"),
    ({"use_beam_search": True, "n": 4, "best_of": 3}, "best_of", "at least n (4), got 3"),
    ({"response_format": {"type": "json_object"}}, "response_format", "workers cannot constrain their answers"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is required with type json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        "is required",
    ),
    ({"response_format": {"type": "structural_tag"}}, "response_format.format", "is required with type"),
    ({"structured_outputs": {}}, "structured_outputs", "should hold one of json, regex"),
    ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object", "true or left out"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "at least 1"),
    ({"guided_json": 5}, "guided_json", "a JSON schema, as an object or as its JSON text, got 5"),
    ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "cannot be combined with guided_json"),
    (
        {"guided_choice": ["a"], "structured_outputs": {"grammar": "a"}},
        "structured_outputs.grammar",
        "cannot be combined with guided_choice",
    ),
    ({"guided_choice": []}, "guided_choice", "at least 1 item"),
    ({"guided_choice": ["a", ""]}, "guided_choice[1]", "at least 1"),
    (
        {"guided_decoding_backend": "outlines"},
        "guided_decoding_backend",
        "should be auto on this server, got 'outlines'",
    ),
    ({"guided_decoding_backend": "auto:fast"}, "guided_decoding_backend", "got 'fast'"),
    ({"guided_whitespace_pattern": "x"}, "guided_whitespace_pattern", "only allowed with a JSON schema"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "at least 1, or -1"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "greater than or equal to -1"),
    ({"truncate_prompt_tokens": 513}, "truncate_prompt_tokens", "at most 512, the model's context, got 513"),
    ({"truncation_side": "left"}, "truncation_side", "only allowed with truncate_prompt_tokens"),
    ({"truncation_side": "middle", "truncate_prompt_tokens": 5}, "truncation_side", "left"),
    ({"cache_salt": ""}, "cache_salt", "pattern"),
    ({"cache_salt": "a/b"}, "cache_salt", "pattern"),
    ({"service_tier": "gold"}, "service_tier", "'auto', 'default', 'flex' or 'priority'"),
    ({"vllm_xargs": {"a": 1}}, "vllm_xargs", "not supported yet"),
    ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs", "not supported yet"),
]
CHAT_ONLY: list[tuple[dict[str, Any], str, str]] = [
    (
        {"use_beam_search": True, "thinking_token_budget": 5},
        "thinking_token_budget",
        "not possible with use_beam_search",
    ),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": "hi"}, "messages", 'valid list, got "hi"'),
    ({"messages": None}, "messages", "valid list"),
    ({"messages": [{"content": "x"}]}, "messages[0]", "needs a role"),
    ({"messages": [{"role": "", "content": "x"}]}, "messages[0]", "needs a role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0]", "string, a list of parts or null"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "needs content"),
    ({"messages": [{"role": "system", "content": None}]}, "messages[0]", "needs content"),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages[0]", "object or a string"),
    ({"messages": ["hi"]}, "messages[0]", "valid dictionary"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", "text only"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
    ({"logprobs": 3}, "logprobs", "valid boolean"),
    ({"top_logprobs": 3}, "top_logprobs", "only allowed with logprobs: true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "at most 20 for this model, got -1"),
    ({"continue_final_message": True}, "continue_final_message", "add_generation_prompt"),
    ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "tokenize may not be passed"),
    ({"chat_template": "x"}, "chat_template", "takes no chat templates"),
    ({"documents": ["x"]}, "documents[0]", "valid dictionary"),
    ({"tools": []}, "tools", "at least 1 item"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "should be 'function', got \"custom\""),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "is required"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "should match pattern"),
    ({"tools": [F, G, F]}, "tools[2].function.name", "is there twice, got 'f'"),
    ({"tools": [F]}, "tool_choice", "the form of this model's calls is not known; start its worker with --tool-call"),
    ({"tools": [F], "tool_choice": "any"}, "tool_choice", "'none', 'auto' or 'required', got \"any\""),
    ({"tools": [F], "tool_choice": "required"}, "tool_choice", "workers cannot constrain their answers"),
    ({"tools": [F], "tool_choice": named("f")}, "tool_choice", "workers cannot constrain their answers"),
    ({"tools": [F], "tool_choice": named("g")}, "tool_choice.function.name", "one of the tools, got 'g'"),
    ({"tools": [F], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice.type", "'function'"),
    ({"tools": [F], "tool_choice": allowed("some", "f")}, "tool_choice.allowed_tools.mode", "'auto' or 'required'"),
    (
        {"tools": [F], "tool_choice": allowed("auto", "f", "h")},
        "tool_choice.allowed_tools.tools[1].function.name",
        "one of the tools, got 'h'",
    ),
    ({"tool_choice": "auto"}, "tool_choice", "only allowed with tools"),
    ({"tools": [F], "tool_choice": named("f"), "guided_regex": "a"}, "guided_regex", "names a function"),
    ({"functions": [F]}, "functions", "was replaced by tools"),
    ({"function_call": {"name": "f"}}, "function_call", "was replaced by tool_choice"),
    ({"reasoning_effort": "some"}, "reasoning_effort", "'minimal', 'low', 'medium'"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "knows no effort"),
    ({"thinking_token_budget": -2}, "thinking_token_budget", "greater than or equal to -1"),
    ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0]", "tool_calls should be a list"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0]", "tool_calls[0] should be an o"),
    (
        {"messages": [{"role": "tool", "tool_call_id": 1, "content": "x"}]},
        "messages[0]",
        "tool_call_id should be a string",
    ),
    ({"messages": [{"role": "assistant", "reasoning": ["x"]}]}, "messages[0]", "reasoning should be a string"),
    ({"modalities": ["text", "audio"]}, "modalities", 'send ["text"]'),
    ({"audio": {"voice": "x"}}, "audio", "not supported yet"),
    ({"verbosity": "low"}, "verbosity", 'send "medium"'),
    ({"prediction": {}}, "prediction", "not supported yet"),
    ({"web_search_options": {}}, "web_search_options", "not supported yet"),
]
TEXT_ONLY: list[tuple[dict[str, Any], str, str]] = [
    ({"thinking_token_budget": 5}, "thinking_token_budget", "not supported yet"),
    ({"prompt": ""}, "prompt", "not be empty"),
    ({"prompt": None}, "prompt", "a string, a list of strings"),
    ({"prompt": []}, "prompt", "between 1 and 1024"),
    ({"prompt": [[]]}, "prompt", "a string, a list of strings"),
    ({"prompt": ["a", ""]}, "prompt", "not be empty"),
    ({"prompt": ["a", [1]]}, "prompt", "not both"),
    ({"prompt": [1, "a"]}, "prompt", "a string, a list of strings"),
    ({"prompt": [True]}, "prompt", "a string, a list of strings"),
    ({"prompt": [-1]}, "prompt", "integers from 0"),
    ({"prompt": [257]}, "prompt", "between 0 and 256, got 257"),
    ({"prompt": ["a"] * 1025}, "prompt", "between 1 and 1024"),
    ({"logprobs": 21}, "logprobs", "at most 20"),
    ({"logprobs": -1}, "logprobs", "at most 20 for this model, got -1"),
    ({"logprobs": -2}, "logprobs", "greater than or equal to -1"),
    ({"logprobs": 0, "logprob_token_ids": [257]}, "logprob_token_ids", "between 0 and 256, got 257"),
    ({"logprobs": True}, "logprobs", "valid integer"),
    ({"use_beam_search": True, "stream": True}, "stream", "not possible with use_beam_search"),
    ({"use_beam_search": True, "max_tokens": 0, "echo": True}, "max_tokens", "at least 1 with use_beam_search"),
    ({"suffix": "x"}, "suffix", "this model cannot fill in text"),
    ({"suffix": "x", "echo": True}, "suffix", "not possible with echo"),
    ({"suffix": "x", "prompt": [1, 2]}, "suffix", "only possible with prompts that are texts"),
    ({"prompt_embeds": "x"}, "prompt_embeds", "not supported yet"),
]
CASES = (
    [("/v1/chat/completions", CHAT, *case) for case in [*BOTH, *CHAT_ONLY]]
    + [("/v1/completions", TEXT, *case) for case in [*BOTH, *TEXT_ONLY]]
)  # fmt: skip


async def test_each_bad_value_is_refused_by_name(api: Api, worker: ScriptedWorker) -> None:
    told = []
    for path, base, fields, param, words in CASES:
        response = await api.http.post(path, json=base | fields)
        error = response.json().get("error", {})
        good = response.status_code == 400 and error["param"] == param and words in error["message"]
        if not good or error["type"] != "invalid_request_error":
            told.append((path, fields, response.status_code, error))
    assert told == []
    assert worker.claims == []


async def test_several_problems_are_told_together(api: Api) -> None:
    body = {"temperature": 3, "n": 0, "tools": [], "messages": []}
    error = (await api.http.post("/v1/chat/completions", json=body)).json()["error"]
    assert error["message"] == (
        "4 problems: n: should be greater than or equal to 1, got 0; "
        "temperature: should be less than or equal to 2, got 3; "
        "messages: list should have at least 1 item, got a list of 0; "
        "tools: list should have at least 1 item, got a list of 0."
    )


async def test_only_the_first_ten_problems_are_listed(api: Api) -> None:
    error = (await api.http.post("/v1/completions", json={"prompt": "a", "stop_token_ids": ["x"] * 500})).json()[
        "error"
    ]
    assert error["message"].startswith("500 problems: stop_token_ids[0]: should be")
    assert error["message"].endswith("; and 490 more.")


async def test_a_long_value_is_cut_short(api: Api) -> None:
    error = (await api.http.post("/v1/completions", json={"prompt": "a", "n": "9" * 5000})).json()["error"]
    assert len(error["message"]) < 200


async def test_a_missing_prompt_is_required(api: Api) -> None:
    for path, param in (("/v1/completions", "prompt"), ("/v1/chat/completions", "messages")):
        error = (await api.http.post(path, json={})).json()["error"]
        assert (error["param"], error["message"]) == (param, f"{param}: is required.")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_prompt_that_is_too_long_is_told_with_both_numbers(api: Api, path: str) -> None:
    text = "x" * 600
    body = {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
    response = await api.http.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    tokens = 601 if path == "/v1/completions" else 600 + len("<|user|>\n<|assistant|>")
    assert f"it has {tokens} tokens" in error["message"]
    assert f"context length is {CONTEXT} tokens" in error["message"]


async def test_a_prompt_may_fill_the_context_but_for_one_token(api: Api, worker: ScriptedWorker) -> None:
    fitting = {"prompt": [1] * (CONTEXT - 1), "max_tokens": 1000}
    assert (await api.http.post("/v1/completions", json=fitting)).status_code == 200
    assert worker.jobs[0].stopping.max_tokens == 1
    full = {"prompt": [1] * CONTEXT}
    assert (await api.http.post("/v1/completions", json=full)).status_code == 400
    scored = full | {"max_tokens": 0, "echo": True}
    assert (await api.http.post("/v1/completions", json=scored)).status_code == 200


async def test_the_models_own_cap_limits_every_answer(valkey_url: str) -> None:
    defaults = GenerationDefaults(temperature=0.3, top_k=7, max_tokens=4)
    async with running_worker(valkey_url, defaults=defaults) as worker, running_api(valkey_url) as api:
        for fields in ({}, {"max_tokens": 100, "temperature": 0.7}):
            assert (await api.http.post("/v1/chat/completions", json=CHAT | fields)).status_code == 200
        first, second = worker.jobs
        assert (first.stopping.max_tokens, second.stopping.max_tokens) == (4, 4)
        assert (first.sampling.temperature, first.sampling.top_k) == (0.3, 7)
        assert (second.sampling.temperature, second.sampling.top_k) == (0.7, 7)
