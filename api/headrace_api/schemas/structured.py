"""The fields that ask for a form of the answer, in their three generations."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from headrace_api.schemas.base import JsonObject, Part, RequestModel
from headrace_api.schemas.problems import Problem


def _schema(value: object) -> object:
    if value is not None and not isinstance(value, dict | str):
        raise ValueError("should be a JSON schema, as an object or as its JSON text")
    return value


SchemaOrText = Annotated[
    Any, BeforeValidator(_schema), WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]})
]
Text = Annotated[str, Field(min_length=1)]
Choices = Annotated[list[Text], Field(min_length=1, max_length=4096)]


class NamedSchema(Part):
    """OpenAI's wrapper of a JSON schema. ``strict`` makes no difference: answers always follow it."""

    name: Text
    description: str | None = None
    schema_: Annotated[JsonObject, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Part):
    """OpenAI's field, and the structural tags that other servers added to it in two forms."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: NamedSchema | None = None
    format: JsonObject | None = None
    structures: list[JsonObject] | None = None
    triggers: list[str] | None = None

    def problems(self) -> list[Problem]:
        if self.type == "json_schema" and self.json_schema is None:
            return [Problem("response_format.json_schema", "is required with type json_schema")]
        if self.type == "structural_tag" and self.format is None and (self.structures is None or self.triggers is None):
            return [
                Problem("response_format.format", "is required with type structural_tag, or structures with triggers")
            ]
        return []


class StructuredOutputs(Part):
    """One object for every kind of constraint, of which it holds one, and its options."""

    json_: Annotated[SchemaOrText, Field(alias="json")] = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    json_object: bool | None = None
    structural_tag: SchemaOrText = None
    disable_any_whitespace: bool | None = False
    disable_additional_properties: bool | None = False
    whitespace_pattern: Text | None = None

    def kinds(self) -> list[str]:
        """The names of the constraints that it holds."""
        found = {
            "json": self.json_ is not None,
            "regex": self.regex is not None,
            "choice": self.choice is not None,
            "grammar": self.grammar is not None,
            "json_object": self.json_object is not None,
            "structural_tag": self.structural_tag is not None,
        }
        return [name for name, is_there in found.items() if is_there]

    def problems(self) -> list[Problem]:
        kinds = self.kinds()
        found = []
        if not kinds:
            names = "json, regex, choice, grammar, json_object or structural_tag"
            found.append(Problem("structured_outputs", f"should hold one of {names}"))
        if self.json_object is False:
            found.append(Problem("structured_outputs.json_object", "should be true or left out, got false"))
        return found


class StructuredRequest(RequestModel):
    """What chat and text completions can say of the form of their answers."""

    response_format: ResponseFormat | None = None
    guided_json: SchemaOrText = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
    guided_whitespace_pattern: Text | None = None
    guided_decoding_backend: Annotated[
        Text | None, Field(description="auto, xgrammar or guidance; options after a colon, separated by commas.")
    ] = None
    structured_outputs: StructuredOutputs | None = None

    def constraints(self) -> list[str]:
        """The paths of all constraints that are asked for; more than one contradict each other."""
        found = [
            name
            for name in ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
            if getattr(self, name) is not None
        ]
        if self.response_format is not None and self.response_format.type != "text":
            found.insert(0, "response_format")
        if self.structured_outputs is not None:
            found += [f"structured_outputs.{kind}" for kind in self.structured_outputs.kinds()]
        return found

    def conflicts(self) -> list[Problem]:
        found: list[Problem] = super().conflicts()
        if self.response_format is not None:
            found += self.response_format.problems()
        if self.structured_outputs is not None:
            found += self.structured_outputs.problems()
        first, *others = self.constraints() or [""]
        found += [Problem(other, f"cannot be combined with {first}; send one of them") for other in others]
        return found + self._whitespace_conflicts(first)

    @property
    def whitespace_pattern(self) -> tuple[str, str] | None:
        """Parameter and pattern for the blanks of a JSON answer."""
        if self.guided_whitespace_pattern is not None:
            return "guided_whitespace_pattern", self.guided_whitespace_pattern
        if self.structured_outputs is not None and self.structured_outputs.whitespace_pattern is not None:
            return "structured_outputs.whitespace_pattern", self.structured_outputs.whitespace_pattern
        return None

    def _whitespace_conflicts(self, constraint: str) -> list[Problem]:
        if self.whitespace_pattern is None:
            return []
        name, _ = self.whitespace_pattern
        found = []
        if not self._asks_for_json(constraint):
            found.append(Problem(name, "is only allowed with a JSON schema or a JSON object"))
        if self.structured_outputs is not None and self.structured_outputs.disable_any_whitespace:
            found.append(Problem(name, "cannot be combined with structured_outputs.disable_any_whitespace"))
        return found

    def _asks_for_json(self, constraint: str) -> bool:
        if constraint == "response_format" and self.response_format is not None:
            return self.response_format.type != "structural_tag"
        return constraint in ("guided_json", "structured_outputs.json", "structured_outputs.json_object")
