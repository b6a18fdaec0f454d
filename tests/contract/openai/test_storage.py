"""Where files are: a folder and a bucket behave alike."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3
import pytest
from batching import chats, running_batch_worker
from live_api import running_api
from moto.server import ThreadedMotoServer
from scripted_worker import ScriptedWorker

from headrace_api.storage import ByteStore, MissingBytesError
from headrace_shared.errors import UnavailableError

PIECE = b"0123456789" * 100_000


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server that speaks S3; ``AWS_*`` say how it is reached."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="files")
        yield "s3://files/headrace"
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "folder" else str(request.getfixturevalue("bucket"))


async def pieces(count: int, failure: Exception | None = None) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield PIECE
    if failure is not None:
        raise failure


async def read(store: ByteStore, path: str) -> bytes:
    return b"".join([chunk async for chunk in store.read(path)])


async def test_what_is_written_is_read(place: str) -> None:
    store = ByteStore(place)
    for count in (0, 1, 20):
        assert await store.write("files/a", pieces(count)) == count * len(PIECE)
        assert await read(store, "files/a") == PIECE * count


async def test_what_breaks_off_is_not_there(place: str) -> None:
    store = ByteStore(place)
    for count in (0, 1, 20):
        with pytest.raises(ValueError, match="broken"):
            await store.write("files/b", pieces(count, ValueError("broken")))
        with pytest.raises(MissingBytesError):
            await read(store, "files/b")


async def test_one_path_or_all_below_one_is_deleted_and_deleting_again_is_no_fault(place: str) -> None:
    store = ByteStore(place)
    for path in ("batches/x/1.output", "batches/x/2.error", "batches/xy/1.output", "files/c"):
        await store.write(path, pieces(1))
    for _ in range(2):
        await store.delete("batches/x/")
        await store.delete("files/c")
    assert len(await read(store, "batches/xy/1.output")) == len(PIECE)
    for path in ("batches/x/1.output", "batches/x/2.error", "files/c"):
        with pytest.raises(MissingBytesError):
            await read(store, path)


async def test_a_bucket_that_is_not_there_is_unavailable(bucket: str) -> None:
    with pytest.raises(UnavailableError):
        await ByteStore("s3://nobodys/x").write("files/a", pieces(1))


async def test_a_batch_is_worked_on_in_a_bucket(valkey_url: str, worker: ScriptedWorker, bucket: str) -> None:
    async with running_api(valkey_url, files=bucket) as api, running_batch_worker(valkey_url, bucket):
        files = {"file": ("in.jsonl", chats(30, model="tiny"))}
        made = await api.http.post("/v1/files", files=files, data={"purpose": "batch"})
        asked = {"input_file_id": made.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = (await api.http.post("/v1/batches", json=asked)).json()
        async with api.http.stream("GET", f"/v1/batches/{batch['id']}/events") as events:
            await events.aread()
        batch = (await api.http.get(f"/v1/batches/{batch['id']}")).json()
        output = await api.http.get(f"/v1/files/{batch['output_file_id']}/content")
        assert len(output.text.splitlines()) == 30
