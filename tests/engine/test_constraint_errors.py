"""What users read of a form that is no good: the place, and what to do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from wingbeat.engine.grammar_kbnf import Compiler as KbnfCompiler
from wingbeat.engine.grammar_llguidance import Compiler
from wingbeat.engine.grammar_messages import Vocabulary
from wingbeat.engine.grammar_schema import prepared
from wingbeat.sampling.constraint import Constraint, ConstraintError, ConstraintKind

VOCABULARY = Vocabulary([b"", *(bytes([byte]) for byte in range(256)), *([b""] * 31)], 0, 9)
TEXT = {"type": "string"}
OBJECT = {"type": "object"}

SCHEMAS: list[tuple[Any, str]] = [
    ({"type": "thing"}, '^/type: must be one of .*, not "thing"'),
    ({"properties": {"a": {"type": ["string", 5]}}}, "^/properties/a/type: .*not 5"),
    ({"properties": {"a/b": {"items": [{"type": []}]}}}, r"^/properties/a~1b/items/0/type: .*not \[\]"),
    ({"properties": {"a": 5}}, "^/properties/a: must be a schema"),
    ({"properties": []}, "^/properties: must be an object of schemas"),
    ({"required": "a"}, '^/required: must be a list of the names of properties, not "a"'),
    ({"properties": {"a": {**TEXT, "required": True}}}, "^/properties/a/required: .*not true"),
    ({"type": "integer", "minimum": "3"}, '^/minimum: must be a number, not "3"'),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "^/minimum: 5 is more than the maximum, 3"),
    ({"type": "integer", "minimum": 10**19}, "^/minimum: .*18 digits"),
    ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 3}, "no multiple lies between"),
    ({"type": "integer", "multipleOf": 0}, "^/multipleOf: must be a number above 0"),
    ({**TEXT, "minLength": -1}, "^/minLength: must be a whole number, 0 or more, not -1"),
    ({**TEXT, "pattern": 5}, "^/pattern: must be a text"),
    ({**TEXT, "pattern": "ab("}, r"^/pattern: .*column 3: unclosed group \(at '\('\)"),
    ({**TEXT, "pattern": r"a\b"}, r"^/pattern: .*column 2: \\b"),
    ({**TEXT, "pattern": "^a{3}$", "maxLength": 2}, "^/(pattern|maxLength): nothing can be valid.*no text"),
    ({"items": {**TEXT, "format": 5}}, "^/items/format: must be a text"),
    ({"patternProperties": {"a": {}, "b[": {}}}, r"^/patternProperties/b\[: .*unclosed character class"),
    ({"properties": {"a": {"not": {}}}}, "^/properties/a/not: cannot be enforced; leave it out$"),
    ({"properties": {"b": {"if": {}, "then": {}}}}, "^/properties/b/(if|then): if, then cannot be enforced"),
    ({"allOf": [{}, {"uniqueItems": True, "type": "array"}]}, "^/allOf/1/uniqueItems: cannot be enforced"),
    ({"properties": {"a": {"oneOf": [TEXT, TEXT]}}}, "^/properties/a/oneOf: .*use anyOf"),
    ({"anyOf": []}, "^/anyOf: must be a list that is not empty"),
    ({"anyOf": [{"enum": []}]}, "^/anyOf/0/enum: must be a list that is not empty"),
    ({**OBJECT, "properties": {"a": {"const": 1, **TEXT}}, "required": ["a"]}, "^/properties/a/const: nothing can be"),
    ({**OBJECT, "required": ["b"], "additionalProperties": False}, "^/additionalProperties: .*'b' is unsatisfiable"),
    ({"$ref": "#/$defs/a"}, r"^/\$ref: there is no '/\$defs/a' in the schema"),
    ({"items": {"$ref": "http://x.y/z"}}, r"^/items/\$ref: 'http://x.y/z' is not fetched"),
    ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, r"^/\$defs/a/\$ref: nothing can be valid"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {**TEXT, "pattern": "["}}}, r"^/\$defs/a/pattern: .*unclosed"),
]
OTHERS: list[tuple[ConstraintKind, str, str]] = [
    (
        "json_schema",
        '{"type": "object",\n "properties": {\n  "a": {"minimum": []}}}',
        "^line 3, /properties/a/minimum: ",
    ),
    (
        "json_schema",
        '{"properties": {"a": {},\n "b": {"type": "string",\n  "pattern": "["}}}',
        "^line 3, /properties/b/",
    ),
    ("json_schema", '{"type": "object"\n,,}', "line 2, column 2"),
    ("json_schema", '{"a": NaN}', "NaN is no number of JSON .line 1, column 7"),
    ("json_schema", '{"const": 1e999}', "1e999 is no number of JSON"),
    ("json_schema", '{"items": ' * 150 + "{}" + "}" * 150, "nested too deeply"),
    ("json_schema", '{"const": ' + "[" * 150 + "]" * 150 + "}", "line 1: recursion limit"),
    ("regex", "ab\n(c", "^line 2, column 1: unclosed group"),
    ("regex", "日本[z-a]", "^line 1, column 4: invalid character class range"),
    ("regex", "a\\", r"^line 1, column 2: a \\ at the end"),
    ("regex", r"x\b", r"^line 1, column 2: \\b"),
    ("regex", "a{3,1}", "^line 1, column 2: invalid repetition"),
    ("regex", r"[^\s\S]", "^line 1: nothing matches"),
    ("regex", "\ud800", "^line 1: the regular expression has half a character"),
    ("choice", '["a", "\\ud800"]', "half a character"),
    ("choice", '["a", ""]', "none of them empty"),
    ("gbnf", 'root ::= "a"\n  )', r"^line 2, column 3: expected name, found '\)'"),
    ("gbnf", 'root ::= "x', "^line 1, column 12: unexpected end of input$"),
    ("gbnf", 'root ::= x\nx ::= "a" y', "^line 2: there is no rule 'y'"),
    ("gbnf", 'x ::= "a"', "^line 1: there is no rule 'root'"),
    ("gbnf", 'root ::= "x" y\n\ny ::= "b" y', "^line 3: the rule 'y' never ends"),
    ("gbnf", 'root ::= "x" |\n  y\ny ::= [z-a]', "^line 3: .z-a. is not possible: invalid character class range"),
    ("gbnf", 'root ::= "a"{3,1}', "^line 1: range end must be >= start"),
    ("gbnf", 'root ::= "\\ud800"', r"^line 1: \\ud800 is no character"),
    ("lark", 'start: A\nA: "a" b', "^line 2, column .*unknown name"),
    ("lark", 'a: "a"', "^line 1: there is no rule 'start'"),
    ("lark", 'start: "b"\n  | /a(/', "^line 2, column 5: the expression /a.* is not possible: unclosed group"),
    ("lark", "start: (", r"^line 1, column 9: expected token '\)', not the end of the line"),
    ("lark", 'start: "a', "^line 1, column 10: .*is a quote missing"),
    ("lark", 'start: "x"\n | <|x|>', "^line 2: the model has no special token"),
    ("lark", 'start: a b\na: "x"\nb: "y"\n\nc: c', "^$"),
    ("lark", "start: a\n\na: b\nb: a", "^line (3|4): no text fits"),
    ("lark", '\nstart: "x" %json {"type": "string",\n"pattern": "("}', "^line 3, /pattern: .*unclosed group"),
    ("lark", 'start: "x"\n  %json {"type": "string"}', "^line 2, column 3: expecting rule, token or statement, not {"),
    ("lark", 'start: "x" |\n  %json {"type": "thing"}', "^line 2, /type: must be one of"),
    ("lark", 'start: %json {\n"type": }', "^line 2, column 9: a JSON schema is wanted"),
    ("kbnf", "start ::= 'a';\nb ::= c;", "^line 2: .*`c`"),
]


@pytest.fixture(scope="module")
def compilers() -> dict[str, Any]:
    return {"kbnf": KbnfCompiler(VOCABULARY), "": Compiler(VOCABULARY)}


def said(compilers: dict[str, Any], kind: ConstraintKind, text: str) -> str:
    """What is said against a constraint."""
    constraint = Constraint(kind, text)
    try:
        constraint.check()
        compilers.get(kind, compilers[""]).compile(constraint)
    except ConstraintError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("schema", "expected"), SCHEMAS, ids=lambda value: json.dumps(value)[:60])
def test_a_bad_schema(compilers: dict[str, Any], schema: Any, expected: str) -> None:
    assert re.search(expected, error := said(compilers, "json_schema", json.dumps(schema))), error


@pytest.mark.parametrize(("kind", "text", "expected"), OTHERS)
def test_other_bad_forms(compilers: dict[str, Any], kind: ConstraintKind, text: str, expected: str) -> None:
    error = said(compilers, kind, text)
    assert re.search(expected, error), error
    assert not re.search(r"\.rs\b|NoExtension|panic|coerce_one_of", error)


GOOD: list[Any] = [
    {**TEXT, "format": "zip code"},
    {"format": "int32", "type": "integer"},
    {"type": "object", "properties": {"a": {**TEXT, "format": "uri-reference"}}},
    {"$schema": "https://example.org/mine", **TEXT},
    {"type": "object", "properties": {"a": TEXT}, "required": ["a", "b"]},
    {**TEXT, "minLength": 2.0, "maxLength": 3.0},
    {"type": "array", "uniqueItems": True, "maxItems": 1},
    {"type": "number", "minimum": 3, "exclusiveMinimum": True, "maximum": 4},
    {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
]


@pytest.mark.parametrize("schema", GOOD, ids=json.dumps)
def test_schemas_that_may_look_bad(compilers: dict[str, Any], schema: Any) -> None:
    assert said(compilers, "json_schema", json.dumps(schema)) == ""
    assert said(compilers, "lark", f"start: %json {json.dumps(schema)}") == ""


def test_bounds_as_draft_4_has_them() -> None:
    schema = prepared(
        '{"type": "integer", "minimum": 3, "exclusiveMinimum": true, "maximum": 5, "exclusiveMaximum": false}'
    )
    assert schema == {"type": "integer", "minimum": 4, "maximum": 5}


def test_characters_of_gbnf_by_their_numbers(compilers: dict[str, Any]) -> None:
    matcher = compilers[""].compile(Constraint("gbnf", 'root ::= "\\u00e9\\u0022" [\\u00e0-\\u00ef]'))
    for byte in 'é"ä'.encode():
        matcher.accept(byte + 1)
    assert matcher.complete
