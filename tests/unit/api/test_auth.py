import pytest

from headrace_api.auth import ApiKeys
from headrace_api.settings import ApiSettings
from headrace_api.tenants import Caller, TenantLimits, tenant_of_key

ANN, BOB = (Caller.with_key(name, TenantLimits()) for name in ("ann", "bob"))


def test_no_keys_are_no_guard() -> None:
    assert not ApiKeys({})


@pytest.mark.parametrize(("key", "caller"), [("a", ANN), ("b", BOB), ("", None), ("A", None), ("ab", None)])
def test_only_the_exact_keys_are_accepted_each_for_its_owner(key: str, caller: Caller | None) -> None:
    assert ApiKeys({"a": ANN, "b": BOB}).caller(key) is caller


def test_keys_are_kept_only_as_digests() -> None:
    assert b"secret" not in repr(vars(ApiKeys({"secret": ANN}))).encode()


def test_a_named_key_has_its_own_limits_and_the_servers_where_it_says_nothing() -> None:
    settings = ApiSettings(
        api_keys="plain",
        api_keys_file={"ann": {"key": "hers", "requests_per_minute": 5, "priority_min": -1}},
        requests_per_minute=60,
        tokens_per_minute=1000,
    )
    keys = ApiKeys.of_settings(settings)
    assert keys.caller("hers") == Caller("ann", TenantLimits(5, 1000, -1, None), "ann")
    plain = tenant_of_key("plain")
    assert keys.caller("plain") == Caller(plain, TenantLimits(60, 1000), plain)
    assert "plain" not in plain
