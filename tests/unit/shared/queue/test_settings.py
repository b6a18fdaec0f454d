"""Addresses of Redis, and the keys below it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from headrace_shared.queue import keys, scripts
from headrace_shared.queue.address import RedisAddress
from headrace_shared.queue.client import connect, topology_of
from headrace_shared.queue.requests import QueueLimits
from headrace_shared.queue.scripts import Script
from headrace_shared.queue.topology import Endpoint
from headrace_shared.settings import QueueSettings, RedisSettings


def endpoint(url: str) -> Endpoint:
    home = topology_of(connect(RedisSettings(url=url))).home(b"any")
    assert home is not None
    return home


def test_every_part_of_an_address_is_understood() -> None:
    tcp = endpoint("redis://ann:p%40ss@example.test:7000/3")
    assert (tcp.host, tcp.port, tcp.username, tcp.password) == ("example.test", 7000, "ann", "p@ss")
    assert tcp.path is None
    assert tcp.tls is None
    unix = endpoint("unix://:secret@/run/redis%20socket?db=2")
    assert (unix.path, unix.password) == ("/run/redis socket", "secret")
    assert endpoint("redis://example.test").port == 6379


def test_tls_checks_the_certificate_and_the_name_unless_told_not_to() -> None:
    strict = endpoint("rediss://example.test").tls
    assert strict is not None
    assert strict.check_hostname
    assert strict.verify_mode.name == "CERT_REQUIRED"
    lax = endpoint("rediss://example.test?ssl_cert_reqs=none").tls
    assert lax is not None
    assert lax.verify_mode.name == "CERT_NONE"


def test_every_part_of_an_address_of_many_servers_is_understood() -> None:
    found = RedisAddress.of_url(
        "rediss+sentinel://ann:p%40ss@s1:1,s2,[::1]:3/name/2?sentinel_password=other&ssl_ca_certs=ca.pem"
    )
    assert (found.kind, found.service) == ("sentinel", "name")
    assert found.hosts == [("s1", 1), ("s2", 26379), ("::1", 3)]
    assert (found.options["username"], found.options["password"], found.options["db"]) == ("ann", "p@ss", 2)
    assert (found.sentinel_options["username"], found.sentinel_options["password"]) == (None, "other")
    assert found.options["ssl_ca_certs"] == found.sentinel_options["ssl_ca_certs"] == "ca.pem"
    cluster = RedisAddress.of_url("redis+cluster://:secret@h1:7000,h2/")
    assert (cluster.kind, cluster.hosts) == ("cluster", [("h1", 7000), ("h2", 6379)])
    assert cluster.options["password"] == "secret"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "unix://",
        "redis+sentinel://localhost",
        "redis+cluster://localhost/1",
        "unix+cluster://localhost",
        "redis://localhost/0?ssl_ca_certs=/ca.pem",
        "redis+sentinel://localhost/name/0?ssl_ca_certs=/ca.pem",
    ],
)
def test_something_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must"):
        RedisSettings(url=url)


def test_the_database_of_the_address_is_used() -> None:
    client = connect(RedisSettings(url="redis://example.test/7"))
    assert client.connection_pool.connection_kwargs["db"] == 7


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("HEADRACE_QUEUE_REPLAY_TTL_S", "30")
    assert RedisSettings().url == "redis://elsewhere"
    assert QueueLimits.of_settings(QueueSettings()).replay_ttl_s == 30


def test_limits_and_settings_agree_on_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in QueueSettings.model_fields:
        monkeypatch.delenv(f"HEADRACE_QUEUE_{name.upper()}", raising=False)
    assert QueueLimits.of_settings(QueueSettings()) == QueueLimits()


def test_all_keys_of_a_queue_share_one_hash_slot() -> None:
    of_queue = [
        keys.base("m.1"),
        keys.counters("m.1"),
        keys.request("m.1", "r"),
        keys.token_log("m.1", "r"),
        keys.token_channel("m.1", "r").decode(),
        keys.control_channel("m.1", "w").decode(),
        keys.bell_channel("m.1").decode(),
    ]
    assert all(key.startswith("hr:{m.1}:") for key in of_queue)
    assert len(set(of_queue)) == len(of_queue)
    of_fleet = [keys.card("d"), keys.blob("d"), keys.fleet_leases(), keys.fleet_states()]
    assert all(key.startswith("hr:{fleet}:") for key in of_fleet)


def test_every_script_is_a_file() -> None:
    files = {path.stem for path in Path(scripts.__file__).parent.glob("*.lua")}
    assert files == {*Script, "state"}
