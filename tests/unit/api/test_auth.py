import pytest

from headrace_api.auth import ApiKeys


def test_no_keys_are_no_guard() -> None:
    assert not ApiKeys([])


@pytest.mark.parametrize(("key", "accepted"), [("a", True), ("b", True), ("", False), ("A", False), ("ab", False)])
def test_only_the_exact_keys_are_accepted(key: str, accepted: bool) -> None:
    assert ApiKeys(["a", "b"]).accepts(key) is accepted


def test_keys_are_kept_only_as_digests() -> None:
    assert b"secret" not in repr(vars(ApiKeys(["secret"]))).encode()
