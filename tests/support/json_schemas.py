"""Two hundred JSON schemas as people write them, from one keyword to whole documents.

``CASES`` maps a name to a schema. All of them can be satisfied by short answers, and one of the
two backends at least enforces every keyword in them.
"""

import itertools
import json
from typing import Any

Schema = dict[str, Any]

SHORT: Schema = {"type": "string", "maxLength": 8}
INT: Schema = {"type": "integer", "minimum": -999, "maximum": 999}


def closed(
    properties: dict[str, Any], required: list[str] | None = None, defs: dict[str, Schema] | None = None
) -> Schema:
    """An object with just these properties; all of them required unless said otherwise."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **({"$defs": defs} if defs else {}),
    }


def _strings() -> dict[str, Schema]:
    lengths = {
        f"string of {low} to {high}": {"type": "string", "minLength": low, "maxLength": high}
        for low, high in ((0, 0), (0, 1), (1, 1), (2, 5), (3, 3), (0, 12), (4, 6))
    }
    patterns = {
        f"pattern {pattern}": {"type": "string", "pattern": pattern}
        for pattern in (
            "^a{1,3}$",
            "^[a-z]{2,6}$",
            "^[A-Z][a-z]{0,5}$",
            r"^\d{3}-\d{4}$",
            r"^\d{5}(-\d{4})?$",
            "^(yes|no|maybe)$",
            "^[^a-z]{1,4}$",
            r"^\+?[0-9]{3,8}$",
            r"^#[0-9a-fA-F]{6}$",
            r"^[a-z0-9]{1,5}@[a-z]{2,5}\.(com|org)$",
            r"^v\d\.\d\.\d$",
            "^(a|b)(c|d)$",
            "^x?y?z?$",
            r"^\w{1,4}$",
            r"^[\w.-]{1,5}$",
            "^.{1,3}$",
            r"^\S{2}$",
            "^[äöü]{1,3}$",
            "^[一-十]{1,2}$",
            r'^"q"$',
            r"^\\$",
            r"^a\nb$",
            "^(ab){2,3}$",
            "^[0-9]+(px|em)$",
            "^(?:GET|PUT) /[a-z]{1,4}$",
            "^[A-Z]{2}[0-9]{2}$",
        )
    }
    formats = {
        f"format {name}": {"type": "string", "format": name}
        for name in ("date", "time", "date-time", "duration", "email", "ipv4", "ipv6", "uuid", "hostname", "uri")
    }
    return {
        **lengths,
        **patterns,
        **formats,
        "pattern and length": {"type": "string", "pattern": "^[a-c]+$", "minLength": 2, "maxLength": 4},
        "format and length": {"type": "string", "format": "ipv4", "maxLength": 9},
        "content encoding": {"type": "string", "maxLength": 6, "contentEncoding": "base64"},
    }


def _numbers() -> dict[str, Schema]:
    ranges: list[Schema] = [
        {"minimum": 0, "maximum": 9},
        {"minimum": 5, "maximum": 123},
        {"minimum": -20, "maximum": -3},
        {"minimum": -5, "maximum": 1000},
        {"exclusiveMinimum": 0, "exclusiveMaximum": 100},
        {"minimum": 7, "maximum": 7},
        {"minimum": 1_000_000, "maximum": 2_000_000},
        {"minimum": 0, "exclusiveMaximum": 256},
        {"minimum": -1, "maximum": 1},
        {"exclusiveMinimum": -100, "maximum": 0},
    ]
    integers = {f"integer {json.dumps(each)}": {"type": "integer", **each} for each in ranges}
    numbers = {f"number {json.dumps(each)}": {"type": "number", **each} for each in ranges}
    fractions = {
        f"number {low} to {high}": {"type": "number", "minimum": low, "maximum": high}
        for low, high in ((0.5, 2.25), (-1.5, 1.5), (0.001, 0.01), (-273.15, 0))
    }
    multiples = {
        f"multiple of {step}": {"type": "integer", "multipleOf": step, "minimum": 0, "maximum": 500}
        for step in (2, 5, 10, 25, 100)
    }
    return {
        **integers,
        **numbers,
        **fractions,
        **multiples,
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    }


def _values() -> dict[str, Schema]:
    return {
        "boolean": {"type": "boolean"},
        "null": {"type": "null"},
        "const string": {"const": "fixed"},
        "const number": {"const": 42},
        "const null": {"const": None},
        "const object": {"const": {"a": [1, 2], "b": None}},
        "const with quotes": {"const": 'say "hi"\\ \n'},
        "const unicode": {"const": "naïve ☃ 🙂"},
        "enum of strings": {"enum": ["red", "green", "blue"]},
        "enum of one": {"enum": ["only"]},
        "enum mixed": {"enum": ["a", 1, 2.5, True, None]},
        "enum of objects": {"enum": [{"k": 1}, {"k": 2}, []]},
        "enum unicode": {"enum": ["größe", "日本", "a\tb", "\u0000x"]},
        "enum with prefixes": {"enum": ["a", "ab", "abc"]},
        "enum typed": {"type": "string", "enum": ["low", "high"]},
        "enum narrowed by its type": {"type": "string", "enum": ["low", 1]},
        "enum of integers": {"type": "integer", "enum": [1, 10, 100]},
        "type list": {"type": ["boolean", "null"]},
        "type list with limits": {"type": ["integer", "null"], "minimum": 0, "maximum": 50},
        "nullable string": {"type": ["string", "null"], "maxLength": 4},
        "annotated": {"title": "T", "description": "d", "default": 1, "examples": [2], "$comment": "c", **INT},
        "unknown keywords": {"x-order": 3, "nullable": True, "deprecated": True, **INT},
    }


def _arrays() -> dict[str, Schema]:
    sizes = {
        f"array of {low} to {high}": {"type": "array", "items": INT, "minItems": low, "maxItems": high}
        for low, high in ((0, 0), (0, 2), (1, 1), (2, 4), (3, 3))
    }
    items: dict[str, Schema] = {
        "strings": SHORT,
        "booleans": {"type": "boolean"},
        "enums": {"enum": ["x", "y"]},
        "arrays": {"type": "array", "items": INT, "maxItems": 2},
        "objects": closed({"id": INT}),
        "nulls": {"type": "null"},
        "alternatives": {"anyOf": [INT, {"type": "null"}]},
    }
    of = {f"array of {name}": {"type": "array", "items": each, "maxItems": 3} for name, each in items.items()}
    return {
        **sizes,
        **of,
        "tuple": {"type": "array", "prefixItems": [INT, SHORT], "items": False, "minItems": 2},
        "tuple of three": {"type": "array", "prefixItems": [INT, {"type": "boolean"}, {"const": "end"}], "items": False, "minItems": 3},
        "tuple with a tail": {"type": "array", "prefixItems": [INT], "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "matrix": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"type": "array", "items": INT, "minItems": 2, "maxItems": 2},
        },
    }  # fmt: skip


def _objects() -> dict[str, Schema]:
    pairs = {
        f"{len(wanted)} of three required: {' '.join(wanted) or 'none'}": closed(
            {"a": INT, "b": SHORT, "c": {"type": "boolean"}}, list(wanted)
        )
        for size in range(4)
        for wanted in itertools.combinations("abc", size)
    }
    names = {
        f"property named {name!r}": closed({name: INT})
        for name in ("with space", "naïve", "日本語", 'quo"te', "back\\slash", "$ref", "", "a.b/c~d", "🙂")
    }
    return {
        **pairs,
        **names,
        "empty object": {"type": "object", "properties": {}, "additionalProperties": False},
        "required in another order": closed({"z": INT, "a": INT}, ["a", "z"]),
        "nested": closed({"a": closed({"b": closed({"c": INT})})}),
        "nested optional": closed({"a": closed({"b": closed({"c": INT}, [])}, [])}, []),
        "object of arrays": closed({"xs": {"type": "array", "items": INT, "maxItems": 2}, "ys": {"type": "array", "items": SHORT, "maxItems": 2}}),
        "dictionary of integers": {"type": "object", "additionalProperties": INT, "maxProperties": 2},
        "named and others": {"type": "object", "properties": {"a": INT}, "required": ["a"], "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
        "pattern properties": {"type": "object", "patternProperties": {"^x[0-9]$": INT}, "additionalProperties": False, "maxProperties": 2},
        "required without a description": {"type": "object", "properties": {"a": INT}, "required": ["a", "b"], "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
        "forbidden property": closed({"a": False, "b": INT}, ["b"]),
        "ten properties": closed({f"p{number}": {"type": "boolean"} for number in range(10)}),
    }  # fmt: skip


def _combinations() -> dict[str, Schema]:
    cat = closed({"kind": {"const": "cat"}, "lives": INT})
    dog = closed({"kind": {"const": "dog"}, "good": {"type": "boolean"}})
    return {
        "any of types": {"anyOf": [INT, SHORT, {"type": "null"}]},
        "any of objects": {"anyOf": [cat, dog]},
        "any of nested": closed({"pet": {"anyOf": [cat, dog, {"type": "null"}]}}),
        "one of types": {"oneOf": [INT, SHORT]},
        "one of objects by tag": {"oneOf": [cat, dog]},
        "one of objects by tag in an array": {"type": "array", "items": {"oneOf": [cat, dog]}, "maxItems": 2},
        "all of one": {"allOf": [INT]},
        "all of bounds": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
        "all of objects": {
            "allOf": [
                {"type": "object", "properties": {"a": INT}, "required": ["a"]},
                {"type": "object", "properties": {"b": INT}, "required": ["b"]},
            ],
            "additionalProperties": False,
            "properties": {"a": True, "b": True},
        },
        "optional by any of": closed({"a": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}], "default": None}}, []),
        "properties beside any of": {"type": "object", "properties": {"a": INT, "b": INT}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "additionalProperties": False},
    }  # fmt: skip


def _references() -> dict[str, Schema]:
    node = closed(
        {"v": {"type": "boolean"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, ["v", "next"]
    )
    tree = closed(
        {"v": {"type": "boolean"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}}
    )
    return {
        "reference": {"$ref": "#/$defs/x", "$defs": {"x": INT}},
        "reference to definitions": {"$ref": "#/definitions/x", "definitions": {"x": SHORT}},
        "references in properties": closed({"a": {"$ref": "#/$defs/x"}, "b": {"$ref": "#/$defs/x"}}, defs={"x": INT}),
        "chain of references": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "boolean"}}},
        "reference with limits beside it": {"$ref": "#/$defs/x", "maximum": 5, "$defs": {"x": {"type": "integer", "minimum": 0}}},
        "reference with a description": closed({"a": {"$ref": "#/$defs/x", "description": "the x"}}, defs={"x": INT}),
        "escaped reference": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": INT}},
        "reference to a property": closed({"a": INT, "b": {"$ref": "#/properties/a"}}),
        "linked list": {"$ref": "#/$defs/node", "$defs": {"node": node}},
        "tree": {"$ref": "#/$defs/tree", "$defs": {"tree": tree}},
        "recursion by the root": closed({"v": {"type": "boolean"}, "child": {"$ref": "#"}}, ["v"]),
        "anchor": {"$ref": "#num", "$defs": {"x": {"$anchor": "num", **INT}}},
    }  # fmt: skip


def _documents() -> dict[str, Schema]:
    money = closed({"amount": {"type": "number", "minimum": 0, "maximum": 9999}, "currency": {"enum": ["EUR", "USD"]}})
    address = closed(
        {"street": SHORT, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}, "country": {"enum": ["DE", "FR"]}}
    )
    documents = {
        "person": closed({"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "email": {"type": "string", "format": "email", "maxLength": 14}}),
        "invoice": closed({"id": INT, "total": money, "lines": {"type": "array", "items": closed({"sku": SHORT, "price": money}), "minItems": 1, "maxItems": 2}}),
        "address": address,
        "customer": closed({"name": SHORT, "home": address, "work": {"anyOf": [address, {"type": "null"}]}}),
        "classification": closed({"label": {"enum": ["spam", "ham"]}, "score": {"type": "number", "minimum": 0, "maximum": 1}}),
        "entities": closed({"entities": {"type": "array", "maxItems": 2, "items": closed({"text": SHORT, "type": {"enum": ["PER", "LOC"]}})}}),
        "sql step": closed({"table": {"enum": ["users", "orders"]}, "columns": {"type": "array", "items": {"enum": ["id", "name"]}, "minItems": 1, "maxItems": 2}, "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": 100}}),
        "function call": closed({"name": {"const": "weather"}, "arguments": closed({"city": SHORT, "unit": {"enum": ["c", "f"]}}, ["city"])}),
        "chain of thought": closed({"steps": {"type": "array", "items": closed({"thought": SHORT}), "minItems": 1, "maxItems": 2}, "answer": INT}),
        "recipe": closed({"title": SHORT, "minutes": {"type": "integer", "minimum": 1, "maximum": 240}, "vegan": {"type": "boolean"}}),
        "event": closed({"when": {"type": "string", "format": "date-time"}, "what": SHORT}),
        "network": closed({"host": {"type": "string", "format": "ipv4"}, "port": {"type": "integer", "minimum": 1, "maximum": 65535}}),
        "geometry": {"oneOf": [closed({"type": {"const": "Point"}, "coordinates": {"type": "array", "items": INT, "minItems": 2, "maxItems": 2}}), closed({"type": {"const": "Empty"}})]},
        "pagination": closed({"page": INT, "next": {"type": ["string", "null"], "maxLength": 5}}),
        "settings": closed({"theme": {"enum": ["dark", "light"]}, "size": {"type": "integer", "multipleOf": 2, "minimum": 8, "maximum": 32}}, []),
        "review": closed({"stars": {"type": "integer", "minimum": 1, "maximum": 5}, "text": SHORT, "tags": {"type": "array", "items": {"enum": ["good", "bad"]}, "maxItems": 2}}),
        "draft 7 document": {"$schema": "http://json-schema.org/draft-07/schema#", **closed({"a": {"$ref": "#/definitions/n"}}),"definitions": {"n": INT}},
        "translation": closed({"de": SHORT, "fr": SHORT, "日本語": SHORT}),
    }  # fmt: skip
    wrapped = {
        f"list of {name}": {"type": "array", "items": each, "minItems": 1, "maxItems": 1}
        for name, each in documents.items()
        if "$schema" not in each
    }
    return {**documents, **wrapped}  # fmt: skip


CASES: dict[str, Schema] = {
    **_strings(),
    **_numbers(),
    **_values(),
    **_arrays(),
    **_objects(),
    **_combinations(),
    **_references(),
    **_documents(),
}
