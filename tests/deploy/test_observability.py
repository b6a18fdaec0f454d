"""Dashboards, rules and runbook against the series that the processes really have."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards import FOLDER, exported, generator, named_in

PROMETHEUS = FOLDER / "prometheus"
RUNBOOK = (FOLDER.parent / "docs" / "runbook.md").read_text("utf-8")
PROMTOOL = shutil.which("promtool")
with_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: apt install prometheus)"
)


def rules(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


DOCUMENT = (FOLDER.parent / "docs" / "metrics.md").read_text("utf-8")
RECORDED = {rule["record"] for rule in rules("recording.yml")}


def test_the_dashboards_are_what_their_generator_says() -> None:
    command = [sys.executable, FOLDER / "dashboards" / "generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_series_that_a_dashboard_asks_for_is_exported() -> None:
    module = generator()
    asked = {name for board in module.BOARDS for query in module.queries(board) for name in named_in(query)}
    assert asked - exported() - RECORDED == set()
    assert len(asked) > 60


def test_every_series_of_ours_is_on_some_dashboard() -> None:
    module = generator()
    asked = {name for board in module.BOARDS for query in module.queries(board) for name in named_in(query)}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported() if name.startswith("headrace:")}
    # What another panel divides, or shows in another way.
    assert ours - families == {"headrace:model_slots", "headrace:lease_seconds"}


@pytest.mark.parametrize("file", ["recording.yml", "alerts.yml"])
def test_every_series_that_a_rule_asks_for_is_exported_or_recorded(file: str) -> None:
    for rule in rules(file):
        assert named_in(rule["expr"]) - exported() - RECORDED == set(), rule


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    tested = (PROMETHEUS / "rules_test.yml").read_text("utf-8")
    for rule in rules("alerts.yml"):
        name = rule["alert"]
        assert f"## {name}\n" in RUNBOOK
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert re.search(rf"alertname: {name}\n\s+exp_alerts", tested), f"{name} is never expected to fire"
    sections = set(re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE))
    assert sections == {rule["alert"] for rule in rules("alerts.yml")}


def test_dashboards_made_for_vllm_find_all_they_ask_for() -> None:
    """The series of the boards that vLLM ships."""
    wanted = {
        "vllm:e2e_request_latency_seconds_bucket", "vllm:e2e_request_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_sum", "vllm:generation_tokens_total", "vllm:inter_token_latency_seconds_bucket",
        "vllm:inter_token_latency_seconds_sum", "vllm:iteration_tokens_total_count", "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:prompt_tokens_total",
        "vllm:request_decode_time_seconds_sum", "vllm:request_generation_tokens_bucket",
        "vllm:request_max_num_generation_tokens_sum", "vllm:request_prefill_time_seconds_sum",
        "vllm:request_prompt_tokens_bucket", "vllm:request_queue_time_seconds_sum", "vllm:request_success_total",
        "vllm:request_time_per_output_token_seconds_bucket", "vllm:time_per_output_token_seconds_bucket",
        "vllm:time_to_first_token_seconds_bucket", "vllm:time_to_first_token_seconds_sum",
    }  # fmt: skip
    assert wanted - exported() == set()


def test_every_series_of_vllm_is_exported_or_the_documentation_says_why_not() -> None:
    known = {
        "vllm:cache_config_info", "vllm:corrupted_requests_total", "vllm:cpu_cache_usage_perc",
        "vllm:cpu_prefix_cache_hit_rate", "vllm:e2e_request_latency_seconds_bucket", "vllm:engine_sleep_state",
        "vllm:estimated_flops_per_gpu_total", "vllm:estimated_read_bytes_per_gpu_total",
        "vllm:estimated_write_bytes_per_gpu_total", "vllm:external_prefix_cache_", "vllm:generation_tokens_total",
        "vllm:gpu_cache_usage_perc", "vllm:gpu_prefix_cache_hit_rate", "vllm:gpu_prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_queries_total", "vllm:inter_token_latency_seconds_bucket",
        "vllm:iteration_tokens_total_bucket", "vllm:kv_block_idle_before_evict_seconds",
        "vllm:kv_block_lifetime_seconds", "vllm:kv_block_reuse_gap_seconds", "vllm:kv_cache_usage_perc",
        "vllm:lora_requests_info", "vllm:mm_cache_hits_total", "vllm:mm_cache_queries_total",
        "vllm:model_execute_time_milliseconds", "vllm:model_forward_time_milliseconds",
        "vllm:num_preemptions_total", "vllm:num_requests_running", "vllm:num_requests_swapped",
        "vllm:num_requests_waiting", "vllm:num_requests_waiting_by_reason", "vllm:prefix_cache_hits_total",
        "vllm:prefix_cache_queries_total", "vllm:prompt_tokens_by_source_total",
        "vllm:prompt_tokens_cached_by_source_total", "vllm:prompt_tokens_cached_total", "vllm:prompt_tokens_total",
        "vllm:admission_rejections_total", "vllm:request_decode_time_seconds_bucket",
        "vllm:request_generation_tokens_bucket", "vllm:request_inference_time_seconds_bucket",
        "vllm:request_max_num_generation_tokens_bucket", "vllm:request_num_preemptions_bucket",
        "vllm:request_params_max_tokens_bucket", "vllm:request_params_n_bucket",
        "vllm:request_prefill_kv_computed_tokens_bucket", "vllm:request_prefill_time_seconds_bucket",
        "vllm:request_prompt_tokens_bucket", "vllm:request_queue_time_seconds_bucket", "vllm:request_success_total",
        "vllm:request_time_per_output_token_seconds_bucket", "vllm:time_in_queue_requests",
        "vllm:time_per_output_token_seconds_bucket", "vllm:time_to_first_token_seconds_bucket",
        "vllm:tool_call_parser_invocations_total", "vllm:watermark_requests_total",
    }  # fmt: skip
    left_out = DOCUMENT[DOCUMENT.index("## What vLLM has") :]
    unexplained = {name for name in known - exported() if f"`{name}" not in left_out}
    assert unexplained == set()
    assert [name for name in known & exported() if f"`{name}`" in left_out] == []


def _promtool(*arguments: object) -> str:
    done = subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@with_promtool
def test_prometheus_understands_its_configuration() -> None:
    assert "SUCCESS" in _promtool("check", "config", PROMETHEUS / "prometheus.yml")


@with_promtool
def test_each_alert_fires_when_it_should_and_a_healthy_fleet_alerts_nobody() -> None:
    assert "SUCCESS" in _promtool("test", "rules", PROMETHEUS / "rules_test.yml")


@with_promtool
def test_a_rule_that_is_wrong_fails_its_test(tmp_path: Path) -> None:
    """The tests above can fail."""
    for path in PROMETHEUS.glob("*.yml"):
        text = path.read_text("utf-8").replace(
            "headrace:queue_oldest_seconds) > 60", "headrace:queue_oldest_seconds) > 6000"
        )
        (tmp_path / path.name).write_text(text, "utf-8")
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", tmp_path / "rules_test.yml"], capture_output=True, check=False
    )
    assert done.returncode == 1


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.y*ml")), ids=lambda path: path.name)
def test_configurations_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)
