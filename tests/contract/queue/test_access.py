"""The example configuration of deploy/valkey: its two users can do all that is needed, and nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from batching import batch_is_over, chats, running_batch_worker
from eventually import eventually
from live_api import Api, running_api
from queue_traffic import QUEUE, make_job
from redis_servers import RedisServer
from scripted_worker import ScriptedWorker, running_worker
from streams_in_progress import both_ends, one_request
from webhook_receiver import SECRET, running_receiver

from headrace_api.batches.worker import BatchWorker
from headrace_shared.queue import keys, scripts
from headrace_shared.queue.client import connect
from headrace_shared.queue.requests import IdempotencyKey
from headrace_shared.queue.server_check import check_server
from headrace_shared.settings import RedisSettings

EXAMPLE = Path(__file__).parents[3] / "deploy" / "valkey"
USERS = {"headrace-api": "api-secret", "headrace-worker": "worker-secret"}
BATCH_WORKER = "headrace-batch-worker"
PASSWORDS = USERS | {BATCH_WORKER: "batch-secret"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    users = (EXAMPLE / "users.acl").read_text()
    (tmp_path / "users.acl").write_text(f"{users}user admin on >admin ~* &* +@all\n")
    lines = (EXAMPLE / "valkey.conf").read_text().replace("users.acl", str(tmp_path / "users.acl")).splitlines()
    with RedisServer(tmp_path / "server", *lines) as server:
        yield server


async def is_ready(api: Api) -> bool:
    return (await api.http.get("/ready")).status_code == 200


def url_of(server: RedisServer, user: str, scheme: str = "redis") -> str:
    return f"{scheme}://{user}:{PASSWORDS[user]}@127.0.0.1:{server.port}/"


async def test_a_request_is_served_by_users_with_least_privilege(server: RedisServer) -> None:
    await one_request(url_of(server, "headrace-api"), url_of(server, "headrace-worker"))
    with redis.Redis.from_url(url_of(server, "headrace-api")) as client:
        assert client.get("hr:unknown") is None
        for command in (
            ["FLUSHALL"],
            ["KEYS", "*"],
            ["SCAN", "0"],
            ["GET", "foreign"],
            ["EVAL", "return redis.call('GET', 'foreign')", "0"],
            ["SPUBLISH", "foreign", "x"],
            ["SUBSCRIBE", "hr:any"],
            ["CONFIG", "GET", "*"],
            ["SCRIPT", "FLUSH"],
            ["CLIENT", "KILL", "TYPE", "pubsub"],
            ["ACL", "LIST"],
            ["XREADGROUP", "GROUP", "g", "w", "STREAMS", "hr:{m}:q", ">"],
        ):
            with pytest.raises(redis.ResponseError, match="permission"):
                client.execute_command(*command)
    with redis.Redis.from_url(url_of(server, "headrace-worker")) as client:
        for command in (["FLUSHALL"], ["KEYS", "*"], ["GET", "foreign"], ["XTRIM", "hr:{m}:dlq", "MAXLEN", "0"]):
            with pytest.raises(redis.ResponseError, match="permission"):
                client.execute_command(*command)
    with pytest.raises(redis.AuthenticationError):
        server.run("PING")


async def test_nothing_that_the_two_sides_do_is_refused(server: RedisServer) -> None:
    api_url, worker_url = (url_of(server, user) for user in USERS)
    async with running_api(api_url) as api:
        worker = ScriptedWorker(worker_url, "m")
        await worker.start()
        await eventually(lambda: is_ready(api))
        messages = [{"role": "user", "content": "hi"}]
        answer = await api.http.post("/v1/chat/completions", json={"model": "m", "messages": messages})
        assert answer.status_code == 200, answer.text
        await worker.stop()
    async with both_ends(api_url, worker_url) as ends:
        for request_id in ("a", "b", "c"):
            await ends.requests.enqueue(make_job(request_id), idempotency=IdempotencyKey(request_id, "f"))
        await ends.worker.claim(2, 10**9)
        await ends.worker.renew(["a"])
        for request_id in ("a", "c"):
            await ends.requests.cancel(QUEUE, request_id, "test", unless_heard=True)
        await ends.requests.state(QUEUE, "b")
        await ends.requests.backlog(QUEUE)
        await ends.requests.find([QUEUE], "b")
        await ends.worker.release()
        await ends.worker.reap()
        dead_letters = keys.dead_letters(QUEUE)
        await ends.redis.xrevrange(dead_letters)
        await ends.redis.xrange(dead_letters)
        await ends.redis.xtrim(dead_letters, maxlen=0)
        await ends.redis.xdel(dead_letters, "1-0")
    with redis.Redis.from_url(f"redis://admin:admin@127.0.0.1:{server.port}") as admin:
        refused = {entry[7] for entry in admin.execute_command("ACL", "LOG")}
    assert refused <= {b"config|get"}, "the check at the start does without"


async def test_a_batch_is_worked_on_by_users_with_least_privilege(server: RedisServer, tmp_path: Path) -> None:
    api_url, worker_url = (url_of(server, user) for user in USERS)
    with redis.Redis.from_url(f"redis://admin:admin@127.0.0.1:{server.port}") as admin, running_receiver() as receiver:
        hook = {"webhook_secret": SECRET, "webhook_url": f"http://{receiver.host}/"}
        async with (
            running_worker(worker_url),
            running_api(api_url, files=tmp_path, **hook) as api,
            running_batch_worker(url_of(server, BATCH_WORKER), tmp_path, **hook) as services,
        ):
            kept = await api.sdk.files.create(file=("a.txt", b"x"), purpose="user_data")
            assert (await api.sdk.files.delete(kept.id)).deleted
            batch = await batch_is_over(api, chats(5, model="tiny"))
            assert batch.status == "completed"
            assert (await batch_is_over(api, b"nonsense")).status == "failed"
            assert len((await api.sdk.batches.list(after=batch.id)).data) == 0
            await BatchWorker(services).sweep()
            await eventually(lambda: len(receiver.received) == 2, 10)
        refused = {entry[7] for entry in admin.execute_command("ACL", "LOG")}
    assert refused <= {b"config|get"}


async def test_a_claim_that_the_server_refuses_strands_nothing(server: RedisServer) -> None:
    with redis.Redis.from_url(f"redis://admin:admin@127.0.0.1:{server.port}") as admin:
        async with both_ends(*(url_of(server, user) for user in USERS)) as ends:
            await ends.requests.enqueue(make_job("r"))
            admin.execute_command("ACL", "SETUSER", "headrace-worker", "-xrange")
            with pytest.raises(redis.ResponseError):
                await ends.worker.claim(1, 10**9)
            admin.execute_command("ACL", "SETUSER", "headrace-worker", "+xrange")
            [claim] = await ends.worker.claim(1, 10**9)
            assert claim.request_id == "r"


def test_every_command_of_the_scripts_is_allowed_to_somebody() -> None:
    allowed = set(re.findall(r"\+([a-z|]+)", (EXAMPLE / "users.acl").read_text()))
    used = {
        command.lower()
        for path in Path(scripts.__file__).parent.glob("*.lua")
        for command in re.findall(r"redis\.p?call\('([A-Z]+)'", path.read_text())
    }
    assert {command for command in used if not any(entry.split("|")[0] == command for entry in allowed)} == set()


async def test_the_example_leaves_nothing_to_say(server: RedisServer) -> None:
    client = connect(RedisSettings(url=url_of(server, "headrace-api")))
    assert await check_server(client) == []
    await client.aclose()
