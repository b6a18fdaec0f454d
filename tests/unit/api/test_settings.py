from pathlib import Path

import pytest
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
