"""How long the supervisor waits for a server, from that server's own settings."""

import pytest

from headrace_cli import servers


@pytest.mark.parametrize(
    ("package", "variables", "expected_s"),
    [
        (servers.API, {}, 30.0),
        (servers.API, {"HEADRACE_API_SHUTDOWN_GRACE_S": "120", "HEADRACE_API_DRAIN_DELAY_S": "5"}, 125.0),
        (servers.API, {"HEADRACE_API_SHUTDOWN_GRACE_S": "soon"}, 30.0),
        (servers.WORKER, {"HEADRACE_WORKER_DRAIN_TIMEOUT_S": "60"}, 0.0),
        (servers.WORKER, {"HEADRACE_WORKER_DRAIN": "finish"}, 300.0),
        (servers.WORKER, {"HEADRACE_WORKER_DRAIN": "finish", "HEADRACE_WORKER_DRAIN_TIMEOUT_S": "60"}, 60.0),
    ],
)
def test_a_server_gets_the_time_that_its_settings_promise(
    package: str, variables: dict[str, str], expected_s: float
) -> None:
    assert servers.stop_s(package, variables) == expected_s
