"""The compose file that starts a fleet and all that watches it: what Docker would refuse, or find missing too late."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards import FOLDER
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from headrace_api.settings import ApiSettings
from headrace_cli.main import app
from headrace_shared.settings import RedisSettings, TracingSettings
from headrace_worker.settings import WorkerSettings

COMPOSE = FOLDER / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
OURS: dict[str, type[BaseSettings]] = {"api": ApiSettings, "worker": WorkerSettings}
"""Services that are headrace commands, and what those read."""
every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def complaints(path: Path) -> str:
    """What the specification's schema has against a file; nothing when it is right."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_it_is_as_the_specification_says() -> None:
    assert complaints(COMPOSE) == ""


@pytest.mark.parametrize(
    ("right", "wrong"), [("depends_on: [valkey, collector]", "depends_on: 2"), ("network_mode", "network-mode")]
)
def test_what_is_not_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    """The test above can fail."""
    text = COMPOSE.read_text("utf-8")
    assert right in text
    path = tmp_path / "compose.yaml"
    path.write_text(text.replace(right, wrong), "utf-8")
    assert wrong.partition(":")[0] in complaints(path)


@every_service
def test_an_image_is_built_here_or_has_a_version(service: dict[str, Any]) -> None:
    assert "build" in service or re.fullmatch(r"[a-z/-]+:v?\d+(\.\d+)*", service["image"])


@every_service
def test_services_that_others_name_are_there(service: dict[str, Any]) -> None:
    named = {*service.get("depends_on", ()), *hosts_in(str(service.get("environment", "")))}
    mode, _, other = service.get("network_mode", "").partition(":")
    assert named | ({other} if mode == "service" else set()) <= set(SERVICES)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: path.name)
def test_configurations_name_only_services_that_are_there(path: Path) -> None:
    assert set(hosts_in(path.read_text("utf-8"))) <= set(SERVICES)


def hosts_in(text: str) -> Iterator[str]:
    """Names, with a port behind them, that stand in an address."""
    return (found[1] for found in re.finditer(r"(?:://|endpoint: )([a-z][a-z-]*):\d+", text))


@every_service
def test_what_is_mounted_exists_and_what_a_command_reads_is_mounted(service: dict[str, Any]) -> None:
    mounts = {target: FOLDER / source for source, target, _ in (each.split(":") for each in service.get("volumes", ()))}
    assert [source for source in mounts.values() if not source.exists()] == []
    read = [Path(found[1]) for word in service.get("command", ()) if (found := re.search(r"=(/.+)", word))]
    for path in read:
        [target] = [target for target in mounts if path.is_relative_to(target)]
        assert (mounts[target] / path.relative_to(target)).is_file()


def test_ports_are_open_to_this_machine_alone_and_each_once() -> None:
    ports = [port.rsplit(":", 2) for service in SERVICES.values() for port in service.get("ports", ())]
    assert {address for address, _, _ in ports} == {"127.0.0.1"}
    assert max(Counter(port for _, port, _ in ports).values()) == 1
    told = re.findall(r"http://127\.0\.0\.1:(\d+)", COMPOSE.read_text("utf-8"))
    assert set(told) == {port for _, port, _ in ports}


@pytest.mark.parametrize("name", OURS)
def test_headrace_takes_its_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    became: dict[str, str] = {}
    monkeypatch.setattr("headrace_cli.servers.become", lambda _, variables: became.update(variables))
    result = CliRunner().invoke(app, SERVICES[name]["command"])
    assert (result.exit_code, result.output) == (0, "")
    for variable, value in (SERVICES[name]["environment"] | became).items():
        monkeypatch.setenv(variable, value)
    OURS[name]()
    assert RedisSettings().url == "redis://valkey:6379/0"
    assert TracingSettings().enabled


def test_all_headrace_commands_are_looked_at() -> None:
    assert {name for name, service in SERVICES.items() if "build" in service} == set(OURS)
