"""Every line about a request says which request and which trace it belongs to, on every process."""

import json
from collections.abc import Iterator

import httpx
import pytest
from fleet import fleet_on, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"


def lines(text: str) -> Iterator[dict[str, object]]:
    for line in text.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def test_lines_of_api_node_and_worker_carry_the_request_and_the_clients_trace(
    valkey_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with fleet_on(valkey_url) as fleet:
        fleet.worker(log_format="json")
        api = fleet.api(log_format="json", enable_log_requests=True)
        api.wait_until_ready()
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-Id": "mine"}
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "ignore_eos": True}
        answer = httpx.post(f"{api.url}/v1/chat/completions", json=body, headers=headers)
        request_id = answer.headers["x-headrace-request-id"]
        told = ""

        def ended() -> bool:
            nonlocal told
            told += capfd.readouterr().err
            return '"request finished"' in told and '"request answered"' in told

        wait_until(ended, "both processes have told the end")
    found = {
        str(line["message"]): line
        for line in lines(told)
        if line.get("trace_id") or line.get("request_id") in ("mine", request_id)
    }
    assert {"request accepted", "request answered", "request started", "request finished"} <= set(found)
    assert {line.get("trace_id") for line in found.values()} == {TRACE}
    assert {found[message]["request_id"] for message in ("request accepted", "request answered")} == {"mine"}
    assert {found[message]["request_id"] for message in ("request started", "request finished")} == {request_id}
    assert found["request accepted"]["job"] == request_id
