"""Every answer that ends by itself is an instance of its schema."""

import datetime
import json
from collections import Counter

import jsonschema
import pytest
from constrained import ConstrainedEngine, spec_of
from json_schemas import CASES

from headrace_shared.errors import InvalidRequestError
from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.grammar import GrammarBackend

formats = jsonschema.FormatChecker()
GROUPS = 8
SEEDS = 2


@formats.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.date.fromisoformat(value[:10]) and _is_time(value[11:]))


@formats.checks("time", raises=ValueError)
def _is_time(value: object) -> bool:
    # A minute may have a leap second.
    return not isinstance(value, str) or bool(datetime.time.fromisoformat(value[:8].replace(":60", ":59")))


def test_there_are_two_hundred_schemas_for_both_backends() -> None:
    backends = Counter(spec_of(guided_json=schema).backend for schema in CASES.values())
    assert len(CASES) >= 200
    assert min(backends[GrammarBackend.AUTO], backends[GrammarBackend.GUIDANCE]) >= 40


@pytest.mark.parametrize("group", range(GROUPS))
def test_completed_answers_validate(engine: ConstrainedEngine, group: int) -> None:
    names = list(CASES)[group::GROUPS]
    asked = [
        engine.ask(f"{name}: ", grammar=spec_of(guided_json=CASES[name]), seed=seed)
        for name in names
        for seed in range(SEEDS)
    ]
    completed = 0
    for name, [answer] in zip([name for name in names for _ in range(SEEDS)], engine.run(asked), strict=True):
        if answer.finish_reason is FinishReason.STOP:
            completed += 1
            _check(name, answer.text)
    assert completed >= 0.9 * len(asked)


@pytest.mark.parametrize("backend", ["outlines", "lm-format-enforcer"])
def test_completed_answers_of_the_extras_validate_where_they_are_not_refused(
    engine: ConstrainedEngine, backend: str
) -> None:
    asked = []
    for name, schema in CASES.items():
        try:
            spec = spec_of(guided_json=schema, guided_decoding_backend=f"{backend}:disable-any-whitespace")
        except InvalidRequestError:
            continue
        asked.append((name, engine.ask(f"{name}: ", grammar=spec, seed=0)))
    assert len(asked) >= 50
    completed = 0
    for (name, _), [answer] in zip(asked, engine.run([one for _, one in asked]), strict=True):
        if answer.finish_reason is FinishReason.STOP:
            completed += 1
            _check(name, answer.text)
    assert completed >= 0.9 * len(asked)


def _check(name: str, text: str) -> None:
    validator = jsonschema.validators.validator_for(CASES[name], default=jsonschema.Draft202012Validator)
    try:
        validator(CASES[name], format_checker=formats).validate(json.loads(text))
    except (jsonschema.ValidationError, ValueError) as error:
        pytest.fail(f"{name}: {text!r}: {error}")
