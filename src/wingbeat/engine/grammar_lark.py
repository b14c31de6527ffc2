"""Lark grammars as llguidance takes them: the schemas in them, and the line of what is wrong with one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from wingbeat.engine.grammar_faults import NOTHING, TOO_BIG, Fault, explain_schema, is_too_big
from wingbeat.engine.grammar_regex import first_line, last_reason
from wingbeat.engine.grammar_schema import prepared
from wingbeat.sampling.constraint import ConstraintError

_JSON = re.compile(r"%json\b\s*")
_PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): (.*)", re.DOTALL)
_EXCERPT = re.compile(r"\n +\d+ \|.*", re.DOTALL)
_EXPRESSION = re.compile(r'^invalid regex "((?:[^"\\]|\\.)*)"')
_WANTED = re.compile(r'\s*\(at "?(.*?)"? \(.*\)\)\s*$', re.DOTALL)
_HEAD = re.compile(r"^[ \t]*[?!]?([a-z_][a-z0-9_]*)[ \t]*(?:\.\d+)?[ \t]*(?:\[[^\]\n]*\])?[ \t]*:", re.MULTILINE)
_NAMED = re.compile(r"['\"`@]([\w-]+)['\"`]?")
_SPECIAL = re.compile(r"<\|?[A-Za-z_][\w-]*\|?>")
_FAR_NUMBER = re.compile(r"(?<=[:,\[ ])-?(?:\d{19,}|\d[\d.]*[eE]\+?(?:1[89]|[2-9]\d|\d{3,}))")
"""In a grammar's ``%json``. llguidance counts in 64 bits, and dies of more."""
_values = json.JSONDecoder()


def from_lark(text: str) -> str:
    """The grammar, its schemas bounded, with each line where it was. Raises ConstraintError naming the line."""
    if far := _FAR_NUMBER.search(text):
        raise ConstraintError(f"line {_line(text, far.start())}: numbers of a schema have 18 digits at most")
    written, done = "", 0
    for begin, end, schema in _schemas(text):
        try:
            bounded = json.dumps(prepared(schema))
        except ConstraintError as error:
            raise ConstraintError(_on_line(text, begin, str(error))) from None
        lines = "\n" * text.count("\n", begin, end)
        written += text[done:begin] + bounded[0] + lines + bounded[1:]
        done = end
    return written + text[done:]


def explain_lark(text: str, error: str, fault: Fault, dead: Callable[[str], bool]) -> str:
    """llguidance's words in plainer ones. ``fault``: see there; ``dead``: whether nothing fits a grammar."""
    if error.startswith(NOTHING):
        line = _endless(text, dead)
        return f"line {line}: no text fits this grammar: a rule leads back to itself without an end, or excludes all"
    if "JSON schema" in error or '"%json"' in error:
        return _explain_json(text, fault) or f"line 1: {first_line(error)}"
    if error.startswith("panic") and (special := _SPECIAL.search(text)):
        return f"line {_line(text, special.start())}: the model has no special token {special[0]!r:.60}"
    place = _PLACE.match(error)
    if place is not None:
        reason = _EXCERPT.sub("", place[3]).strip()
        line, column = _expression_place(text, reason) or (place[1], place[2])
        return f"line {line}, column {column}: {_reason(reason)}"
    if "no start rule" in error:
        return "line 1: there is no rule 'start', with which a text begins"
    for name in _NAMED.findall(error):
        if found := re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            return f"line {_line(text, found.start())}: {first_line(error)}"
    return f"line 1: {TOO_BIG if is_too_big(error) else first_line(error)}"


def _expression_place(text: str, error: str) -> tuple[int, int] | None:
    """Where the expression stands that is no good: llguidance tells the beginning of its rule."""
    expression = _EXPRESSION.match(error)
    at = text.find("/" + expression[1].replace("\\\\", "\\") + "/") if expression else -1
    return None if at < 0 else (_line(text, at), at - text.rfind("\n", 0, at))


def _reason(error: str) -> str:
    if (expression := _EXPRESSION.match(error)) is not None:
        return f"the expression /{expression[1][:60]}/ is not possible: {last_reason(error)}"
    if error == "lexer error":
        return "what begins here is no name, text or expression (is a quote missing?)"
    wanted = _WANTED.search(error)
    if wanted is not None:
        found = "the end of the line" if wanted[1] == "\\n" else wanted[1].replace('\\"', '"')
        said = error[: wanted.start()].partition(", found")[0]
        said = "a name, a text or a group is wanted" if said == "Expected value" else first_line(said)
        return f"{said[:1].lower()}{said[1:]}, not {found}"
    return first_line(error)


def _schemas(text: str) -> Iterator[tuple[int, int, str]]:
    """Where the JSON objects after ``%json`` begin and end, and each of them on its lines."""
    for mark in _JSON.finditer(text):
        begin = mark.end()
        try:
            schema, end = _values.raw_decode(text, begin)
        except ValueError:
            continue  # llguidance says so, or it is part of a text
        if isinstance(schema, dict):
            yield begin, end, "\n" * text.count("\n", 0, begin) + text[begin:end]


def _explain_json(text: str, fault: Fault) -> str | None:
    for begin, _, schema in _schemas(text):
        bounded = prepared(schema)
        if isinstance(bounded, dict) and (error := fault(bounded)):
            said = explain_schema(schema, bounded, fault, error)
            return _on_line(text, begin, said)
    for mark in _JSON.finditer(text):
        try:
            _values.raw_decode(text, mark.end())
        except json.JSONDecodeError as error:
            return f"line {error.lineno}, column {error.colno}: a JSON schema is wanted: {error.msg}"
    return None


def _endless(text: str, dead: Callable[[str], bool]) -> int:
    """The line of a rule that nothing fits: one that no text can begin with."""
    heads = {found[1]: _line(text, found.start(1)) for found in _HEAD.finditer(text)}
    for name in reversed([name for name in heads if name != "start"]):
        if dead(re.sub(r"\bstart\b", "start_0", text) + f"\nstart: {name}\n"):
            return heads[name]
    return heads.get("start", 1)


def _on_line(text: str, at: int, said: str) -> str:
    return said if said.startswith("line ") else f"line {_line(text, at)}, {said}"


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
