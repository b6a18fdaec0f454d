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


@pytest.mark.parametrize("wrong", [{"port": 70000}, {"root_path": "x"}, {"max_body_bytes": 1}, {"colour": "red"}])
def test_a_wrong_setting_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ApiSettings(**wrong)  # type: ignore[arg-type]


def test_a_root_path_loses_its_last_slash() -> None:
    assert ApiSettings(root_path="/llm/").root_path == "/llm"
