"""What is done to a JSON schema before it is compiled: what is written under it shall come to an end.

A schema says nothing of how long a number may be, and by default an object may have any other members. A model that
is unsure could write digits or members for ever, so where the schema is silent:

- whole numbers lie within +-(2^53 - 1), which every reader of JSON takes;
- other numbers lie within +-1e15 and have six digits behind the point, or more where their bounds are narrow;
- times have up to six digits behind the second, and dates are those of the years 1000 to 9999;
- an object with ``properties`` has no others. Not in schemas that combine objects (``allOf`` and others beside
  ``properties``), where that would contradict.

All that makes is fewer texts: each of them is valid for the schema as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from wingbeat.sampling.constraint import ConstraintError

LARGEST_INTEGER = 2**53 - 1
LARGEST_NUMBER = 10**15
FARTHEST = 10**18 - 1  # llguidance counts in 64 bits
DIGITS = 6  # behind the point

_LEAP_YEAR = "([1-9][0-9](0[48]|[2468][048]|[13579][26])|(1[26]|[2468][048]|[3579][26])00)"
_DAY = "[0-9]{2}-([01][0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|[0-9]{2}-31"  # the format itself knows the other months
_DATE = f"([1-9][0-9]{{3}}-({_DAY})|{_LEAP_YEAR}-02-29)"
_TIME = "[0-9]{2}:[0-9]{2}:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
"""Beside the formats themselves: what every reader of them takes, without leap seconds."""

Schema = dict[str, Any]
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SINGLE = ("items", "additionalProperties", "additionalItems", "unevaluatedProperties", "contains", "not", "if")
_COMBINING = ("anyOf", "oneOf", "allOf", "$ref")
_NEUTRAL = {"$defs", "definitions", "$schema", "$id", "title", "description", "default", "examples", "discriminator"}


def prepared(text: str) -> Schema | bool:
    """The schema, bounded. Raises ConstraintError for one that is nested too deeply."""
    schema = json.loads(text)
    if not isinstance(schema, dict):
        return schema
    try:
        every = list(_walk(schema))
        closing = not any(map(_combines, every))
        for part in every:
            _bound(part)
            if closing and "properties" in part and not part.keys() & {"additionalProperties", "patternProperties"}:
                part["additionalProperties"] = False
    except RecursionError:
        raise ConstraintError("the schema is nested too deeply") from None
    return schema


def _walk(schema: object) -> Iterator[Schema]:
    """The schema and all schemas within."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in _SINGLE:
        inner = schema.get(key)
        for part in inner if isinstance(inner, list) else [inner]:
            yield from _walk(part)
    for key in _LISTS:
        inner = schema.get(key)
        for part in inner if isinstance(inner, list) else []:
            yield from _walk(part)
    for key in _MAPS:
        inner = schema.get(key)
        for part in inner.values() if isinstance(inner, dict) else []:
            yield from _walk(part)


def _combines(schema: Schema) -> bool:
    """Whether several schemas hold for one value."""
    if "allOf" in schema or "unevaluatedProperties" in schema:
        return True
    return any(key in schema and schema.keys() - _NEUTRAL - {key} for key in _COMBINING)


def _keep_within(schema: Schema) -> None:
    """Put bounds that are possible in place of those beyond what numbers of a grammar may be."""
    for key in ("minimum", "exclusiveMinimum"):
        if _is_number(schema.get(key)):
            schema[key] = max(schema[key], -FARTHEST)
    for key in ("maximum", "exclusiveMaximum"):
        if _is_number(schema.get(key)):
            schema[key] = min(schema[key], FARTHEST)
    for key in _BOUNDS:
        if _is_number(schema.get(key)) and not -FARTHEST <= schema[key] <= FARTHEST:
            raise ConstraintError(f"the schema's {key} cannot be enforced: numbers have 18 digits at most")


def _bound(schema: Schema) -> None:
    _keep_within(schema)
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
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
    if not _is_number(step) or not step:
        return
    each = Decimal(str(step))
    lowest, highest = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if _is_number(lowest):
        del schema["exclusiveMinimum"]
        bound = _plain((Decimal(str(lowest)) / each).to_integral_value("ROUND_FLOOR") * each + each)
        schema["minimum"] = max(bound, schema.get("minimum", bound))
    if _is_number(highest):
        del schema["exclusiveMaximum"]
        bound = _plain((Decimal(str(highest)) / each).to_integral_value("ROUND_CEILING") * each - each)
        schema["maximum"] = min(bound, schema.get("maximum", bound))


def _plain(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _bound_numbers(schema: Schema, largest: int) -> None:
    given = [abs(schema[key]) for key in _BOUNDS if _is_number(schema.get(key))]
    most = max([largest, *(min(10 * math.ceil(value), FARTHEST) for value in given if value > largest)])
    if not schema.keys() & {"minimum", "exclusiveMinimum"}:
        schema["minimum"] = -most
    if not schema.keys() & {"maximum", "exclusiveMaximum"}:
        schema["maximum"] = most


_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def _step(schema: Schema) -> float:
    """Between two numbers: a millionth, or finer where the bounds are narrow."""
    width = max(abs(schema[key]) for key in _BOUNDS if _is_number(schema.get(key)))
    return 10.0 ** (min(0, math.floor(math.log10(width)) if width else 0) - DIGITS)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
