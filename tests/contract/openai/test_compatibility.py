"""The rows of docs/compatibility against the running server, in both directions."""

import types
import typing
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import compatibility
import httpx
import pytest
from live_api import Api, running_api
from pydantic import BaseModel
from scripted_worker import ScriptedWorker
from starlette.routing import Route

from headrace_api.app import create_app
from headrace_api.openapi import REQUESTS
from headrace_api.routes import other_tasks
from headrace_api.schemas.anthropic import CountTokensRequest, MessagesRequest
from headrace_api.schemas.base import RequestModel
from headrace_api.schemas.batches import BatchRequest
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.chat_batch import ChatBatchRequest
from headrace_api.schemas.completions import CompletionRequest
from headrace_api.schemas.console import RetryDeadLetter
from headrace_api.schemas.responses import ResponsesRequest
from headrace_api.schemas.tokenize import DetokenizeRequest, TokenizeRequest
from headrace_api.settings import ApiSettings
from headrace_cli import flags
from headrace_cli.foreign_flags import FOREIGN_FLAGS

ROWS = "docs/compatibility"
Check = Callable[[Api, ScriptedWorker, str], Awaitable[bool]]
COMPARED = [model for model in REQUESTS if model is not RetryDeadLetter]
"""Bodies that other servers have too."""
ENDPOINTS: dict[type[RequestModel], tuple[str, dict[str, Any]]] = {
    ChatRequest: ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ChatBatchRequest: ("/v1/chat/completions/batch", {"messages": [[{"role": "user", "content": "hi"}]]}),
    CompletionRequest: ("/v1/completions", {"prompt": "hi"}),
    TokenizeRequest: ("/tokenize", {"prompt": "hi"}),
    DetokenizeRequest: ("/detokenize", {"tokens": [1]}),
    ResponsesRequest: ("/v1/responses", {"input": "hi"}),
    MessagesRequest: ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
    BatchRequest: ("/v1/batches", {"endpoint": "/v1/chat/completions", "completion_window": "24h"}),
    CountTokensRequest: ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "hi"}]}),
}
"""A request of each kind that is answered."""
ASKS: dict[str, object] = {}
"""Values that ask for something, of fields that refuse an object with another reason."""
VLLM_FLAGS = Path(__file__).parents[2] / "support" / "vllm_flags.txt"
"""Those of vLLM 0.8's server, by its documentation."""


def rows_of(model: type[RequestModel]) -> dict[str, str]:
    """Its fields' answers."""
    found: dict[str, str] = {}
    for table in compatibility.field_tables():
        if model.__name__ in table.requests:
            for answer, rows in table.rows.items():
                assert not rows.keys() & found.keys(), f"{model.__name__}: two rows for {rows.keys() & found.keys()}"
                found |= dict.fromkeys(rows, answer)
    return found


def fields_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Its fields, and those of the models inside them."""
    for name, field in model.model_fields.items():
        shown = path + (field.alias or name)
        yield shown
        for inner in models_in(field.annotation):
            yield from fields_of(inner, f"{shown}.")


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The annotation, when it is a model or a union with one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return [found for part in typing.get_args(annotation) for found in models_in(part)]
    return []


@pytest.mark.parametrize("model", COMPARED, ids=lambda model: model.__name__)
def test_every_field_of_a_body_has_a_row_that_says_what_becomes_of_it(model: type[RequestModel]) -> None:
    rows, fields = rows_of(model), set(fields_of(model))
    told = []
    for name in sorted(fields - rows.keys()):
        told.append(f"{name} has no row: add it to [honoured] of the file in {ROWS} that has {model.__name__}")
    for name in sorted(model.not_supported.keys() - rows.keys()):
        told.append(f"{name} has no row: add it to [refused] of the file in {ROWS} that has {model.__name__}")
    for name, answer in rows.items():
        if answer == "refused" and name not in model.not_supported:
            told.append(f"{name} is not refused any more: move its row in {ROWS} to [honoured]")
        if answer != "refused" and name not in fields:
            told.append(f"{name} is {answer} by its row in {ROWS}, and {model.__name__} has no such field")
    assert told == []


async def uploaded(api: Api, model: type[RequestModel]) -> dict[str, str]:
    """What a batch needs besides."""
    if model is not BatchRequest:
        return {}
    files, data = {"file": ("a.jsonl", b"x")}, {"purpose": "batch"}
    return {"input_file_id": (await api.http.post("/v1/files", files=files, data=data)).json()["id"]}


@pytest.mark.parametrize("model", COMPARED, ids=lambda model: model.__name__)
async def test_a_field_that_is_refused_gets_a_400_with_its_name(api: Api, model: type[RequestModel]) -> None:
    path, base = ENDPOINTS[model]
    base = base | await uploaded(api, model)
    for name in [name for name, answer in rows_of(model).items() if answer == "refused"]:
        response = await api.http.post(path, json=base | {name: ASKS.get(name, {"asked": True})})
        assert response.status_code == 400, name
        error = response.json()["error"]
        assert error.get("param", name) == name, name  # Anthropic's errors have none
        assert error["message"].startswith(f"{name}: "), name


@pytest.mark.parametrize("model", COMPARED, ids=lambda model: model.__name__)
async def test_a_field_with_a_row_is_never_called_unknown(api: Api, model: type[RequestModel]) -> None:
    path, base = ENDPOINTS[model]
    base = base | await uploaded(api, model)
    names = [name for name in rows_of(model) if "." not in name and name not in base]
    names = [name for name in names if name not in ("messages", "prompt")]
    response = await api.http.post(path, json=base | dict.fromkeys(names))
    assert response.status_code == 200, response.text
    assert "x-headrace-unknown-fields" not in response.headers


def test_every_path_has_a_row() -> None:
    switched_on: dict[str, Any] = {
        name: True
        for name, field in ApiSettings.model_fields.items()
        if field.annotation is bool and name.startswith("enable_") and name != "enable_ssl_refresh"
    }
    app = create_app(ApiSettings(**switched_on))
    rows = compatibility.table("endpoints").rows
    served = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    served |= {f"GET {route.path}" for route in app.routes if isinstance(route, Route)}
    refused = {f"POST {path}" for path in other_tasks.TASKS}
    assert served == set(rows["honoured"]), f"see [honoured] of {ROWS}/endpoints.toml"
    assert refused == set(rows["refused"]), f"see [refused] of {ROWS}/endpoints.toml"


async def test_paths_that_are_refused_or_not_there_are_answered_so(api: Api) -> None:
    rows = compatibility.table("endpoints").rows
    for answer, status in (("refused", 400), ("absent", 404)):
        for row in rows[answer]:
            method, path = row.split(" ")
            response = await api.http.request(method, path, json={"model": "tiny", "input": "hi"})
            assert response.status_code == status, row
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def _ask(api: Api, name: str, value: str, **more: str) -> httpx.Response:
    return await api.http.post("/v1/completions", json={"prompt": "hi"}, headers={name: value, **more})


async def _is_echoed(api: Api, worker: ScriptedWorker, name: str) -> bool:
    answer = await _ask(api, name, "mine")
    return answer.headers[name] == "mine" and answer.json()["id"].startswith("cmpl-mine-")


async def _travels(api: Api, worker: ScriptedWorker, name: str) -> bool:
    trace = "0af7651916cd43dd8448eb211c80319c"
    await _ask(api, "traceparent", f"00-{trace}-b7ad6b7169203331-01", tracestate="a=b")
    header = worker.jobs[-1].header
    return trace in (header.traceparent or "") if name == "traceparent" else header.tracestate == "a=b"


async def _is_replayed(api: Api, worker: ScriptedWorker, name: str) -> bool:
    first, second = [await _ask(api, name, "key") for _ in range(2)]
    return first.json() == second.json() and second.headers["x-headrace-idempotent-replay"] == "true"


async def _names_the_tenant(api: Api, worker: ScriptedWorker, name: str) -> bool:
    await _ask(api, name, "somebody")
    return "somebody" in worker.jobs[-1].header.tenant


async def _goes_on(api: Api, worker: ScriptedWorker, name: str) -> bool:
    request_id = (await _ask(api, "X-Request-Id", "mine")).headers["x-headrace-request-id"]
    path = f"/v1/requests/{request_id}/stream"
    whole, rest = (await api.http.get(path)).text, (await api.http.get(path, headers={name: "2"})).text
    return rest != whole and whole.endswith(rest)


def _refuses(value: str, status: int = 400) -> Check:
    async def refuses(api: Api, worker: ScriptedWorker, name: str) -> bool:
        return (await _ask(api, name, value)).status_code == status

    return refuses


HEADERS: dict[str, Check] = {
    "Content-Type": _refuses("text/plain", 415),
    "X-Request-Id": _is_echoed,
    "X-Vllm-Priority": _refuses("soon"),
    "traceparent": _travels,
    "tracestate": _travels,
    "Idempotency-Key": _is_replayed,
    "X-Request-Timeout": _refuses("soon"),
    "X-Headrace-Tenant": _names_the_tenant,
    "X-Headrace-On-Disconnect": _refuses("wait"),
    "Last-Event-ID": _goes_on,
}
"""How each header that is honoured shows itself; what it does in full is tested elsewhere."""
KEYS = {"Authorization": "Bearer ", "X-Api-Key": ""}
"""What stands before the key in each header that carries one."""


@pytest.mark.parametrize("name", HEADERS)
async def test_a_header_that_is_honoured_shows(api: Api, worker: ScriptedWorker, name: str) -> None:
    assert await HEADERS[name](api, worker, name)


@pytest.mark.parametrize("name", KEYS)
async def test_a_header_with_a_key_lets_in(valkey_url: str, worker: ScriptedWorker, name: str) -> None:
    async with running_api(valkey_url, api_keys="one") as api:
        answers = [await _ask(api, name, KEYS[name] + key) for key in ("other", "one")]
    assert [answer.status_code for answer in answers] == [401, 200]


async def test_headers_are_honoured_or_refused_by_name(api: Api) -> None:
    table = compatibility.table("headers")
    assert {*HEADERS, *KEYS} == set(table.rows["honoured"]), (
        f"see [honoured] of {ROWS}/headers.toml, and HEADERS and KEYS here"
    )
    source = "\n".join(path.read_text() for path in Path(str(other_tasks.__file__)).parents[1].rglob("*.py")).lower()
    for name in table.rows["answer"]:
        assert f'"{name.lower()}"' in source or f"{name.lower().replace('-', '_')}:" in source, name
    for name in table.rows["refused"]:
        response = await api.http.post("/v1/completions", json={"prompt": "hi"}, headers={name: "1"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    for name in table.rows["without_effect"]:
        response = await api.http.post("/v1/completions", json={"prompt": "hi"}, headers={name: "1"})
        assert response.status_code == 200, name


def test_every_option_of_another_server_has_a_row() -> None:
    groups, notes = compatibility.flag_groups()
    names = [name for _, group in groups for name in group]
    assert sorted({name for name in names if names.count(name) > 1}) == []
    missing = {flag.name for flag in FOREIGN_FLAGS if not flag.name.startswith("no-")} - set(names)
    assert missing == set(), f"add them to a group of {ROWS}/flags.toml"
    assert set(notes) <= set(names)


def test_every_option_of_vllm_is_honoured_refused_or_told_to_have_no_effect() -> None:
    known = {name for flag in flags.SERVE_FLAGS for name in (flag.name, *flag.also, *flag.negatives)}
    known |= {flag.name for flag in FOREIGN_FLAGS}
    groups, _ = compatibility.flag_groups()
    theirs = set(VLLM_FLAGS.read_text().split())
    assert len(theirs) == 150
    assert theirs - known == set()
    assert theirs - {"no-enable-prefix-caching", "no-use-tqdm-on-load"} <= {
        name for _, group in groups for name in group
    }
