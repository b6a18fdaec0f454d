"""litellm: the way by which many programs reach a server, as an OpenAI one and as a vLLM one."""

from collections.abc import Callable
from typing import Any

import litellm
import pytest
from fleet import ApiProcess
from pydantic import BaseModel, Field

PROVIDERS = ["openai", "hosted_vllm"]
HELLO = [{"role": "user", "content": "hello"}]

# Of its own making, and of no concern to a server.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")


class Pet(BaseModel):
    age: int = Field(ge=10, le=99)


@pytest.fixture(params=PROVIDERS)
def wish(request: pytest.FixtureRequest, node: ApiProcess) -> dict[str, Any]:
    return {
        "model": f"{request.param}/simulated",
        "api_base": f"{node.url}/v1",
        "api_key": "none",
        "max_tokens": 12,
        "seed": 5,
        "max_retries": 0,
        "num_retries": 0,
    }


def test_a_chat_answers_whole_and_streamed_alike(wish: dict[str, Any]) -> None:
    whole = litellm.completion(messages=HELLO, n=1, **wish)
    chunks = list(litellm.completion(messages=HELLO, stream=True, stream_options={"include_usage": True}, **wish))
    rebuilt = litellm.stream_chunk_builder(chunks, messages=HELLO)
    assert whole.choices[0].message.content
    assert rebuilt.choices[0].message.content == whole.choices[0].message.content
    assert rebuilt.choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens == 12


async def test_the_async_ways_give_the_same(wish: dict[str, Any]) -> None:
    whole = await litellm.acompletion(messages=HELLO, **wish)
    stream = await litellm.acompletion(messages=HELLO, stream=True, **wish)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


def test_choices_logprobs_and_stops_arrive(wish: dict[str, Any]) -> None:
    answer = litellm.completion(messages=HELLO, logprobs=True, top_logprobs=2, **wish | {"n": 2})
    assert [choice.index for choice in answer.choices] == [0, 1]
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == answer.choices[0].message.content
    stop = answer.choices[0].message.content[7:11]
    assert stop not in litellm.completion(messages=HELLO, stop=[stop], **wish).choices[0].message.content


def test_a_text_is_continued(node: ApiProcess) -> None:
    wish = {"model": "text-completion-openai/simulated", "api_base": f"{node.url}/v1", "api_key": "none", "seed": 5}
    whole = litellm.text_completion(prompt="hello", max_tokens=8, echo=True, **wish)
    assert whole.choices[0].text.startswith("hello")
    chunks = litellm.text_completion(prompt="hello", max_tokens=8, echo=True, stream=True, **wish)
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == whole.choices[0].text


@pytest.mark.parametrize(
    ("change", "raised"),
    [
        ({"temperature": 3}, lambda: litellm.BadRequestError),
        ({"model": "openai/nothing"}, lambda: litellm.NotFoundError),
        ({"messages": [{"role": "user", "content": "long " * 9000}]}, lambda: litellm.ContextWindowExceededError),
    ],
)
def test_errors_are_of_their_kind(wish: dict[str, Any], change: dict[str, Any], raised: Callable[[], Any]) -> None:
    with pytest.raises(raised()):
        litellm.completion(**{"messages": HELLO} | wish | change)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_schema_is_followed(node: ApiProcess, following: str, provider: str) -> None:
    answer = litellm.completion(
        model=f"{provider}/{following}",
        api_base=f"{node.url}/v1",
        api_key="none",
        messages=HELLO,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "pet", "schema": Pet.model_json_schema()}},
    )
    assert Pet.model_validate_json(answer.choices[0].message.content)
