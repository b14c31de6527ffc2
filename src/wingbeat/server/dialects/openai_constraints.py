"""The form that an answer must have, as clients ask for it beyond OpenAI: vLLM's `guided_*` and `structured_outputs`,
llama.cpp's `grammar` and `json_schema`, Ai00's `bnf_schema`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import WithJsonSchema

from wingbeat.sampling.constraint import MAX_CHOICES, MAX_WHITE_LENGTH, Constraint, check_white
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.openai_forms import Asked, asked_by, json_text, schema_asked_by
from wingbeat.server.errors import bad_request, unsupported
from wingbeat.server.registry import ServedModel

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


def _white(value: Any) -> Any:
    if isinstance(value, str) and value:
        check_white(value)
    return None if value == "" else value


_OBJECT_OR_TEXT = {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}
_CHOICES = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_CHOICES}

JsonSchema = Annotated[dict[str, Any] | str | None, BeforeValidator(_schema), WithJsonSchema(_OBJECT_OR_TEXT)]
Grammar = Annotated[str | None, BeforeValidator(_grammar)]
White = Annotated[Annotated[str, Field(max_length=MAX_WHITE_LENGTH)] | None, BeforeValidator(_white)]
Choices = Annotated[
    list[str] | None, BeforeValidator(_choices), WithJsonSchema({"anyOf": [_CHOICES, {"type": "null"}]})
]


class StructuredOutputs(BaseModel):
    """vLLM's newer way to ask for a form; one of these."""

    model_config = ConfigDict(strict=True)

    json_: JsonSchema = Field(None, alias="json", description="As `guided_json`.")
    regex: Grammar = Field(None, description="As `guided_regex`.")
    choice: Choices = Field(None, description="As `guided_choice`.")
    grammar: Grammar = Field(None, description="As `guided_grammar`.")
    json_object: bool | None = Field(None, description="Any JSON object.")
    whitespace_pattern: White = Field(None, description="As `guided_whitespace_pattern`.")
    disable_any_whitespace: bool | None = Field(
        None,
        description="Without effect: JSON has no white space but that of `whitespace_pattern`. True excludes that.",
    )
    disable_additional_properties: bool | None = Field(
        None, description="Without effect: an object with `properties` has no others unless its schema says so."
    )
    disable_fallback: bool | None = Field(None, description="Without effect.")
    structural_tag: Any = Field(None, description="Refused: not supported.", json_schema_extra={"type": "null"})


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
    guided_whitespace_pattern: White = Field(
        None,
        description="Beyond OpenAI. An expression of the white space that may stand between the parts of JSON, in an "
        "answer whose form is JSON. Default: none does.",
    )
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
        return _with_white(forms[0] if forms else None, self)


def _with_white(form: Asked | None, body: ConstraintFields) -> Asked | None:
    """The form with the white space that the body asks for. Raises ApiError (400)."""
    outputs, names = body.structured_outputs, ("guided_whitespace_pattern", "structured_outputs.whitespace_pattern")
    patterns = (body.guided_whitespace_pattern, outputs and outputs.whitespace_pattern)
    asked = [(name, pattern) for name, pattern in zip(names, patterns, strict=True) if pattern]
    if not asked:
        return form
    name, pattern = asked[0]
    if len(asked) > 1:
        raise bad_request(f"{' and '.join(names)} are two names of one thing; leave one out.", names[1])
    if outputs and outputs.disable_any_whitespace:
        raise bad_request(f"{name} and structured_outputs.disable_any_whitespace exclude each other.", name)
    if form is None or form.constraint.kind not in ("json_schema", "json_object"):
        raise bad_request(f"{name}: only an answer whose form is JSON has white space between its parts.", name)
    return form._replace(constraint=msgspec.structs.replace(form.constraint, white=pattern))


def _by_field(body: ConstraintFields) -> list[Asked | None]:
    return [
        schema_asked_by(body.guided_json, "guided_json"),
        asked_by("regex", body.guided_regex, "guided_regex"),
        _choice_asked(body.guided_choice, "guided_choice"),
        _grammar_asked(body.guided_grammar, "guided_grammar"),
        asked_by("gbnf", body.grammar, "grammar"),
        schema_asked_by(body.json_schema, "json_schema"),
        asked_by("kbnf", body.bnf_schema, "bnf_schema"),
        asked_by("regex", body.regex, "regex"),
        asked_by("gbnf", body.ebnf, "ebnf"),
    ]


def _by_structured_outputs(outputs: StructuredOutputs | None) -> list[Asked | None]:
    if outputs is None:
        return []
    name = "structured_outputs"
    if outputs.structural_tag:
        raise unsupported(f"{name}.structural_tag", f"{name}.structural_tag")
    return [
        schema_asked_by(outputs.json_, f"{name}.json"),
        asked_by("regex", outputs.regex, f"{name}.regex"),
        _choice_asked(outputs.choice, f"{name}.choice"),
        _grammar_asked(outputs.grammar, f"{name}.grammar"),
        Asked(Constraint("json_object"), f"{name}.json_object") if outputs.json_object else None,
    ]


def _choice_asked(choices: list[str] | None, param: str) -> Asked | None:
    return asked_by("choice", json_text(choices) if choices else None, param)


def _grammar_asked(grammar: str | None, param: str) -> Asked | None:
    """Rules of GBNF have `::=`, those of Lark a colon."""
    return asked_by("gbnf" if grammar and _GBNF_RULE.search(grammar) else "lark", grammar, param)


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
