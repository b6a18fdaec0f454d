"""/v1/files over HTTP: what is taken in, from whom, how large, for how long."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from eventually import eventually
from live_api import Api, running_api
from redis.asyncio import Redis

from headrace_shared.queue import keys

FORM = {"purpose": "user_data"}
FILE = {"file": ("notes.txt", b"hello")}


async def upload(
    api: Api, content: bytes = b"hello", name: str = "notes.txt", key: str = "", **form: str
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return await api.http.post("/v1/files", files={"file": (name, content)}, data=FORM | form, headers=headers)


def bytes_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("files", "form", "param"),
    [
        (FILE, {}, "purpose"),
        (FILE, {"purpose": "fine-tune"}, "purpose"),
        (FILE, {"purpose": "nonsense"}, "purpose"),
        (FILE, {"purpose": "batch"}, "file"),
        ({"file": ("x.txt", b"")}, FORM, "file"),
        ({"other": ("x.txt", b"x")}, FORM, "file"),
        (FILE, FORM | {"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}, "expires_after.seconds"),
        (FILE, FORM | {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        (FILE, FORM | {"expires_after[seconds]": "3600"}, "expires_after.anchor"),
        (FILE, FORM | {"colour": "red"}, "colour"),
        (FILE, {"purpose": "x" * 70_000}, "purpose"),
    ],
)
async def test_a_form_that_is_wrong_is_400_with_the_fields_name(
    valkey_url: str, tmp_path: Path, files: Any, form: dict[str, str], param: str
) -> None:
    async with running_api(valkey_url, files=tmp_path) as api:
        response = await api.http.post("/v1/files", files=files, data=form)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
        assert bytes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 415),
        ("multipart/form-data; boundary=b", b"no form at all", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nnameless\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nba', 400),
    ],
)
async def test_a_body_that_is_no_form_is_refused(valkey_url: str, content_type: str, body: bytes, status: int) -> None:
    async with running_api(valkey_url) as api:
        response = await api.http.post("/v1/files", content=body, headers={"Content-Type": content_type})
        assert response.status_code == status, response.text


async def test_a_file_may_come_before_its_fields_and_in_the_smallest_pieces(valkey_url: str) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a b.jsonl"\r\n\r\n{"x":\r\n--bb}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    )

    async def pieces() -> AsyncIterator[bytes]:
        for n in range(len(body)):
            yield body[n : n + 1]

    async with running_api(valkey_url) as api:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        made = (await api.http.post("/v1/files", content=pieces(), headers=headers)).json()
        assert (made["filename"], made["purpose"], made["bytes"]) == ("a b.jsonl", "batch", 12)
        assert (await api.http.get(f"/v1/files/{made['id']}/content")).content == b'{"x":\r\n--bb}'


async def test_a_file_above_the_limit_is_413_whether_or_not_it_says_so(valkey_url: str, tmp_path: Path) -> None:
    async def without_length(request: httpx.Request) -> AsyncIterator[bytes]:
        yield await request.aread()

    async with running_api(valkey_url, files=tmp_path, max_file_bytes=2_000_000, max_body_bytes=1024) as api:
        assert (await upload(api, b"x" * 2_000_000)).status_code == 200
        kept = bytes_of(tmp_path)
        assert (await upload(api, b"x" * 2_000_001)).status_code == 413
        assert (await upload(api, b"x" * 9_000_000)).status_code == 413
        request = api.http.build_request("POST", "/v1/files", files={"file": ("n", b"x" * 4_000_000)}, data=FORM)
        headers = {"Content-Type": request.headers["content-type"]}
        response = await api.http.post("/v1/files", content=without_length(request), headers=headers)
        assert response.status_code == 413
        assert bytes_of(tmp_path) == kept


async def test_an_upload_that_breaks_off_leaves_nothing(valkey_url: str, tmp_path: Path) -> None:
    async with running_api(valkey_url, files=tmp_path) as api:
        host, _, port = api.base_url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + head + b"x" * 20_000_000
        )
        await writer.drain()
        writer.close()
        await eventually(lambda: bytes_of(tmp_path) == [])
        assert (await api.http.get("/v1/files")).json()["data"] == []


async def test_what_belongs_to_others_is_not_there(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({name: {"key": f"key-{name}"} for name in ("ann", "bob")}))
    async with running_api(valkey_url, api_keys_file=str(path)) as api:
        made = (await upload(api, key="key-ann")).json()["id"]
        for key, status, count in (("key-ann", 200, 1), ("key-bob", 404, 0)):
            headers = {"Authorization": f"Bearer {key}"}
            assert len((await api.http.get("/v1/files", headers=headers)).json()["data"]) == count
            for url in (f"/v1/files/{made}", f"/v1/files/{made}/content"):
                assert (await api.http.get(url, headers=headers)).status_code == status
        headers = {"Authorization": "Bearer key-bob"}
        assert (await api.http.delete(f"/v1/files/{made}", headers=headers)).status_code == 404
        batch = {"input_file_id": made, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        assert (await api.http.post("/v1/batches", json=batch, headers=headers)).status_code == 404


async def test_a_clients_files_have_a_limit_together(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"ann": {"key": "a", "file_bytes": 10}, "bob": {"key": "b"}}))
    async with running_api(valkey_url, files=tmp_path / "files", api_keys_file=str(path)) as api:
        first = (await upload(api, b"123456", key="a")).json()["id"]
        refused = await upload(api, b"12345", key="a")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "file")
        assert "10 bytes" in refused.json()["error"]["message"]
        assert bytes_of(tmp_path / "files") == [first]
        assert (await upload(api, b"12345", key="b")).status_code == 200
        assert (await api.http.delete(f"/v1/files/{first}", headers={"Authorization": "Bearer a"})).status_code == 200
        assert (await upload(api, b"12345", key="a")).status_code == 200


async def test_a_file_that_has_expired_is_not_there(valkey_url: str) -> None:
    async with running_api(valkey_url, file_ttl_s=60) as api:
        made = (await upload(api)).json()
        assert made["expires_at"] == made["created_at"] + 60
        async with Redis.from_url(valkey_url) as redis:
            packed = await redis.hget(keys.file(made["id"]), "d")  # type: ignore[misc]
            # As it will be in a minute.
            ago = packed.replace(made["expires_at"].to_bytes(4), (made["created_at"] - 1).to_bytes(4))
            await redis.hset(keys.file(made["id"]), "d", ago)  # type: ignore[misc]
        assert (await api.http.get(f"/v1/files/{made['id']}")).status_code == 404
        assert (await api.http.get("/v1/files")).json()["data"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "order=up", "after=file-unknown"])
async def test_a_page_that_cannot_be_is_400(valkey_url: str, query: str) -> None:
    async with running_api(valkey_url) as api:
        response = await api.http.get(f"/v1/files?{query}")
        assert (response.status_code, response.json()["error"]["param"]) == (400, query.partition("=")[0])


async def test_a_store_that_cannot_be_written_to_is_503(valkey_url: str, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("no folder")
    async with running_api(valkey_url, files=tmp_path / "occupied") as api:
        assert (await upload(api)).status_code == 503
