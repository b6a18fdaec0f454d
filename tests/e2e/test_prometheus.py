"""A real Prometheus scrapes a running fleet, and every question of every dashboard has an answer."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from dashboards import FOLDER, generator
from fleet import ApiProcess, fleet_on, wait_until
from ports import free_port

SERVER = shutil.which("prometheus")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SERVER is None, reason="prometheus is not installed (Debian: apt install prometheus)"),
]
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "ignore_eos": True}


@contextmanager
def prometheus(folder: Path, nodes: list[ApiProcess]) -> Iterator[str]:
    """Ours but for addresses and pace."""
    config = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "prometheus" / name) for name in config["rule_files"]]
    api, worker = config["scrape_configs"]
    api["static_configs"] = [{"targets": [f"127.0.0.1:{node.port}" for node in nodes]}]
    worker["http_sd_configs"] = [{"url": f"{nodes[0].url}/metrics/targets", "refresh_interval": "1s"}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(SERVER),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with subprocess.Popen(command) as process:
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


def ask(url: str, expression: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=20)
    assert answer.status_code == 200, (expression, answer.text)
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def up(url: str) -> bool:
    with suppress(httpx.HTTPError, AssertionError):  # it may still be starting
        targets = ask(url, "up == 1")
        return sorted(target["metric"]["job"] for target in targets) == ["headrace-api"] * 2 + ["headrace-worker"] * 2
    return False


def filled(query: str) -> str:
    return query.replace("$__rate_interval", "30s").replace("$model_name", "simulated")


def traffic(nodes: list[ApiProcess], seconds: float) -> None:
    end_s = time.monotonic() + seconds
    with httpx.Client(timeout=30) as http:
        while time.monotonic() < end_s:
            for node in nodes:
                for stream in (True, False):
                    body = BODY | {"stream": stream}
                    assert http.post(f"{node.url}/v1/chat/completions", json=body).status_code == 200


def test_every_question_of_every_dashboard_has_an_answer(valkey_url: str, tmp_path: Path) -> None:
    module = generator()
    with fleet_on(valkey_url) as fleet:
        for _ in range(2):
            fleet.worker(simulated_step_ms=2)
        nodes = [fleet.api(), fleet.api()]
        for node in nodes:
            node.wait_until_ready(workers=2)
        with prometheus(tmp_path, nodes) as url:
            wait_until(lambda: up(url), "Prometheus has found two API nodes and two workers")
            traffic(nodes, 4)
            asked = {query for board in module.BOARDS for query in module.queries(board)}
            unanswered: set[str] = set(asked)

            def answered() -> bool:
                nonlocal unanswered
                unanswered = {query for query in unanswered if not ask(url, filled(query))}
                return not unanswered

            with suppress(AssertionError):
                wait_until(answered, "everything is answered", 30)
            assert unanswered == set()
            recorded = yaml.safe_load((FOLDER / "prometheus" / "recording.yml").read_text("utf-8"))
            names = [rule["record"] for group in recorded["groups"] for rule in group["rules"]]
            assert [name for name in names if not ask(url, name)] == []
            check_sums(url, nodes)
            firing = {alert["metric"]["alertname"] for alert in ask(url, 'ALERTS{alertstate="firing"}')}
            assert firing <= {"HeadraceTooFewWorkers"}, "nothing is wrong with this fleet"


def check_sums(url: str, nodes: list[ApiProcess]) -> None:
    """What Prometheus has added up over the fleet is what the processes tell one by one."""

    def told(node: ApiProcess) -> float:
        text = httpx.get(f"{node.url}/metrics").text
        pattern = r'^headrace:api_requests_total\{model_name="simulated",outcome="finished"\} (\S+)$'
        [value] = re.findall(pattern, text, re.MULTILINE)
        return float(value)

    requests = sum(map(told, nodes))
    expected = {
        "sum(headrace:api_requests_total)": requests,
        "sum(vllm:generation_tokens_total)": 40 * requests,
        'sum(vllm:request_success_total{finished_reason="length"})': requests,
        "sum(vllm:e2e_request_latency_seconds_count)": requests,
    }

    def summed() -> bool:
        found = {expression: ask(url, expression) for expression in expected}
        return {name: float(values[0]["value"][1]) for name, values in found.items() if values} == expected

    wait_until(summed, "the last scrapes are in")
