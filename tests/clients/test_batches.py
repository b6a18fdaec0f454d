"""The openai SDK: files and batches, as a program uses them."""

import json
from typing import Any

import openai
import pytest
from batching import CHAT, chats, errors_of, finished, item, numbered, output_of, submit
from fleet import ApiProcess, wait_until
from openai import OpenAI


@pytest.fixture
def client(node: ApiProcess) -> OpenAI:
    return node.client()


def test_a_batch_is_answered_as_its_endpoint_would(client: OpenAI) -> None:
    content = chats(40)
    batch = submit(client, content)
    assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", CHAT, "24h")
    assert (batch.status, batch.output_file_id) in (("validating", None), ("in_progress", None))
    assert batch.expires_at == batch.created_at + 86_400
    batch = finished(client, batch.id)
    assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (40, 40, 0)  # type: ignore[union-attr]
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at  # type: ignore[operator]
    output = output_of(client, batch)
    assert set(output) == set(numbered(40))
    for line in content.decode().splitlines()[:3]:
        asked = json.loads(line)
        result = output[asked["custom_id"]]
        assert set(result) == {"id", "custom_id", "response", "error"}
        assert (result["response"]["status_code"], result["error"]) == (200, None)
        raw = client.chat.completions.with_raw_response.create(**asked["body"]).http_response.content
        body, direct = result["response"]["body"], json.loads(raw)
        # Byte for byte, but for what names the request.
        direct |= {"id": body["id"], "created": body["created"]}
        assert json.dumps(direct) == json.dumps(body)
    usages = [result["response"]["body"]["usage"] for result in output.values()]
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages) == 40 * 8
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    assert batch.model == "simulated"


@pytest.mark.parametrize(
    ("endpoint", "body", "object_"),
    [
        ("/v1/completions", {"prompt": ["one", "two"], "max_tokens": 3}, "text_completion"),
        (
            "/v1/chat/completions/batch",
            {"messages": [[{"role": "user", "content": word}] for word in ("one", "two")], "max_tokens": 3},
            "chat.completion",
        ),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 3}, "response"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}, None),
    ],
)
def test_every_endpoint_that_generates_takes_batches(
    client: OpenAI, endpoint: str, body: dict[str, Any], object_: str | None
) -> None:
    batch = submit(client, item("a", {"model": "simulated"} | body, endpoint).encode(), endpoint=endpoint)
    batch = finished(client, batch.id)
    result = output_of(client, batch)["a"]
    assert (result["response"]["status_code"], result["response"]["body"].get("object")) == (200, object_)


def test_items_that_are_refused_are_in_the_error_file(client: OpenAI) -> None:
    hi = [{"role": "user", "content": "hi"}]
    lines = [
        item("good", {"model": "simulated", "messages": hi, "max_tokens": 2}),
        item("hot", {"model": "simulated", "messages": hi, "temperature": 9}),
        item("streamed", {"model": "simulated", "messages": hi, "stream": True}),
        item("urgent", {"model": "simulated", "messages": hi, "priority": 0}),
    ]
    batch = finished(client, submit(client, "\n".join(lines).encode()).id)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 3)  # type: ignore[union-attr]
    assert set(output_of(client, batch)) == {"good"}
    errors = errors_of(client, batch)
    for custom_id, param in (("hot", "temperature"), ("streamed", "stream"), ("urgent", "priority")):
        response = errors[custom_id]["response"]
        assert (response["status_code"], response["body"]["error"]["param"]) == (400, param)
        assert errors[custom_id]["error"] is None


def test_malformed_lines_are_told_by_number(client: OpenAI) -> None:
    body = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}]}
    lines = [
        item("a", body),
        "{broken",
        "",
        item("a", body),
        json.dumps({"method": "POST", "url": CHAT, "body": body}),
        item("e", body, "/v1/completions"),
        item("f", body | {"model": "other"}),
        json.dumps({"custom_id": "g", "method": "GET", "url": CHAT, "body": "text"}),
    ]
    batch = finished(client, submit(client, "\n".join(lines).encode()).id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "invalid_json_line", None),
        (4, "duplicate_custom_id", "custom_id"),
        (5, "missing_required_parameter", "custom_id"),
        (6, "mismatched_endpoint", "url"),
        (7, "mismatched_model", "body.model"),
        (8, "invalid_method", "method"),
        (8, "invalid_body", "body"),
    ]
    assert batch.failed_at is not None


def test_a_batch_is_cancelled_midway(client: OpenAI) -> None:
    # The first ones are short, the others would take minutes.
    content = chats(20) + b"\n" + chats(200, max_tokens=4000, ignore_eos=True).replace(b'"item-', b'"long-')
    batch = submit(client, content)
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 20, "some are done")  # type: ignore[union-attr]
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status in ("cancelling", "cancelled")
    batch = finished(client, batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at is not None
    assert batch.cancelled_at is not None
    output, errors = output_of(client, batch), errors_of(client, batch)
    assert set(numbered(20)) <= set(output)
    assert len(output) + len(errors) == 220
    assert not set(output) & set(errors)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed, counts.total) == (len(output), len(errors), 220)
    assert {error["error"]["code"] for error in errors.values()} == {"batch_cancelled"}
    # Nothing of it runs on.
    direct = client.chat.completions.create(
        model="simulated", messages=[{"role": "user", "content": "hi"}], max_tokens=2, timeout=20
    )
    assert direct.choices[0].finish_reason == "length"
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_what_is_not_done_in_time_expires_and_what_is_done_is_kept(client: OpenAI) -> None:
    content = chats(5) + b"\n" + chats(100, max_tokens=6000, ignore_eos=True).replace(b'"item-', b'"long-')
    batch = finished(client, submit(client, content, window="4s").id)
    assert (batch.status, batch.completed_at) == ("expired", None)
    assert batch.expired_at is not None
    output, errors = output_of(client, batch), errors_of(client, batch)
    assert set(numbered(5)) <= set(output)
    assert len(output) + len(errors) == 105
    assert {error["error"]["code"] for error in errors.values()} == {"batch_expired"}
    with pytest.raises(openai.BadRequestError, match="expired"):
        client.batches.cancel(batch.id)


def test_files_are_listed_in_pages_fetched_and_deleted(client: OpenAI) -> None:
    made = [
        client.files.create(
            file=(f"notes-{n}.txt", b"x" * (n + 1)),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        for n in range(5)
    ]
    assert made[2].bytes == 3
    assert (made[2].filename, made[2].purpose, made[2].status) == ("notes-2.txt", "user_data", "processed")
    assert made[2].expires_at == made[2].created_at + 3600
    ids = [file.id for file in made]
    assert [file.id for file in client.files.list(purpose="user_data", order="asc", limit=2)] == ids
    assert [file.id for file in client.files.list(purpose="user_data", limit=3)] == ids[::-1]
    page = client.files.list(purpose="user_data", order="asc", after=ids[1], limit=2)
    assert [file.id for file in page.data] == ids[2:4]
    assert client.files.retrieve(ids[0]) == made[0]
    assert client.files.content(ids[4]).content == b"x" * 5
    for file_id in ids:
        assert client.files.delete(file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(ids[0])
    assert list(client.files.list(purpose="user_data")) == []


def test_batches_are_listed_in_pages_the_newest_first(client: OpenAI) -> None:
    made = [submit(client, chats(1)).id for _ in range(3)]
    page = client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == made[:0:-1]
    assert [batch.id for batch in client.batches.list(limit=1, after=made[1]).data] == made[:1]
    for batch_id in made:
        finished(client, batch_id)
    assert made[0] in [batch.id for batch in client.batches.list()]


def test_an_input_cannot_be_deleted_while_it_is_read(client: OpenAI) -> None:
    batch = submit(client, chats(50, max_tokens=4000, ignore_eos=True))
    with pytest.raises(openai.BadRequestError, match="input of a batch"):
        client.files.delete(batch.input_file_id)
    client.batches.cancel(batch.id)
    finished(client, batch.id)
    assert client.files.delete(batch.input_file_id).deleted
