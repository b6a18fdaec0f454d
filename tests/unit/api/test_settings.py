import re
import subprocess
from pathlib import Path

import pytest
from certificates import authority
from pydantic import ValidationError

from headrace_api.settings import ApiSettings


def test_keys_are_split_at_commas_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_API_KEYS", "red, blue,,")
    settings = ApiSettings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["red", "blue"]
    assert "blue" not in repr(settings)


def test_the_environment_sets_every_field_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_API_PORT", "9")
    monkeypatch.setenv("HEADRACE_API_LOG_FORMAT", "json")
    settings = ApiSettings()
    assert (settings.port, settings.log_format) == (9, "json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"root_path": "x"},
        {"max_body_bytes": 1},
        {"colour": "red"},
        {"priority_min": 3, "priority_max": 1},
    ],
)
def test_a_wrong_setting_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ApiSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"uds": "api.sock", "port": 1}, "leave out host and port"),
        ({"ssl_keyfile": "k.pem"}, "ssl_keyfile: without ssl_certfile"),
        ({"ssl_ciphers": "HIGH"}, "ssl_ciphers: without ssl_certfile"),
        ({"enable_ssl_refresh": True}, "enable_ssl_refresh: without ssl_certfile"),
        ({"ssl_certfile": "none.pem"}, "no certificate with its unencrypted key in none.pem: No such file"),
        ({"ssl_certfile": "none.pem", "ssl_cert_reqs": 2}, "need each other"),
        ({"ssl_certfile": "none.pem", "ssl_ca_certs": "ca.pem"}, "need each other"),
        ({"allow_credentials": True}, "allow_credentials: without allowed_origins"),
        ({"allowed_methods": '["GET"]'}, "allowed_methods: without allowed_origins"),
        ({"allowed_origins": "[broken"}, "allowed_origins"),
        ({"webhook_hosts": "hooks.example.com"}, "without webhook_secret no webhook can be signed"),
        ({"webhook_url": "https://hooks.example.com/"}, "without webhook_secret no webhook can be signed"),
        ({"webhook_url": "hooks.example.com"}, "begins with https://"),
        ({"webhook_secret": "secret"}, "openssl rand"),
        ({"webhook_secret": "whsec_c2hvcnQ="}, "24 to 64 random bytes"),
        ({"webhook_secret": "whsec_not base64"}, "24 to 64 random bytes"),
        ({"webhook_hosts": "https://hooks.example.com/path"}, "hooks.example.com/path should be a host"),
        ({"webhook_hosts": "*"}, "* should be a host"),
        ({"webhook_hosts": "hooks.*.example.com"}, "should be a host"),
        ({"middleware": "Stamp"}, "package.module.name"),
        ({"middleware": "no_such_module.Stamp"}, "No module named 'no_such_module'"),
        ({"middleware": "own_middleware_examples.Other"}, "has no attribute 'Other'"),
        ({"middleware": "own_middleware_examples.NOT_MIDDLEWARE"}, "neither a class nor an async function"),
    ],
)
def test_settings_that_could_not_be_kept_are_refused_with_the_reason(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        ApiSettings(**wrong)  # type: ignore[arg-type]


def test_an_encrypted_key_is_refused_instead_of_asking_at_the_terminal(tmp_path: Path) -> None:
    made = authority(tmp_path, "red")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-in", made.key, "-aes256", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(ValidationError, match="unencrypted key"):
        ApiSettings(ssl_certfile=made.cert, ssl_keyfile=locked)


def test_a_root_path_loses_its_last_slash() -> None:
    assert ApiSettings(root_path="/llm/").root_path == "/llm"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "a name for each key"),
        ('{"ann": {}}', "Field required"),
        ('{"ann": {"key": "a", "requests_per_minute": 0}}', "greater than or equal to 1"),
        ('{"ann": {"key": "a", "priority_min": 2, "priority_max": 1}}', "priority_min is above priority_max"),
        ('{"ann": {"key": "a", "colour": "red"}}', "Extra inputs"),
    ],
)
def test_a_keys_file_that_is_wrong_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "keys.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValidationError, match=said):
        ApiSettings(api_keys_file=str(path))
