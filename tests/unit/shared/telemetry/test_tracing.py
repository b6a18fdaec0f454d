"""When traces are sent, and that nothing of it is loaded when they are not."""

import subprocess
import sys

import pytest

from headrace_shared.settings import TracingSettings
from headrace_shared.telemetry.tracing import context_of, link_to, setup_tracing

ENDPOINT = {"exporter_otlp_endpoint": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**ENDPOINT, "sdk_disabled": True},
        {**ENDPOINT, "traces_exporter": "none"},
        {**ENDPOINT, "exporter_otlp_protocol": "http/json"},
    ],
    ids=["no endpoint", "disabled", "no exporter", "another protocol"],
)
def test_no_traces_unless_a_collector_is_named_and_can_be_spoken_to(settings: dict[str, object]) -> None:
    assert setup_tracing("test", TracingSettings(**settings)) is None


@pytest.mark.parametrize(
    ("settings", "protocol"),
    [
        ({"exporter_otlp_endpoint": "http://c:4318"}, "http/protobuf"),
        ({"exporter_otlp_endpoint": "http://c:4317"}, "grpc"),
        ({"exporter_otlp_traces_endpoint": "grpc://c:9"}, "grpc"),
        ({"exporter_otlp_endpoint": "http://c:4317", "exporter_otlp_protocol": "http/protobuf"}, "http/protobuf"),
        ({"exporter_otlp_endpoint": "http://c:1", "exporter_otlp_traces_protocol": "grpc"}, "grpc"),
    ],
)
def test_the_protocol_is_what_was_asked_for_or_what_the_port_is_known_for(
    settings: dict[str, str], protocol: str
) -> None:
    assert TracingSettings(**settings).protocol == protocol


def test_an_endpoint_for_traces_alone_is_enough() -> None:
    assert TracingSettings(exporter_otlp_traces_endpoint="http://127.0.0.1:1/v1/traces").enabled


def test_a_process_without_traces_loads_nothing_of_opentelemetry() -> None:
    code = (
        "import sys; from headrace_shared.telemetry.tracing import setup_tracing; import headrace_worker.service.pump;"
        "assert setup_tracing('x') is None; assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={})


@pytest.mark.parametrize("text", [None, "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_name_that_names_no_span_makes_no_link(text: str | None) -> None:
    assert link_to(text) == []
    assert not context_of(text)
