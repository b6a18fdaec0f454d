"""langchain-openai: chat and text models in chains."""

import langchain_openai
import openai
import pytest
from fleet import ApiProcess
from langchain_core.exceptions import ContextOverflowError
from pydantic import BaseModel, Field


class Pet(BaseModel):
    """A pet."""

    age: int = Field(ge=10, le=99)


def chat(node: ApiProcess, model: str = "simulated", **options: object) -> langchain_openai.ChatOpenAI:
    asked = {"max_tokens": 12, "seed": 5, "max_retries": 0, "stream_usage": True, **options}
    return langchain_openai.ChatOpenAI(model=model, base_url=f"{node.url}/v1", api_key="none", **asked)


def test_a_chat_answers_whole_and_streamed_alike(node: ApiProcess) -> None:
    whole = chat(node).invoke("hello")
    streamed = list(chat(node).stream([("system", "be brief"), ("human", "hello")]))
    total = streamed[0]
    for chunk in streamed[1:]:
        total += chunk
    assert whole.content == total.content != ""
    assert whole.response_metadata["finish_reason"] == total.response_metadata["finish_reason"] == "length"
    assert whole.usage_metadata["output_tokens"] == total.usage_metadata["output_tokens"] == 12


async def test_batches_and_async_calls_keep_their_order(node: ApiProcess) -> None:
    [one, two] = await chat(node).abatch(["hello", "hello"])
    assert one.content == two.content == (await chat(node).ainvoke("hello")).content
    text = "".join([chunk.content async for chunk in chat(node).astream("hello")])
    assert text == one.content


def test_bound_options_reach_the_server(node: ApiProcess) -> None:
    answer = chat(node).bind(logprobs=True, top_logprobs=2).invoke("hello")
    entries = answer.response_metadata["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == answer.content
    stop = answer.content[7:11]
    assert stop not in chat(node).bind(stop=[stop]).invoke("hello").content
    raw = chat(node, extra_body={"min_tokens": 12, "top_k": 5}, temperature=0.5).invoke("hello")
    assert raw.usage_metadata["output_tokens"] == 12


def test_a_text_model_completes(node: ApiProcess) -> None:
    model = langchain_openai.OpenAI(
        model="simulated", base_url=f"{node.url}/v1", api_key="none", max_tokens=8, seed=5, max_retries=0
    )
    whole = model.invoke("hello")
    assert whole
    assert "".join(model.stream("hello")) == whole


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output_gives_objects(node: ApiProcess, following: str, method: str) -> None:
    schema = {"max_tokens": 200} if method == "json_schema" else {"max_tokens": 200, "temperature": 1.0}
    model = chat(node, following, **schema).with_structured_output(Pet, method=method, include_raw=True)
    answer = model.invoke("an age as JSON")
    if method == "json_schema":
        assert isinstance(answer["parsed"], Pet)
    else:
        # A model of random weights says some JSON object, not the one that was meant.
        assert answer["raw"].content.lstrip().startswith("{")


def test_a_conversation_that_is_too_long_is_told_apart_from_other_errors(node: ApiProcess) -> None:
    with pytest.raises(ContextOverflowError):
        chat(node).invoke("long " * 9000)
    with pytest.raises(openai.BadRequestError) as caught:
        chat(node, temperature=3.0).invoke("hello")
    assert not isinstance(caught.value, ContextOverflowError)
