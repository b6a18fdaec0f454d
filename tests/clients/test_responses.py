"""The responses endpoint through the clients that speak it."""

from typing import Any, Literal

import langchain_openai
import litellm
import openai
import pytest
from eventually import eventually
from fleet import ApiProcess, wait_until
from openai import OpenAI
from pydantic import BaseModel, Field

CALL = '<tool_call>\n{"name": "Weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TOOL: Any = {
    "type": "function",
    "name": "Weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int = Field(ge=10, le=99)


@pytest.fixture
def client(node: ApiProcess) -> OpenAI:
    return node.client()


def test_an_answer_and_its_stream_are_the_same(client: OpenAI, parrot: str) -> None:
    whole = client.responses.create(model=parrot, instructions="Repeat.", input="Say: good day")
    assert (whole.output_text, whole.status, whole.error) == ("good day", "completed", None)
    with client.responses.stream(model=parrot, instructions="Repeat.", input="Say: good day") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "good day"
    assert final.usage == whole.usage
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[1].type, events[-1].type] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]


def test_a_conversation_goes_on_from_an_earlier_answer(client: OpenAI, parrot: str) -> None:
    first = client.responses.create(model=parrot, input=f"Say: {CALL}", tools=[TOOL])
    [call] = [item for item in first.output if item.type == "function_call"]
    assert (call.name, call.arguments) == ("Weather", '{"city": "Rome"}')
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(model=parrot, input=[result], previous_response_id=first.id, tools=[TOOL])
    assert second.output_text == "It is sunny."
    assert second.previous_response_id == first.id
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=parrot, input="x", previous_response_id="resp_nothing")


def test_an_answer_is_parsed(client: OpenAI, following: str) -> None:
    parsed = client.responses.parse(model=following, input="a pet", text_format=Pet, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Pet)


def test_work_in_the_background_is_fetched_followed_and_cancelled(client: OpenAI) -> None:
    endless: Any = {"model": "simulated", "input": "hello", "extra_body": {"ignore_eos": True, "seed": 3}}
    begun = client.responses.create(**endless, background=True, max_output_tokens=40)
    assert begun.status in ("queued", "in_progress")
    wait_until(lambda: client.responses.retrieve(begun.id).status == "incomplete", "the work is done")
    done = client.responses.retrieve(begun.id)
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"
    told = list(client.responses.retrieve(begun.id, stream=True))
    assert list(client.responses.retrieve(begun.id, stream=True, starting_after=7)) == told[8:]
    assert "".join(event.delta for event in told if event.type == "response.output_text.delta") == done.output_text
    long = client.responses.create(**endless, background=True, max_output_tokens=7000)
    assert client.responses.cancel(long.id).status == "cancelled"
    client.responses.delete(done.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)


async def test_a_stream_that_breaks_is_gone_on_with(node: ApiProcess) -> None:
    async with node.async_client() as client:
        wish: Any = {"model": "simulated", "input": "hello", "max_output_tokens": 60, "extra_body": {"seed": 3}}
        whole = await client.responses.create(**wish)
        broken = await client.responses.create(**wish, stream=True, background=True)
        text, last, name = "", 0, ""
        async for event in broken:
            last = event.sequence_number
            name = event.response.id if event.type == "response.created" else name
            text += event.delta if event.type == "response.output_text.delta" else ""
            if last == 12:
                break
        await broken.close()
        async for event in await client.responses.retrieve(name, stream=True, starting_after=last):
            text += event.delta if event.type == "response.output_text.delta" else ""
        assert text == whole.output_text

        async def over() -> bool:
            return (await client.responses.retrieve(name)).status == whole.status

        await eventually(over)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": "x", "temperature": 3}, "temperature"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools"),
        ({"input": "x", "background": True, "store": False}, "background"),
    ],
)
def test_a_bad_request_is_raised_with_its_parameter(
    client: OpenAI, parrot: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=parrot, **fields)
    assert (caught.value.param or "").startswith(param)


def test_langchain_speaks_it(node: ApiProcess, parrot: str) -> None:
    chat = langchain_openai.ChatOpenAI(
        model=parrot, base_url=f"{node.url}/v1", api_key="none", max_retries=0, use_responses_api=True
    )
    assert chat.invoke("Say: good day").text == "good day"
    streamed = list(chat.stream("Say: good day"))
    assert "".join(chunk.text for chunk in streamed) == "good day"
    [call] = chat.bind_tools([TOOL]).invoke(f"Say: {CALL}").tool_calls
    assert (call["name"], call["args"]) == ("Weather", {"city": "Rome"})


def test_litellm_speaks_it(node: ApiProcess, parrot: str) -> None:
    wish = {"model": f"openai/{parrot}", "api_base": f"{node.url}/v1", "api_key": "none", "input": "Say: good day"}
    whole = litellm.responses(**wish)
    assert whole.output[0].content[0].text == "good day"
    events = list(litellm.responses(**wish, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "good day"
