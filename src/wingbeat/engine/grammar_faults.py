"""What is wrong with a JSON schema that llguidance refuses: the place, and a reason in plain words.

llguidance says why, but not where. So parts of the schema are put aside, one after the other, until it is content: the
last one is at fault, and in it the same is done again.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable
from typing import Any

from wingbeat.engine.grammar_places import Path, Schema, placed, within
from wingbeat.engine.grammar_regex import explain_expression, first_line

SEARCH_SECONDS = 1.0
NOTHING = "NoExtensionBias"
"""llguidance's word where nothing can be written."""

_KEYS = re.compile(r"Unimplemented keys: (\[.*?\])")
_POINTER = re.compile(r"Pointer '(.*)' does not exist")
_RESOURCE = re.compile(r"Resource '(?:json-schema:///)?(.*?)' is not present")
_TOO_BIG = re.compile(r"too (big|large|many|complex)|limit|fuel", re.IGNORECASE)
TOO_BIG = "it is too large: use shorter repetitions, shorter lists and simpler expressions"

Fault = Callable[[Schema], str]
"""What llguidance says against a schema; "" for nothing."""


def explain_schema(text: str, schema: Schema, fault: Fault, error: str) -> str:
    """``error`` is what ``fault`` says of ``schema``, which was made of the user's ``text``."""
    path, part = _search(copy.deepcopy(schema), fault, error)
    if error.startswith("oneOf"):  # it is about all of them
        path = path[: len(path) - path[::-1].index("oneOf")] if "oneOf" in path else path
    given = json.loads(text)
    while path and not _has(given, path):  # a part that was added to the user's
        path = path[:-1]
    return placed(text, path, _reason(path, part, error))


def _search(schema: Schema, fault: Fault, error: str) -> tuple[Path, Any]:
    """The smallest part at fault: the path to it, and what is there."""
    deadline = time.monotonic() + SEARCH_SECONDS

    def mended() -> bool:
        return fault(schema) != error

    path: Path = ()
    part: Any = schema
    while isinstance(part, dict):
        inner = _first(part, mended, deadline)
        if inner is None:
            break
        path, part = (*path, *inner[0]), inner[1]
    if isinstance(part, dict) and time.monotonic() < deadline:
        for key in sorted(part, key=lambda key: (key == "type", key)):  # other keywords say more
            value = part.pop(key)
            if mended():
                return (*path, key), value
    return path, part


def _first(part: Schema, mended: Callable[[], bool], deadline: float) -> tuple[Path, Any] | None:
    """Put schemas within aside until the fault is gone; the last of them comes back and is the one at fault.

    That may be the name of one, too, where it is an expression.
    """
    for name in list(part.get("patternProperties", ())):
        value = part["patternProperties"].pop(name)
        if mended():
            part["patternProperties"][name] = True
            at_name = not mended()
            part["patternProperties"][name] = value
            return ("patternProperties", name), name if at_name else value
    for path, value in list(within(part)):
        if time.monotonic() > deadline:
            return None
        holder: Any = part
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = path[0] != "oneOf"  # one that all fit would contradict the others
        if mended():
            holder[path[-1]] = value
            return path, value
    return None


def _has(given: Any, path: Path) -> bool:
    try:
        for step in path:
            given = given[step]
    except (LookupError, TypeError):
        return False
    return True


def _reason(path: Path, part: Any, error: str) -> str:
    if keys := _KEYS.search(error):
        names = json.loads(keys[1])
        return f"{'' if names == [*path[-1:]] else ', '.join(names) + ' '}cannot be enforced; leave it out"
    if found := _POINTER.search(error):
        return f"there is no {found[1]!r} in the schema"
    if found := _RESOURCE.search(error):
        return f"{found[1]!r} is not fetched; put it into the schema, under $defs, and refer to it by '#/$defs/...'"
    if error.startswith("oneOf"):
        return "it cannot be seen that only one of these is ever valid; use anyOf, or give each another const"
    if error.startswith(NOTHING) or "Unsatisfiable" in error:
        return "nothing can be valid for this" + _detail(error)
    if "regex" in error:
        return f"the expression is not possible: {explain_expression(part if isinstance(part, str) else '', error)}"
    if "digits" in error:
        return "the number has too many digits"
    if "recursion" in error:
        return "it is nested too deeply"
    return TOO_BIG if is_too_big(error) else first_line(error)


def is_too_big(error: str) -> bool:
    """Whether llguidance has come to one of its limits."""
    return _TOO_BIG.search(error) is not None


def _detail(error: str) -> str:
    _, found, detail = error.partition("Unsatisfiable schema: ")
    if not found:
        return ": it leads back to itself without an end, or matches no text"
    if detail.startswith("Regex is empty"):
        return ": no text has all that is asked of it"
    if "multiple of" in detail:
        return ": no multiple lies between the bounds"
    return f": {first_line(detail)}"
