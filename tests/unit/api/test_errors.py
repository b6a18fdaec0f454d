import json

import pytest

from headrace_api.errors import ANSWERS, MESSAGES_ANSWERS, error_body, error_response, status_of
from headrace_shared.errors import (
    ErrorCode,
    HeadraceError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    UnauthorizedError,
)
from headrace_shared.telemetry.context import request_scope

CHAT = {"path": "/v1/chat/completions"}
MESSAGES = {"path": "/v1/messages"}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_an_answer(code: ErrorCode) -> None:
    assert 400 <= ANSWERS[code].status < 600
    assert 400 <= MESSAGES_ANSWERS[code].status < 600
    assert status_of(HeadraceError("x", code=code)) == ANSWERS[code].status


def test_the_body_is_openais_nested_one() -> None:
    body = json.loads(bytes(error_response(InvalidRequestError("no", param="n"), CHAT).body))
    assert body == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "invalid_request"}
    }


def test_below_v1_messages_the_body_is_anthropics() -> None:
    with request_scope("abc"):
        response = error_response(OverloadedError("full"), MESSAGES)
    assert response.status_code == 529
    assert json.loads(bytes(response.body)) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "full"},
        "request_id": "abc",
    }
    behind_a_proxy = {"path": "/llm/v1/messages/count_tokens", "root_path": "/llm"}
    assert json.loads(bytes(error_response(OverloadedError("full"), behind_a_proxy).body))["type"] == "error"


def test_an_internal_error_shows_only_the_request_id() -> None:
    with request_scope("abc"):
        message = error_body(InternalError("/etc/secret: no such file")).error.message
    assert "secret" not in message
    assert "abc" in message


def test_overload_says_when_to_come_back_in_seconds_and_milliseconds() -> None:
    headers = error_response(OverloadedError("full", retry_after_s=1.2), CHAT).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1200")


def test_a_missing_key_is_challenged() -> None:
    assert error_response(UnauthorizedError("no"), CHAT).headers["www-authenticate"] == "Bearer"
