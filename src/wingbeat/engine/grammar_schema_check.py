"""The mistakes in a JSON schema that are seen without compiling it: values of a wrong kind, bounds that exclude all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeGuard

from wingbeat.engine.grammar_places import LISTS, MAPS, Path, Schema, every, placed, within
from wingbeat.sampling.constraint import ConstraintError

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_COUNTED = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
COUNTS = tuple(key for pair in _COUNTED for key in pair)
FARTHEST = 10**18 - 1  # llguidance counts in 64 bits


def check(schema: Schema, text: str) -> None:
    """Raises ConstraintError naming the place in ``text``, which the schema was read from, and the reason."""
    for path, part in every(schema):
        for more, reason in _mistakes(part):
            raise ConstraintError(placed(text, (*path, *more), reason))


def _mistakes(part: Schema) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for key, value in part.items():
        rule = _RULES.get(key)
        reason = rule(value) if rule else None
        if reason:
            found.append(((key,), reason))
    inner = [(path, value) for path, value in within(part) if not isinstance(value, dict | bool)]
    found += [(path, f"must be a schema: an object, true or false, not {_shown(value)}") for path, value in inner]
    return found or _far(part) or _contradictions(part)


def _contradictions(part: Schema) -> list[tuple[Path, str]]:
    for low, high in (("minimum", "maximum"), *_COUNTED):
        least, most = part.get(low), part.get(high)
        if is_number(least) and is_number(most) and least > most:
            return [((low,), f"{_shown(least)} is more than the {high}, {_shown(most)}: nothing lies between")]
    return []


def _far(part: Schema) -> list[tuple[Path, str]]:
    """Bounds beyond which there are no numbers that a grammar can write."""
    for key, sign in (("minimum", 1), ("exclusiveMinimum", 1), ("maximum", -1), ("exclusiveMaximum", -1)):
        bound = part.get(key)
        if is_number(bound) and not bound * sign <= FARTHEST:
            return [((key,), "cannot be enforced: numbers have 18 digits at most")]
    return []


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _type(value: Any) -> str | None:
    kinds = value if isinstance(value, list) else [value]
    wrong = [kind for kind in kinds if kind not in TYPES] if kinds else [kinds]
    return f"must be one of {', '.join(TYPES)}, or a list of them, not {_shown(wrong[0])}" if wrong else None


def _names(value: Any) -> str | None:
    wrong = [value] if not isinstance(value, list) else [name for name in value if not isinstance(name, str)]
    return f"must be a list of the names of properties, not {_shown(wrong[0])}" if wrong else None


def _count(value: Any) -> str | None:
    if is_number(value) and value == value // 1 and 0 <= value <= FARTHEST:
        return None
    return f"must be a whole number, 0 or more, not {_shown(value)}"


def _number(value: Any) -> str | None:
    return None if is_number(value) else f"must be a number, not {_shown(value)}"


def _exclusive(value: Any) -> str | None:
    """A number; true and false, as in draft 4, concern the other bound."""
    return None if isinstance(value, bool) else _number(value)


def _step(value: Any) -> str | None:
    if is_number(value) and 0 < value <= FARTHEST:
        return None
    return f"must be a number above 0, not {_shown(value)}"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"must be a text, not {_shown(value)}"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {_shown(value)}"


def _options(value: Any) -> str | None:
    if isinstance(value, list) and value:
        return None
    return f"must be a list that is not empty, not {_shown(value)}"


def _all(value: Any) -> str | None:
    return None if isinstance(value, list) else f"must be a list of schemas, not {_shown(value)}"


def _members(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"must be an object of schemas, not {_shown(value)}"


_RULES: dict[str, Callable[[Any], str | None]] = {
    **dict.fromkeys(MAPS, _members),
    **dict.fromkeys(LISTS, _options),
    **dict.fromkeys(("allOf", "prefixItems"), _all),
    **dict.fromkeys(("minimum", "maximum"), _number),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _exclusive),
    **dict.fromkeys(COUNTS, _count),
    **dict.fromkeys(("pattern", "format", "$ref", "$id", "$anchor", "$schema"), _text),
    "type": _type,
    "enum": _options,
    "required": _names,
    "multipleOf": _step,
    "uniqueItems": _flag,
}
