"""The form that an answer must have, as clients ask for it: OpenAI's `response_format`, vLLM's `guided_*` and
`structured_outputs`, llama.cpp's `grammar` and `json_schema`, Ai00's `bnf_schema`."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, NamedTuple

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import WithJsonSchema

from wingbeat.sampling.constraint import MAX_CHOICES, Constraint, ConstraintKind
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.errors import bad_request, unsupported
from wingbeat.server.registry import ServedModel
from wingbeat.text.tools import is_tool_name

_GBNF_RULE = re.compile(r"^[ \t]*[A-Za-z][\w-]*[ \t]*::=", re.MULTILINE)


def _schema(value: Any) -> Any:
    if value is None or isinstance(value, dict | str):
        return None if value == "" else value
    raise ValueError("a JSON schema is wanted: an object, or its text")


def _grammar(value: Any) -> Any:
    return None if value == "" else value


def _choices(value: Any) -> Any:
    if value is None or value == []:
        return None
    if not (isinstance(value, list) and all(isinstance(text, str) and text for text in value)):
        raise ValueError("a list of texts is wanted, none of them empty")
    return value


def _name(value: Any) -> Any:
    """A validator of names as OpenAI allows them."""
    if isinstance(value, str) and not is_tool_name(value):
        raise ValueError("1 to 64 letters, digits, '_' and '-' are wanted")
    return value


Name = Annotated[str, BeforeValidator(_name), Field(json_schema_extra={"pattern": "^[a-zA-Z0-9_-]{1,64}$"})]

_OBJECT_OR_TEXT = {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}
_CHOICES = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_CHOICES}

JsonSchema = Annotated[dict[str, Any] | str | None, BeforeValidator(_schema), WithJsonSchema(_OBJECT_OR_TEXT)]
Grammar = Annotated[str | None, BeforeValidator(_grammar)]
Choices = Annotated[
    list[str] | None, BeforeValidator(_choices), WithJsonSchema({"anyOf": [_CHOICES, {"type": "null"}]})
]


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
        None, alias="schema", description="Beyond OpenAI. With type `json_object`: what the object is valid for."
    )

    def asked(self, param: str = "response_format") -> Asked | None:
        """What it asks for in the field `param`; None for a text. Raises ApiError (400)."""
        if self.type == "json_schema":
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


class StructuredOutputs(BaseModel):
    """vLLM's newer way to ask for a form; one of these."""

    model_config = ConfigDict(strict=True)

    json_: JsonSchema = Field(None, alias="json", description="As `guided_json`.")
    regex: Grammar = Field(None, description="As `guided_regex`.")
    choice: Choices = Field(None, description="As `guided_choice`.")
    grammar: Grammar = Field(None, description="As `guided_grammar`.")
    json_object: bool | None = Field(None, description="Any JSON object.")
    structural_tag: str | None = Field(None, description="Refused: not supported.", json_schema_extra={"type": "null"})


class Asked(NamedTuple):
    """A form that was asked for, and the field that did."""

    constraint: Constraint
    param: str


OneForm = "Beyond OpenAI. The form of the answer, of which a request has one: "


class ConstraintFields(BaseModel):
    """What a request may say of the form of its answers, but for `response_format`."""

    guided_json: JsonSchema = Field(
        None,
        description=OneForm + "JSON that is valid for this schema, an object or its text. It is written compactly.",
    )
    guided_regex: Grammar = Field(None, description=OneForm + "a text that the expression matches as a whole.")
    guided_choice: Choices = Field(None, description=OneForm + "one of these texts.")
    guided_grammar: Grammar = Field(
        None, description=OneForm + "a text of this grammar: Lark, or GBNF, whose rules have `::=`."
    )
    structured_outputs: StructuredOutputs | None = Field(None, description=OneForm + "one of the fields in here.")
    grammar: Grammar = Field(None, description=OneForm + "a text of this GBNF grammar, as of llama.cpp.")
    json_schema: JsonSchema = Field(None, description="As `guided_json`, by llama.cpp's name.")
    regex: Grammar = Field(None, description="As `guided_regex`, by SGLang's name.")
    ebnf: Grammar = Field(None, description="As `grammar`, by SGLang's name.")
    bnf_schema: Grammar = Field(None, description=OneForm + "a text of this kbnf grammar, as of Ai00.")

    def asked_form(self, more: Asked | None = None) -> Asked | None:
        """The form that is asked for, by these fields or by `more`. Raises ApiError (400) for several."""
        forms = [form for form in (more, *_by_field(self), *_by_structured_outputs(self.structured_outputs)) if form]
        if len(forms) > 1:
            first, second = forms[0].param, forms[1].param
            raise bad_request(f"{first} and {second} exclude each other: an answer has one form.", second)
        return forms[0] if forms else None


def _by_field(body: ConstraintFields) -> list[Asked | None]:
    return [
        _schema_asked(body.guided_json, "guided_json"),
        _asked("regex", body.guided_regex, "guided_regex"),
        _choice_asked(body.guided_choice, "guided_choice"),
        _grammar_asked(body.guided_grammar, "guided_grammar"),
        _asked("gbnf", body.grammar, "grammar"),
        _schema_asked(body.json_schema, "json_schema"),
        _asked("kbnf", body.bnf_schema, "bnf_schema"),
        _asked("regex", body.regex, "regex"),
        _asked("gbnf", body.ebnf, "ebnf"),
    ]


def _by_structured_outputs(outputs: StructuredOutputs | None) -> list[Asked | None]:
    if outputs is None:
        return []
    name = "structured_outputs"
    if outputs.structural_tag:
        raise unsupported(f"{name}.structural_tag", f"{name}.structural_tag")
    return [
        _schema_asked(outputs.json_, f"{name}.json"),
        _asked("regex", outputs.regex, f"{name}.regex"),
        _choice_asked(outputs.choice, f"{name}.choice"),
        _grammar_asked(outputs.grammar, f"{name}.grammar"),
        Asked(Constraint("json_object"), f"{name}.json_object") if outputs.json_object else None,
    ]


def _asked(kind: ConstraintKind, grammar: str | None, param: str) -> Asked | None:
    return None if grammar is None else Asked(Constraint(kind, grammar), param)


def _schema_asked(schema: dict[str, Any] | str | None, param: str) -> Asked | None:
    return _asked("json_schema", json_text(schema) if isinstance(schema, dict) else schema, param)


def _json_asked(schema: dict[str, Any] | None, param: str) -> Asked:
    return _schema_asked(schema, param) or Asked(Constraint("json_object"), param)


def _form(kind: str, schema: dict[str, Any] | None, param: str) -> Asked | None:
    """That of a `response_format` of this kind."""
    if kind not in ("text", "json_object", "json_schema"):
        raise unsupported(f"{param} of type {kind[:40]!r}", param)
    return None if kind == "text" else _json_asked(schema, param)


def _choice_asked(choices: list[str] | None, param: str) -> Asked | None:
    return _asked("choice", json_text(choices) if choices else None, param)


def _grammar_asked(grammar: str | None, param: str) -> Asked | None:
    """Rules of GBNF have `::=`, those of Lark a colon."""
    return _asked("gbnf" if grammar and _GBNF_RULE.search(grammar) else "lark", grammar, param)


def json_text(value: Any) -> str:
    """A value of a body as the JSON text that it was."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def constrained(sampling: SamplingParams, model: ServedModel, asked: Asked | None) -> SamplingParams:
    """The parameters with the form that was asked for, once it is known to be one. White space at the beginning is the
    form's own where that may begin so, and nothing comes before it. Raises ApiError (400, 503)."""
    if asked is None:
        return sampling
    if sampling.allowed_token_ids is not None:
        raise bad_request(f"allowed_token_ids: not together with {asked.param}.", "allowed_token_ids")
    constraint = asked.constraint
    if await model.compile(constraint, asked.param):
        constraint = msgspec.structs.replace(constraint, leading_white=False)
    return msgspec.structs.replace(sampling, constraint=constraint)
