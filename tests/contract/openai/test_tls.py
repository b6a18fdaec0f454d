"""HTTPS on a real socket: who is let in, and certificates that are replaced while it serves."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from certificates import Certificate, authority, signed
from eventually import eventually
from live_api import ApiThread
from pydantic import ValidationError

from headrace_api.settings import ApiSettings
from headrace_shared.settings import QueueSettings, RedisSettings


@asynccontextmanager
async def served(**settings: object) -> AsyncIterator[str]:
    """The base URL of a server that needs no Redis for what is asked here."""
    options = ApiSettings(shutdown_grace_s=1, **settings)  # type: ignore[arg-type]
    thread = ApiThread(options, RedisSettings(), QueueSettings())
    await asyncio.to_thread(thread.__enter__)
    try:
        yield thread.base_url
    finally:
        await asyncio.to_thread(thread.stop)


async def status(url: str, trusted: Certificate, shown: Certificate | None = None) -> int:
    """Of one request on a connection of its own. Raises httpx.TransportError when either side does not trust the other."""
    context = ssl.create_default_context(cafile=trusted.cert)
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        return (await client.get(f"{url}/health")).status_code


def put(certificate: Certificate, folder: Path) -> Certificate:
    """As tools that renew certificates do: each file is replaced as a whole, one after the other."""
    placed = Certificate(folder / "tls.pem", folder / "tls.key")
    for source, target in ((certificate.cert, placed.cert), (certificate.key, placed.key)):
        shutil.copy(source, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)
    return placed


@pytest.fixture
def red(tmp_path: Path) -> Certificate:
    return authority(tmp_path, "red")


@pytest.fixture
def blue(tmp_path: Path) -> Certificate:
    return authority(tmp_path, "blue")


async def test_https_is_spoken_with_the_given_certificate(tmp_path: Path, red: Certificate, blue: Certificate) -> None:
    server = signed(tmp_path, "server", red)
    async with served(ssl_certfile=server.cert, ssl_keyfile=server.key) as url:
        assert url.startswith("https://")
        assert await status(url, red) == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await status(url, blue)
        async with httpx.AsyncClient(trust_env=False) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(url.replace("https", "http") + "/health")


async def test_a_key_in_the_certificates_file_is_found(tmp_path: Path, red: Certificate) -> None:
    server = signed(tmp_path, "server", red)
    both = tmp_path / "both.pem"
    both.write_text(server.cert.read_text() + server.key.read_text())
    async with served(ssl_certfile=both) as url:
        assert await status(url, red) == 200


@pytest.mark.parametrize(("level", "without"), [(1, True), (2, False)])
async def test_clients_show_a_certificate_that_the_authority_has_signed(
    tmp_path: Path, red: Certificate, blue: Certificate, level: int, without: bool
) -> None:
    server, friend, stranger = signed(tmp_path, "s", red), signed(tmp_path, "f", blue), signed(tmp_path, "x", red)
    tls = {"ssl_certfile": server.cert, "ssl_keyfile": server.key}
    async with served(**tls, ssl_ca_certs=blue.cert, ssl_cert_reqs=level) as url:
        assert await status(url, red, friend) == 200
        with pytest.raises(httpx.TransportError):
            await status(url, red, stranger)
        if without:
            assert await status(url, red) == 200
        else:
            with pytest.raises(httpx.TransportError):
                await status(url, red)


async def test_a_replaced_certificate_is_shown_without_a_restart(
    tmp_path: Path, red: Certificate, blue: Certificate
) -> None:
    placed = put(signed(tmp_path, "first", red), tmp_path)
    async with served(ssl_certfile=placed.cert, ssl_keyfile=placed.key, enable_ssl_refresh=True) as url:
        open_connection = httpx.AsyncClient(verify=ssl.create_default_context(cafile=red.cert), trust_env=False)
        async with open_connection as client:
            assert (await client.get(f"{url}/health")).status_code == 200
            put(signed(tmp_path, "second", blue), tmp_path)
            await eventually(lambda: trusts(url, blue), 10)
            assert not await trusts(url, red)
            # What was agreed on with the old certificate goes on.
            assert (await client.get(f"{url}/health")).status_code == 200


async def test_a_replaced_authority_decides_about_new_clients(
    tmp_path: Path, red: Certificate, blue: Certificate
) -> None:
    server, friend, successor = signed(tmp_path, "s", red), signed(tmp_path, "f", red), signed(tmp_path, "n", blue)
    trusted = tmp_path / "authorities.pem"
    shutil.copy(red.cert, trusted)
    tls = {"ssl_certfile": server.cert, "ssl_keyfile": server.key, "ssl_ca_certs": trusted, "ssl_cert_reqs": 2}
    async with served(**tls, enable_ssl_refresh=True) as url:
        assert await trusts(url, red, friend)
        shutil.copy(blue.cert, trusted)
        await eventually(lambda: trusts(url, red, successor), 10)
        assert not await trusts(url, red, friend)


async def test_files_that_do_not_fit_together_change_nothing_until_they_do(
    tmp_path: Path, red: Certificate, blue: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = signed(tmp_path, "first", red), signed(tmp_path, "second", blue)
    placed = put(first, tmp_path)
    async with served(ssl_certfile=placed.cert, ssl_keyfile=placed.key, enable_ssl_refresh=True) as url:
        shutil.copy(second.cert, placed.cert)
        await eventually(lambda: "certificate kept" in caplog.text, 10)
        assert await trusts(url, red)
        shutil.copy(second.key, placed.key)
        await eventually(lambda: trusts(url, blue), 10)


async def test_without_the_option_a_replaced_certificate_waits_for_a_restart(
    tmp_path: Path, red: Certificate, blue: Certificate
) -> None:
    placed = put(signed(tmp_path, "first", red), tmp_path)
    async with served(ssl_certfile=placed.cert, ssl_keyfile=placed.key) as url:
        put(signed(tmp_path, "second", blue), tmp_path)
        await asyncio.sleep(1.3)  # longer than between two looks at the files
        assert await trusts(url, red)


async def trusts(url: str, trusted: Certificate, shown: Certificate | None = None) -> bool:
    try:
        return await status(url, trusted, shown) == 200
    except httpx.TransportError:
        return False


async def test_only_the_named_ciphers_are_spoken(tmp_path: Path, red: Certificate) -> None:
    server = signed(tmp_path, "server", red)
    tls = {"ssl_certfile": server.cert, "ssl_keyfile": server.key}

    async def spoken(url: str) -> bool:
        context = ssl.create_default_context(cafile=red.cert)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            with contextlib.suppress(httpx.ConnectError):
                return (await client.get(f"{url}/health")).status_code == 200
        return False

    async with served(**tls, ssl_ciphers="HIGH") as url:
        assert await spoken(url)
    others = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384"
    async with served(**tls, ssl_ciphers=others) as url:
        assert not await spoken(url)


def test_ciphers_that_nobody_knows_are_refused(tmp_path: Path, red: Certificate) -> None:
    server = signed(tmp_path, "server", red)
    with pytest.raises(ValidationError, match="ssl_ciphers: OpenSSL knows none of 'ROT13'"):
        ApiSettings(ssl_certfile=server.cert, ssl_keyfile=server.key, ssl_ciphers="ROT13")
