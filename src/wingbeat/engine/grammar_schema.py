"""What is done to a JSON schema before it is compiled: what is written under it shall come to an end.

A schema says nothing of how long a number may be, and by default an object may have any other members. A model that
is unsure could write digits or members for ever, so where the schema is silent:

- whole numbers lie within +-(2^53 - 1), which every reader of JSON takes;
- other numbers lie within +-1e15 and have six digits behind the point, or more where their bounds are narrow;
- times have up to six digits behind the second, and dates are those of the years 1000 to 9999;
- an object with ``properties`` has no others. Not in schemas that combine objects (``allOf`` and others beside
  ``properties``), where that would contradict.

All that makes is fewer texts: each of them is valid for the schema as it was. A ``format`` that is not known is an
annotation, as JSON Schema calls it, and left out.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal

from wingbeat.engine.grammar_places import Schema, every
from wingbeat.engine.grammar_regex import with_certain_classes
from wingbeat.engine.grammar_schema_check import COUNTS, FARTHEST, check, is_number

LARGEST_INTEGER = 2**53 - 1
LARGEST_NUMBER = 10**15
DIGITS = 6  # behind the point

_LEAP_YEAR = "([1-9][0-9](0[48]|[2468][048]|[13579][26])|(1[26]|[2468][048]|[3579][26])00)"
_DAY = "[0-9]{2}-([01][0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|[0-9]{2}-31"  # the format itself knows the other months
_DATE = f"([1-9][0-9]{{3}}-({_DAY})|{_LEAP_YEAR}-02-29)"
_TIME = "[0-9]{2}:[0-9]{2}:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
"""Beside the formats themselves: what every reader of them takes, without leap seconds."""

FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
"""Those that llguidance enforces."""

_COMBINING = ("anyOf", "oneOf", "allOf", "$ref")
_OPENING = {"additionalProperties", "patternProperties", "minProperties"}
_NEUTRAL = {"$defs", "definitions", "$schema", "$id", "title", "description", "default", "examples", "discriminator"}


def prepared(text: str) -> Schema | bool:
    """The schema, bounded. Raises ConstraintError naming the place of what is no schema."""
    schema = json.loads(text)
    if not isinstance(schema, dict):
        return schema
    check(schema, text)
    parts = [part for _, part in every(schema)]
    closing = not any(map(_combines, parts))
    for part in parts:
        _bound(part)
        if closing and "properties" in part and not part.keys() & _OPENING:
            for name in part.get("required", ()):
                part["properties"].setdefault(name, True)
            part["additionalProperties"] = False
    return schema


def _combines(schema: Schema) -> bool:
    """Whether several schemas hold for one value."""
    if "allOf" in schema or "unevaluatedProperties" in schema:
        return True
    return any(key in schema and schema.keys() - _NEUTRAL - {key} for key in _COMBINING)


def _keep_within(schema: Schema) -> None:
    """Put bounds that are possible in place of those beyond what numbers of a grammar may be."""
    for key, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(exclusive := schema.get(key), bool):  # as draft 4 had it
            del schema[key]
            if exclusive and bound in schema:
                schema[key] = schema.pop(bound)
    for key in ("minimum", "exclusiveMinimum"):
        if is_number(schema.get(key)):
            schema[key] = max(schema[key], -FARTHEST)
    for key in ("maximum", "exclusiveMaximum"):
        if is_number(schema.get(key)):
            schema[key] = min(schema[key], FARTHEST)


def _plain_words(schema: Schema) -> None:
    """Say in llguidance's words what it knows under others, and leave out what only comments on the schema."""
    if schema.get("uniqueItems") is False or schema.get("maxItems") in (0, 1):
        schema.pop("uniqueItems", None)
    if schema.get("format") not in FORMATS:
        schema.pop("format", None)
    if "json-schema.org/" not in schema.get("$schema", ""):
        schema.pop("$schema", None)
    if "pattern" in schema:
        schema["pattern"] = with_certain_classes(schema["pattern"])
    for key in COUNTS:
        if key in schema:
            schema[key] = int(schema[key])


def _bound(schema: Schema) -> None:
    _keep_within(schema)
    _plain_words(schema)
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if schema.keys() & {"enum", "const"}:
        return
    pattern = PATTERNS.get(str(schema.get("format")))
    if pattern is not None:
        schema.setdefault("pattern", pattern)
    if "number" in kinds:
        _bound_numbers(schema, LARGEST_NUMBER)
        if "multipleOf" not in schema:
            schema["multipleOf"] = _step(schema)
    elif "integer" in kinds:
        _bound_numbers(schema, LARGEST_INTEGER)
    _include_bounds(schema, schema.get("multipleOf", 1 if "integer" in kinds else None))


def _include_bounds(schema: Schema, step: object) -> None:
    """Put bounds that are possible themselves in place of exclusive ones, which do not go with ``multipleOf``."""
    if not is_number(step) or not step:
        return
    each = Decimal(str(step))
    lowest, highest = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if is_number(lowest):
        del schema["exclusiveMinimum"]
        bound = _plain((Decimal(str(lowest)) / each).to_integral_value("ROUND_FLOOR") * each + each)
        schema["minimum"] = max(bound, schema.get("minimum", bound))
    if is_number(highest):
        del schema["exclusiveMaximum"]
        bound = _plain((Decimal(str(highest)) / each).to_integral_value("ROUND_CEILING") * each - each)
        schema["maximum"] = min(bound, schema.get("maximum", bound))


def _plain(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _bound_numbers(schema: Schema, largest: int) -> None:
    given = [abs(schema[key]) for key in _BOUNDS if is_number(schema.get(key))]
    most = max([largest, *(min(10 * math.ceil(value), FARTHEST) for value in given if value > largest)])
    if not schema.keys() & {"minimum", "exclusiveMinimum"}:
        schema["minimum"] = -most
    if not schema.keys() & {"maximum", "exclusiveMaximum"}:
        schema["maximum"] = most


_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def _step(schema: Schema) -> float:
    """Between two numbers: a millionth, or finer where the bounds are narrow."""
    width = max(abs(schema[key]) for key in _BOUNDS if is_number(schema.get(key)))
    return 10.0 ** (min(0, math.floor(math.log10(width)) if width else 0) - DIGITS)
