"""Where something stands in a JSON schema: paths through it, as JSON pointers and as lines of its text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from wingbeat.sampling.constraint import ConstraintError

Path = tuple[str | int, ...]
Schema = dict[str, Any]

LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SINGLE = (
    *("items", "additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems"),
    *("contains", "propertyNames", "not", "if", "then", "else"),
)
DEEPEST = 120  # keys and places of a path; llguidance reads no deeper
_WHITE = " \t\r\n"
_values = json.JSONDecoder()


def within(schema: Schema) -> Iterator[tuple[Path, Any]]:
    """What should be a schema directly within this one, with the path to it."""
    for key, inner in schema.items():
        if key in LISTS or (key == "items" and isinstance(inner, list)):
            for index, part in enumerate(inner if isinstance(inner, list) else []):
                yield (key, index), part
        elif key in MAPS:
            for name, part in inner.items() if isinstance(inner, dict) else []:
                yield (key, name), part
        elif key in SINGLE:
            yield (key,), inner


def every(schema: Schema) -> Iterator[tuple[Path, Schema]]:
    """The schema and all within, those that are objects. Raises ConstraintError where they are nested too deeply."""
    left: list[tuple[Path, Schema]] = [((), schema)]
    while left:
        path, part = left.pop()
        if len(path) > DEEPEST:
            raise ConstraintError("the schema is nested too deeply")
        yield path, part
        inner = [((*path, *more), each) for more, each in within(part) if isinstance(each, dict)]
        left += reversed(inner)


def pointer(path: Path) -> str:
    """The path as RFC 6901 writes it; "" is the whole."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def placed(text: str, path: Path, reason: str) -> str:
    """The reason with its place: the line, where the text has several, and the pointer."""
    where = [f"line {line_of(text, path)}"] if "\n" in text else []
    if path:
        where.append(pointer(path)[:200])
    return f"{', '.join(where)}: {reason}" if where else f"the schema: {reason}"


def line_of(text: str, path: Path) -> int:
    """The line of what the path leads to: of a key, or of an item of a list."""
    at = _skip(text, 0)
    for part in path:
        found = _inside(text, at, part)
        if found is None:
            break
        place, at = found
        if part == path[-1]:
            return text.count("\n", 0, place) + 1
    return text.count("\n", 0, at) + 1


def _inside(text: str, at: int, part: str | int) -> tuple[int, int] | None:
    """Where the member or item is named, and where its value begins, in the object or list that begins at ``at``."""
    number, at = -1, at
    is_object = text[at] == "{"
    at = _skip(text, at + 1)
    while at < len(text) and text[at] not in "]}":
        place, number = at, number + 1
        key: str | int = number
        if is_object:
            key, at = _values.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # the colon
        if key == part:
            return place, at
        _, at = _values.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return None


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITE:
        at += 1
    return at
