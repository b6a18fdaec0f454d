"""Chat completions with ``store: true`` can be fetched again, from any API node."""

from typing import Any

import openai
import pytest
from live_api import Api, running_api
from scripted_worker import Gated, ScriptedWorker, running_worker

HI = [{"role": "system", "content": "brief"}, {"role": "user", "content": "hi"}]


async def stored(api: Api, **fields: Any) -> Any:
    return await api.sdk.chat.completions.create(model="tiny", messages=HI, store=True, **fields)


async def test_a_stored_answer_is_fetched_as_it_was(api: Api, valkey_url: str) -> None:
    answer = await stored(api, metadata={"topic": "greeting"}, n=2)
    async with running_api(valkey_url) as other:
        fetched = await other.sdk.chat.completions.retrieve(answer.id)
    assert fetched.model_dump(exclude={"metadata"}) == answer.model_dump(exclude={"metadata"})
    assert fetched.metadata == {"topic": "greeting"}


async def test_a_streamed_answer_can_be_stored_as_well(api: Api) -> None:
    chunks = [chunk async for chunk in await stored(api, stream=True)]
    fetched = await api.sdk.chat.completions.retrieve(chunks[0].id)
    assert fetched.choices[0].message.content == "Hello!"
    assert fetched.metadata == {}


async def test_its_messages_are_listed_by_pages(api: Api) -> None:
    answer = await stored(api)
    first = await api.sdk.chat.completions.messages.list(answer.id, limit=1)
    assert [(message.role, message.content) for message in first.data] == [("system", "brief")]
    assert first.has_next_page()
    everything = [message.content async for message in api.sdk.chat.completions.messages.list(answer.id, limit=1)]
    assert everything == ["brief", "hi"]
    backwards = await api.sdk.chat.completions.messages.list(answer.id, order="desc")
    assert [message.content for message in backwards.data] == ["hi", "brief"]


async def test_what_is_deleted_is_gone(api: Api) -> None:
    answer = await stored(api)
    deleted = await api.sdk.chat.completions.delete(answer.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (answer.id, "chat.completion.deleted", True)
    with pytest.raises(openai.NotFoundError):
        await api.sdk.chat.completions.retrieve(answer.id)


async def test_what_was_not_stored_or_is_not_complete_is_not_found(api: Api, valkey_url: str) -> None:
    plain = await api.sdk.chat.completions.create(model="tiny", messages=HI)
    response = await api.sdk.responses.create(model="tiny", input="hi")
    for name in (plain.id, response.id, "chatcmpl-none"):
        for path in (f"/v1/chat/completions/{name}", f"/v1/chat/completions/{name}/messages"):
            answer = await api.http.get(path)
            assert answer.status_code == 404, path
            assert answer.json()["error"]["type"] == "not_found_error"


async def test_an_answer_that_is_being_written_is_not_told(valkey_url: str) -> None:
    gate = Gated()
    async with running_worker(valkey_url, script=gate), running_api(valkey_url) as api:
        stream = await stored(api, stream=True)
        first = await anext(aiter(stream))
        with pytest.raises(openai.NotFoundError, match="has no answer"):
            await api.sdk.chat.completions.retrieve(first.id)
        gate.go_on.set()
        async for _ in stream:
            pass
        assert (await api.sdk.chat.completions.retrieve(first.id)).choices[0].message.content == "Hello!"


async def test_a_batch_can_be_stored(api: Api) -> None:
    body = {"model": "tiny", "messages": [HI, HI[1:]], "store": True}
    answer = (await api.http.post("/v1/chat/completions/batch", json=body)).json()
    fetched = await api.http.get(f"/v1/chat/completions/{answer['id']}")
    assert fetched.json() == answer | {"metadata": {}}


async def test_a_server_that_stores_nothing_says_so(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, response_store_ttl_s=0) as api:
        with pytest.raises(openai.BadRequestError, match="store: this server stores no answers") as caught:
            await stored(api)
    assert caught.value.param == "store"
