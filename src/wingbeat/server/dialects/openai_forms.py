"""OpenAI's `response_format`: a text, JSON, or JSON of a schema; and what a form is once it was asked for."""

from __future__ import annotations

import json
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from wingbeat.sampling.constraint import Constraint, ConstraintKind
from wingbeat.server.errors import bad_request, unsupported
from wingbeat.text.tools import is_tool_name


def _name(value: Any) -> Any:
    """A validator of names as OpenAI allows them."""
    if isinstance(value, str) and not is_tool_name(value):
        raise ValueError("1 to 64 letters, digits, '_' and '-' are wanted")
    return value


Name = Annotated[str, BeforeValidator(_name), Field(json_schema_extra={"pattern": "^[a-zA-Z0-9_-]{1,64}$"})]


class Asked(NamedTuple):
    """A form that was asked for, and the field that did."""

    constraint: Constraint
    param: str


class NamedSchema(BaseModel):
    """A JSON schema with a name, which changes nothing."""

    model_config = ConfigDict(strict=True)

    name: Name
    description: str | None = Field(None, description="Without effect: say in the messages what is wanted.")
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="Absent: any JSON object.")
    strict: bool | None = Field(None, description="Without effect: the answer always follows the schema.")


_KINDS: dict[str, Any] = {"enum": ["text", "json_object", "json_schema"]}


class ResponseFormat(BaseModel):
    """The form of the answer, as OpenAI's clients ask for it."""

    model_config = ConfigDict(strict=True)

    type: str = Field(description="`json_object`: any JSON object.", json_schema_extra=_KINDS)
    json_schema: NamedSchema | None = Field(None, description="With type `json_schema`: what the answer is valid for.")
    schema_: dict[str, Any] | None = Field(
        None,
        alias="schema",
        description="Beyond OpenAI, as of llama.cpp. With type `json_object`, or with type `json_schema` in the "
        "place of `json_schema`: what the answer is valid for.",
    )

    def asked(self, param: str = "response_format") -> Asked | None:
        """What it asks for in the field `param`; None for a text. Raises ApiError (400)."""
        if self.json_schema is not None and self.type != "json_schema":
            problem = f"{param}.json_schema: it goes with type 'json_schema', not with {self.type[:40]!r}."
            raise bad_request(problem, f"{param}.json_schema")
        if self.schema_ is not None and (self.json_schema is not None or self.type == "text"):
            raise bad_request(f"{param}.schema: a form has one schema, and a text none.", f"{param}.schema")
        if self.type == "json_schema" and self.schema_ is None:
            if self.json_schema is None:
                raise bad_request(f"{param}.json_schema: this field is required.", f"{param}.json_schema")
            return _form(self.type, self.json_schema.schema_, param)
        return _form(self.type, self.schema_, param)


class TextFormat(BaseModel):
    """The form of the answer, as clients of the Responses API ask for it."""

    model_config = ConfigDict(strict=True)

    type: str = Field(description="`json_object`: any JSON object.", json_schema_extra=_KINDS)
    name: Name | None = Field(None, description="With type `json_schema`: required.")
    description: str | None = Field(None, description="Without effect: say in the input what is wanted.")
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="What the answer is valid for.")
    strict: bool | None = Field(None, description="Without effect: the answer always follows the schema.")

    def asked(self, param: str) -> Asked | None:
        """As that of `ResponseFormat`."""
        if self.type == "json_schema" and self.name is None:
            raise bad_request(f"{param}.name: this field is required.", f"{param}.name")
        return _form(self.type, self.schema_, param)

    @property
    def given(self) -> dict[str, Any]:
        """As a response gives it back."""
        if self.type != "json_schema":
            return {"type": self.type}
        fields = {"name": self.name, "description": self.description, "schema": self.schema_ or {}}
        return {"type": self.type, **fields, "strict": self.strict is not False}


def asked_by(kind: ConstraintKind, grammar: str | None, param: str) -> Asked | None:
    return None if grammar is None else Asked(Constraint(kind, grammar), param)


def schema_asked_by(schema: dict[str, Any] | str | None, param: str) -> Asked | None:
    return asked_by("json_schema", json_text(schema) if isinstance(schema, dict) else schema, param)


def _json_asked(schema: dict[str, Any] | None, param: str) -> Asked:
    return schema_asked_by(schema, param) or Asked(Constraint("json_object"), param)


def _form(kind: str, schema: dict[str, Any] | None, param: str) -> Asked | None:
    """That of a `response_format` of this kind."""
    if kind not in ("text", "json_object", "json_schema"):
        raise unsupported(f"{param} of type {kind[:40]!r}", param)
    return None if kind == "text" else _json_asked(schema, param)


def json_text(value: Any) -> str:
    """A value of a body as the JSON text that it was."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
