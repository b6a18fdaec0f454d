"""The console in a real browser: what it shows, loads and does, by keyboard and on a phone."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from batching import chats, item, running_batch_worker
from chromium import Tab, browser_tab, needs_chromium
from dead_letters import bury
from eventually import eventually
from fleet import fleet_on
from live_api import Api, running_api
from prometheus_client.parser import text_string_to_metric_families
from redis_servers import RedisServer
from scripted_worker import Frames, ScriptedWorker, running_worker, saying

from headrace_shared.protocol.event import Delta, Started
from headrace_shared.queue.claims import Claim

pytestmark = [needs_chromium, pytest.mark.slow]

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = "Because of Rayleigh."
FIGURES: dict[str, float] = {
    "kv_blocks_total": 200,
    "kv_blocks_free": 50,
    "max_num_seqs": 16,
    "running": 3,
    "waiting": 2,
    "tokens_per_s": 123.4,
    "step_ms": 12.5,
    "prefix_hit_rate": 0.5,
}


async def endless(_worker: ScriptedWorker, _claim: Claim) -> Frames:
    yield [Started("scripted")]
    while True:
        yield [Delta(0, [1], "x")]
        await asyncio.sleep(0.02)


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    async with running_worker(valkey_url, script=saying(ANSWER)) as worker:
        worker.figures = FIGURES
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    async with running_api(valkey_url, first_event_wait_s=0) as api:
        yield api


async def opened(tab: Tab, api: Api) -> Any:
    """The page, once it shows something."""
    await tab.page.goto(f"{api.base_url}/console")
    await tab.page.wait_for_selector("#status[data-state=live]")
    return tab.page


async def test_it_loads_nothing_from_elsewhere_complains_of_nothing_and_shows_what_metrics_say(
    api: Api, worker: ScriptedWorker
) -> None:
    await worker.stop_claiming()
    waiting = [api.http.stream("POST", CHAT, json=HI | {"stream": True, "priority": each}) for each in (-3, 0, 0)]
    for stream in waiting:
        await stream.__aenter__()
    async with browser_tab() as tab:
        page = await opened(tab, api)
        facts = page.locator(".facts")
        await tab.until("document.querySelector('.facts')?.textContent.includes('waiting 3')")
        found = {
            (sample.name, sample.labels.get("priority")): sample.value
            for family in text_string_to_metric_families((await api.http.get("/metrics")).text)
            for sample in family.samples
        }
        told = await facts.inner_text()
        assert f"waiting {found['headrace:queue_requests', None]:.0f}" in told
        assert f"({found['headrace:queue_tokens', None]:.0f} tokens)" in told
        assert f"dead letters {found['headrace:dead_letters', None]:.0f}" in told
        assert f"of {found['headrace:model_slots', None]:.0f} places" in told
        assert "1" in told.split("workers")[1][:3]
        cells = await page.locator(".workers tr").first.locator("td").all_inner_texts()
        assert cells[1:8] == ["ready", "75 %", "3/16", "2", "13 ms", "123.4", "50 %"]
        lanes = [await row.locator("td").all_inner_texts() for row in await page.locator(".lanes tr").all()]
        assert [(lane[0], lane[1]) for lane in lanes] == [("-3", "1"), ("0", "2")]
        assert await page.locator("#request-rows tr").count() == 3
        charts = [await svg.get_attribute("aria-label") for svg in await page.locator(".chart svg").all()]
        assert charts[0].startswith("Tokens per second, last five minutes: now 123.4")
        assert "3 in flight" in charts[3]
        assert tab.complaints == []
        assert tab.foreign_requests(api.base_url) == []
        assert await page.evaluate("document.cookie") == ""
    for stream in waiting:
        await stream.__aexit__(None, None, None)


_BREAK_THE_RULES = """async () => {
  const broken = [];
  document.addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
  const script = document.createElement("script");
  script.textContent = "window.ran = true";
  document.body.append(script);
  document.body.insertAdjacentHTML("beforeend", "<p style='color: red'></p><img src='http://127.0.0.1:9/x.png'>");
  await fetch("http://127.0.0.1:9/").catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 200));
  return [broken.sort(), window.ran ?? false];
}"""


async def test_the_browser_keeps_what_the_policy_says(api: Api) -> None:
    async with browser_tab() as tab:
        page = await opened(tab, api)
        broken, ran = await page.evaluate(_BREAK_THE_RULES)
    assert (set(broken), ran) == ({"connect-src", "img-src", "script-src-elem", "style-src-attr"}, False)


async def test_the_playground_streams_an_answer_and_stops_one(valkey_url: str, api: Api) -> None:
    async with running_worker(valkey_url, "endless", script=endless), browser_tab() as tab:
        page = await opened(tab, api)
        await page.select_option("#model", "tiny")
        await page.fill("#question", "Why is the sky blue?")
        await page.press("#question", "Enter")
        await tab.until(f"document.querySelector('.turn.assistant')?.textContent === {json.dumps(ANSWER)}")
        await page.wait_for_selector("#speed:not(:empty)")
        assert (await page.inner_text("#speed")).startswith(f"{len(ANSWER)} tokens")
        [sent] = [request for request in tab.requests if request.url.endswith(CHAT)]
        assert sent.post_data_json["stream"] is True
        await page.wait_for_selector("#model option[value=endless]", state="attached")
        await page.select_option("#model", "endless")
        await page.fill("#question", "Go on.")
        await page.click("#send")
        await tab.until("document.querySelectorAll('.turn.assistant')[1]?.textContent.length > 5")
        await page.click("#stop")
        await page.wait_for_selector("#send:not(:disabled)")
        assert tab.complaints == []


async def test_the_keyboard_reaches_everything_and_cancels_a_request(valkey_url: str, api: Api) -> None:
    async with running_worker(valkey_url, "endless", script=endless) as worker, browser_tab() as tab:
        await eventually(lambda: _lists(api, "endless"))
        streaming = asyncio.create_task(api.http.post(CHAT, json=HI | {"model": "endless", "stream": True}))
        await eventually(lambda: len(worker.claims) == 1)
        page = await opened(tab, api)
        cancel = f"Cancel request {worker.claims[0].request_id}"
        await page.wait_for_selector(f"[aria-label='{cancel}']")
        reached = []
        name = "(e => e.getAttribute('aria-label') || e.id || e.textContent)(document.activeElement)"
        for _ in range(30):
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate(name))
            if reached[-1] == "send":
                break
        for wanted in (
            "Skip to models", "Models", "Requests", "Batches", "Dead letters", "Playground",
            "Recent requests, scrolls", cancel, "model", "question", "max-tokens", "clear", "send",
        ):  # fmt: skip
            assert wanted in reached, wanted
        outlines = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outlines) != "none"
        await page.focus(f"[aria-label='{cancel}']")
        # Pictures come while the button has the focus, and must not take it away.
        await asyncio.sleep(2.2)
        assert await page.evaluate(name) == cancel
        await page.keyboard.press("Enter")
        assert '"cancelled"' in (await streaming).text
        await tab.until("document.querySelector('#request-rows tr').textContent.includes('cancelled')")
        assert "is cancelled" in await page.inner_text("#notice")
        assert tab.complaints == []


async def first_few(worker: ScriptedWorker, claim: Claim) -> Frames:
    """Answers four requests, and works on others for ever."""
    script = saying(ANSWER) if claim in worker.claims[:4] else endless
    async for frame in script(worker, claim):
        yield frame


async def test_batches_show_what_the_api_says_of_them_and_can_be_cancelled(valkey_url: str, tmp_path: Path) -> None:
    async with (
        running_worker(valkey_url, script=first_few),
        running_batch_worker(valkey_url, tmp_path),
        running_api(valkey_url, files=tmp_path) as api,
        browser_tab() as tab,
    ):
        page = await opened(tab, api)
        await page.wait_for_selector("#no-batches")
        assert f"curl {api.base_url}/v1/batches " in await page.inner_text("#first-batch")
        assert await page.locator("#batch-rows").is_hidden()
        bad = item("bad", {"model": "tiny", "messages": "none"}).encode()
        ids = []
        for content in (b"not json", bad + b"\n" + chats(9, model="tiny")):
            file = await api.sdk.files.create(file=("in.jsonl", content), purpose="batch")
            batch = await api.sdk.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            ids.append(batch.id)
        await tab.until("document.querySelector('#batch-rows tr')?.cells[3].textContent === '5/10'")
        assert await page.locator("#no-batches").is_hidden()
        shown = (await api.http.get(f"/v1/batches/{ids[1]}")).json()
        assert shown["request_counts"] == {"total": 10, "completed": 4, "failed": 1}
        row, failed = await page.locator("#batch-rows tr").all()
        cells = await row.locator("td").all_inner_texts()
        assert (cells[0], cells[1], cells[4]) == (ids[1], shown["model"], "1")
        assert float(cells[5]) > 0
        assert cells[6].startswith("in ")
        assert cells[7].split("\n")[0].strip().startswith(shown["status"].replace("_", " "))
        bar = row.locator("[role=progressbar]")
        told = [await bar.get_attribute(f"aria-value{name}") for name in ("now", "max", "text")]
        assert told == ["5", "10", "4 completed, 1 failed of 10"]
        whole = await bar.evaluate("e => e.getBoundingClientRect().width")
        await asyncio.sleep(0.5)
        parts = await bar.evaluate("e => [...e.children].map((part) => part.getBoundingClientRect().width)")
        assert [round(part / whole, 2) for part in parts] == [0.4, 0.1]
        assert "line 1: This line is not parseable" in await failed.inner_text()
        assert await failed.get_by_role("button").count() == 0
        await page.click(f"[aria-label='Cancel batch {ids[1]}']")
        await page.wait_for_selector("#notice:not(:empty)")
        assert f"Batch {ids[1]} is cancell" in await page.inner_text("#notice")
        await tab.until("document.querySelector('#batch-rows tr').cells[7].textContent.startsWith('cancelled')")
        assert (await api.http.get(f"/v1/batches/{ids[1]}")).json()["status"] == "cancelled"
        assert await row.get_by_role("button").count() == 0
        assert (await row.locator("td").nth(6).inner_text()).endswith(" ago")
        assert tab.complaints == []


async def test_it_asks_for_the_key_keeps_it_in_the_tab_and_sends_it_in_a_header_alone(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    await worker.stop_claiming()
    await bury(valkey_url, worker.card.queue, "lost", prompt_tokens=3)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"ops": {"key": "of-the-operator", "admin": True}}))
    async with running_api(valkey_url, api_keys_file=str(keys)) as api, browser_tab() as tab:
        page = tab.page
        await page.goto(f"{api.base_url}/console")
        await page.wait_for_selector("#key-dialog[open]")
        await page.keyboard.type("of-the-operator")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#status[data-state=live]")
        await page.click("[aria-label='Retry request lost']")
        worker.go_on_claiming()
        await eventually(lambda: len(worker.claims) == 1)
        await tab.until("document.querySelectorAll('#letter-rows tr').length === 0")
        assert tab.complaints == []
        assert not any("of-the-operator" in request.url for request in tab.requests)
        events = [request for request in tab.requests if request.url.endswith("/console/events")]
        assert await events[0].header_value("authorization") == "Bearer of-the-operator"
        assert await page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 1]
        await page.click("#key")
        await page.wait_for_selector("#key-dialog[open]")
        assert await page.evaluate("sessionStorage.length") == 0


async def test_a_wrong_key_is_told_and_asked_for_again(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, api_keys="right") as api, browser_tab() as tab:
        await tab.page.goto(f"{api.base_url}/console")
        for key in ("wrong", "right"):
            await tab.page.wait_for_selector("#key-dialog[open]")
            await tab.page.fill("#key-input", key)
            await tab.page.press("#key-input", "Enter")
            if key == "wrong":
                await tab.page.wait_for_selector("#key-error:not(:empty)")
                assert await tab.page.inner_text("#key-error") == "The API key is not accepted."
        await tab.page.wait_for_selector("#status[data-state=live]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone_nothing_is_wider_than_the_screen_in_either_scheme(api: Api, scheme: str) -> None:
    await api.http.post(CHAT, json=HI)
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": scheme}
    async with browser_tab(**phone) as tab:
        page = await opened(tab, api)
        await page.wait_for_selector("#request-rows tr")
        assert await page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
        ground, text = await page.evaluate(
            "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))",
        )
        assert (_brightness(ground) < _brightness(text)) is (scheme == "dark")
        assert tab.complaints == []


async def test_it_works_below_the_prefix_of_a_proxy(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, root_path="/models") as api, browser_tab() as tab:
        await tab.page.goto(f"{api.base_url}/models/console")
        await tab.page.wait_for_selector("#status[data-state=live]")
        assert all(request.url.startswith(f"{api.base_url}/models/console") for request in tab.requests)
        assert tab.complaints == []


async def test_it_tells_when_the_node_has_gone_and_goes_on_trying(valkey_url: str, worker: ScriptedWorker) -> None:
    async with browser_tab() as tab:
        async with running_api(valkey_url) as api:
            page = await opened(tab, api)
        await page.wait_for_selector("#status[data-state=away]")
        assert "trying again" in await page.inner_text("#status")


async def test_it_comes_back_when_the_node_does(valkey_url: str, worker: ScriptedWorker) -> None:
    with fleet_on(valkey_url) as fleet:
        node = fleet.api()
        await asyncio.to_thread(node.wait_until_ready)
        async with browser_tab() as tab:
            await tab.page.goto(f"{node.url}/console")
            await tab.page.wait_for_selector("#status[data-state=live]")
            before = await tab.page.inner_text("#node")
            node.process.kill()
            await tab.page.wait_for_selector("#status[data-state=away]")
            fleet.api(port=node.port)
            await tab.page.wait_for_selector("#status[data-state=live]", timeout=30_000)
            await tab.until(f"document.querySelector('#node').textContent !== {json.dumps(before)}")
            await tab.until("document.querySelector('.workers tr') !== null")
            assert await tab.page.locator(".model").count() == 1


async def test_it_tells_that_redis_is_away_keeps_what_was_known_and_goes_on_afterwards(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        async with running_worker(redis.url) as worker, running_api(redis.url) as api, browser_tab() as tab:
            worker.figures = FIGURES
            page = await opened(tab, api)
            await tab.until("document.querySelector('.workers tr') !== null")
            redis.kill()
            await tab.until("document.querySelector('#status').textContent === 'Redis is away'")
            assert await page.locator(".model").count() == 1
            redis.start()
            await tab.until("document.querySelector('#status').textContent === 'live'")
            await tab.until("document.querySelector('.workers tr') !== null")
            assert tab.complaints == []


async def test_a_model_without_workers_is_marked_and_cannot_be_asked_in_the_playground(valkey_url: str) -> None:
    async with running_api(valkey_url) as api, browser_tab() as tab:
        async with running_worker(valkey_url):
            await eventually(lambda: _lists(api, "tiny"), 10)
            page = await opened(tab, api)
            await tab.until("document.querySelector('#model').options.length === 1")
            assert await page.locator(".down").is_hidden()
        await tab.until("document.querySelector('.down')?.hidden === false")
        assert await page.inner_text(".down") == "down: no worker of it is ready"
        assert await page.locator("#model option").count() == 0


async def _lists(api: Api, model: str) -> bool:
    return model in (await api.http.get("/v1/models")).text


def _brightness(color: str) -> float:
    return sum(float(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))
