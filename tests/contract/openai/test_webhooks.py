"""Webhooks: the end of a batch, told to a real receiver that reads it with the SDK."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from batching import batch_is_over, chats, running_batch_worker
from certificates import authority, signed
from eventually import eventually
from live_api import Api, running_api
from scripted_worker import ScriptedWorker
from webhook_receiver import SECRET, Receiver, running_receiver

from headrace_api.batches import notices

BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_FIRST_WAIT_S", 0.2)


@asynccontextmanager
async def serving(url: str, folder: Path, **settings: Any) -> AsyncIterator[Api]:
    """An API node and a batch worker with the same settings."""
    settings = {"webhook_secret": SECRET} | settings
    async with (
        running_api(url, files=folder, **settings) as api,
        running_batch_worker(url, folder, **settings),
    ):
        yield api


async def create(api: Api, **fields: Any) -> Any:
    file = await api.sdk.files.create(file=("in.jsonl", chats(2, model="tiny")), purpose="batch")
    response = await api.http.post("/v1/batches", json=BATCH | {"input_file_id": file.id} | fields)
    return response.json()


async def webhook_of(api: Api, batch_id: str) -> Any:
    return (await api.http.get(f"/v1/batches/{batch_id}")).json()["webhook"]


async def told(api: Api, batch_id: str, status: str) -> Any:
    async def is_told() -> bool:
        return bool((await webhook_of(api, batch_id))["status"] == status)

    await eventually(is_told, 20)
    return await webhook_of(api, batch_id)


def http_of(receiver: Receiver) -> str:
    return f"http://{receiver.host}"


async def test_the_sdk_reads_what_its_receiver_is_told(valkey_url: str, worker: ScriptedWorker, tmp_path: Path) -> None:
    with running_receiver() as receiver:
        async with serving(valkey_url, tmp_path, webhook_hosts=http_of(receiver)) as api:
            file = await api.sdk.files.create(file=("in.jsonl", chats(2, model="tiny")), purpose="batch")
            batch = await api.sdk.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                extra_body={"webhook_url": f"{http_of(receiver)}/hooks/ann?x=1"},
            )
            assert batch.to_dict()["webhook"] == {"status": "pending", "attempts": 0, "error": None}
            assert await told(api, batch.id, "delivered") == {"status": "delivered", "attempts": 1, "error": None}
            done = await api.sdk.batches.retrieve(batch.id)
            [sent] = receiver.received
            event = sent.event()
            assert (event.type, event.object, event.data.id) == ("batch.completed", "event", batch.id)
            assert (event.id, event.created_at) == (sent.headers["webhook-id"], done.completed_at)
            assert (sent.path, sent.headers["content-type"]) == ("/hooks/ann?x=1", "application/json")
            assert sent.headers["user-agent"].startswith("Headrace/")
            with pytest.raises(openai.InvalidWebhookSignatureError):
                sent.event("whsec_" + "AAAA" * 8)
            await _counts(api, {"delivered": 1, "failed": 0, "given_up": 0})


async def _counts(api: Api, expected: dict[str, int]) -> None:
    lines = [
        f'headrace:webhook_deliveries_total{{outcome="{name}"}} {float(count)}' for name, count in expected.items()
    ]

    async def shown() -> bool:
        text = (await api.http.get("/metrics")).text
        return all(line in text for line in lines)

    await eventually(shown, 10)


async def test_a_receiver_that_fails_or_redirects_is_told_again_and_nobody_is_followed(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    with running_receiver(500, 307) as receiver:
        async with serving(valkey_url, tmp_path, webhook_hosts=http_of(receiver)) as api:
            batch = await create(api, webhook_url=f"{http_of(receiver)}/x")
            assert await told(api, batch["id"], "delivered") == {"status": "delivered", "attempts": 3, "error": None}
            assert [sent.path for sent in receiver.received] == ["/x"] * 3
            assert len({sent.event().id for sent in receiver.received}) == 1
            assert len({sent.body for sent in receiver.received}) == 1
            await _counts(api, {"delivered": 1, "failed": 2, "given_up": 0})


async def test_it_is_given_up_in_the_end(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_KEEP_TRYING_S", 3)
    # Nobody listens there: connecting fails.
    async with serving(valkey_url, tmp_path, webhook_hosts="http://127.0.0.1:1") as api:
        batch = await create(api, webhook_url="http://127.0.0.1:1/")
        webhook = await told(api, batch["id"], "given_up")
        assert webhook["error"] == "cannot be reached"
        assert webhook["attempts"] > 1
        await _counts(api, {"delivered": 0, "failed": webhook["attempts"] - 1, "given_up": 1})


async def test_every_end_has_its_event_and_the_servers_own_receiver_gets_those_of_all_others(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    with running_receiver() as receiver:
        async with serving(valkey_url, tmp_path, webhook_url=f"{http_of(receiver)}/all") as api:
            failed = await batch_is_over(api, b"nonsense")
            await worker.stop_claiming()
            cancelled = await create(api)
            await api.sdk.batches.cancel(cancelled["id"])
            expired = await create(api, completion_window="1s")
            await eventually(lambda: len(receiver.received) == 3, 20)
    events = [sent.event() for sent in receiver.received]
    assert {(event.type, event.data.id) for event in events} == {
        ("batch.failed", failed.id),
        ("batch.cancelled", cancelled["id"]),
        ("batch.expired", expired["id"]),
    }


async def test_https_is_checked_against_the_machines_authorities(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = authority(tmp_path, "ours"), authority(tmp_path, "theirs")
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.cert))
    good, bad = signed(tmp_path, "good", by=ours), signed(tmp_path, "bad", by=theirs)
    with running_receiver(certificate=good) as trusted, running_receiver(certificate=bad) as stranger:
        async with serving(valkey_url, tmp_path / "files", webhook_hosts=f"{trusted.host},{stranger.host}") as api:
            refused = await create(api, webhook_url=f"https://{stranger.host}/")
            batch = await create(api, webhook_url=f"https://{trusted.host}/")
            await told(api, batch["id"], "delivered")

            async def failed() -> bool:
                return bool((await webhook_of(api, refused["id"]))["error"] == "cannot be reached")

            await eventually(failed, 10)
            assert stranger.received == []


async def test_the_environments_proxy_is_not_asked(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_receiver() as receiver:
        async with serving(valkey_url, tmp_path, webhook_url=f"{http_of(receiver)}/") as api:
            # The test's own client is there already, and knows nothing of it.
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, "http://127.0.0.1:1")
            for name in ("NO_PROXY", "no_proxy"):
                monkeypatch.delenv(name, raising=False)
            batch = await create(api)
            assert (await told(api, batch["id"], "delivered"))["attempts"] == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://elsewhere.example/x", "a host that this server allows (hooks.example.com, *.deep.example"),
        ("http://hooks.example.com/x", "not to http://hooks.example.com"),
        ("https://hooks.example.com:8443/x", "not to https://hooks.example.com:8443"),
        ("https://hooks.example.com.evil.example/", "not to https://hooks.example.com.evil.example"),
        ("https://deep.example/", "not to https://deep.example"),
        ("https://notdeep.example/", "not to https://notdeep.example"),
        ("https://a@hooks.example.com/", "no user name"),
        ("https://hooks.example.com@evil.example/", "no user name"),
        ("https://hooks.example.com\\@evil.example/", "no user name"),
        ("https://hooks.example.com/#x", "no fragment"),
        ("ftp://hooks.example.com/", "begins with https://"),
        ("hooks.example.com", "begins with https://"),
        ("https://", "begins with https://"),
        ("", "begins with https://"),
        ("https://hooks.example.com:x/", "is no URL"),
        ("https://hooks.example.com/\n", "is no URL"),
        ("https://hooks.example.com/" + "x" * 2048, "at most 2048"),
    ],
)
async def test_a_receiver_that_is_not_allowed_is_400_with_the_reason(valkey_url: str, url: str, said: str) -> None:
    hosts = "hooks.example.com,*.deep.example,http://10.0.0.7:8080"
    async with running_api(valkey_url, webhook_secret=SECRET, webhook_hosts=hosts) as api:
        response = await create(api, webhook_url=url)
    assert (response["error"]["param"], response["error"]["type"]) == ("webhook_url", "invalid_request_error")
    assert said in response["error"]["message"]


async def test_a_receiver_that_is_listed_is_taken(valkey_url: str, tmp_path: Path) -> None:
    hosts = "hooks.example.com,*.deep.example,http://10.0.0.7:8080,odd.example:8443"
    async with running_api(valkey_url, webhook_secret=SECRET, webhook_hosts=hosts) as api:
        for url in (
            "https://hooks.example.com/a?b=c",
            "https://HOOKS.example.com:443/",
            "https://very.deep.example/",
            "https://very.very.deep.example/",
            "http://10.0.0.7:8080/",
            "https://odd.example:8443/",
        ):
            assert (await create(api, webhook_url=url))["webhook"]["status"] == "pending", url
        assert (await create(api))["webhook"] is None


async def test_without_a_list_no_receiver_can_be_named(valkey_url: str) -> None:
    async with running_api(valkey_url) as api:
        message = (await create(api, webhook_url="https://hooks.example.com/"))["error"]["message"]
    assert "--webhook-secret and --webhook-hosts" in message


async def test_the_signing_secret_does_not_make_a_server_ask_for_keys(valkey_url: str) -> None:
    async with running_api(valkey_url, webhook_secret=SECRET) as api:
        assert (await api.http.get("/v1/batches")).status_code == 200
        assert "data-guarded" not in (await api.http.get("/console")).text
        assert api.services().anyone.admin


def test_waits_double_up_to_an_hour_and_end_after_a_day() -> None:
    waits = [notices.wait_before_next(attempt, 0) or 0 for attempt in range(1, 100)]
    for attempt, wait_s in enumerate(waits[:14]):
        assert 0.1 * 2**attempt <= wait_s <= 0.2 * 2**attempt
    assert all(1800 <= wait_s <= 3600 for wait_s in waits[15:])
    assert notices.wait_before_next(3, 86_399) is not None
    assert notices.wait_before_next(3, 86_400) is None


async def test_two_batch_workers_do_not_tell_the_same_end_twice(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    with running_receiver() as receiver:
        async with serving(valkey_url, tmp_path, webhook_url=f"{http_of(receiver)}/") as api:
            settings = {"webhook_secret": SECRET}
            async with running_batch_worker(valkey_url, tmp_path, **settings):
                batches = [await create(api) for _ in range(5)]
                for batch in batches:
                    await told(api, batch["id"], "delivered")
                await asyncio.sleep(2.5)
    assert sorted(sent.event().data.id for sent in receiver.received) == sorted(batch["id"] for batch in batches)
