"""What form an answer must have: a grammar that holds for its text, from the first token on or after a mark."""

from __future__ import annotations

import json
import math
import re
from typing import Literal, get_args

import msgspec

ConstraintKind = Literal["json_schema", "json_object", "regex", "choice", "lark", "gbnf", "kbnf"]
KINDS: tuple[str, ...] = get_args(ConstraintKind)

MAX_GRAMMAR_LENGTH = 262_144
"""Characters of a grammar: the time to compile one grows with them."""

MAX_CHOICES = 2_000
MAX_BEGINS_LENGTH = 1000
MAX_WHITE_LENGTH = 200

_SPACE = r"(?:[ \t\n\r]|\\[tnrs])"
_WHITE = re.compile(rf"(?:{_SPACE}|\[{_SPACE}+\]|\(\?:|[()|?*+]|\{{[0-9]{{1,3}}(?:,[0-9]{{0,3}})?\}})*")


class ConstraintError(ValueError):
    """A constraint that cannot be used. The message says why, with the line where there is one."""


class Constraint(msgspec.Struct, frozen=True):
    """The form that an answer must have. Only tokens that can still lead to it are drawn."""

    kind: ConstraintKind
    """json_schema: JSON, written compactly, that is valid for the schema; json_object: any JSON object; regex: a text
    that the expression matches as a whole; choice: one of some texts; lark, gbnf, kbnf: a text of that grammar."""

    grammar: str = ""
    """The schema as JSON text, the expression, the choices as a JSON list of texts, or the grammar; "" for json_object.
    """

    begins: str = ""
    """The grammar holds from the end of this text on; what comes before it is free. "": from the first token on."""

    leading_white: bool = False
    """Up to two white-space characters may come before the grammar's text."""

    after: str = ""
    """``begins`` is looked for from the end of this text on, that of the reasoning, say. "": from the first token."""

    white: str = ""
    """For json_schema and json_object: an expression of the white space that may stand between the parts of the JSON,
    made of `` \\t\\n\\r\\s`` and of what says how often. "": none does."""

    required: bool = False
    """Nothing ends the answer before the grammar holds: neither the end of text nor a stop."""

    def check(self) -> None:
        """Look at what can be seen without compiling.

        Raises:
            ConstraintError: says what is wrong.
        """
        if self.kind not in KINDS:
            raise ConstraintError(f"constraint kind must be one of {', '.join(KINDS)}, not {self.kind!r:.100}")
        for name, value in (("grammar", self.grammar), ("begins", self.begins), ("after", self.after)):
            if not isinstance(value, str):
                raise ConstraintError(f"a constraint's {name} must be a text, not {value!r:.100}")
        if len(self.grammar) > MAX_GRAMMAR_LENGTH:
            raise ConstraintError(
                f"the {_word(self.kind)} has {len(self.grammar)} characters; at most {MAX_GRAMMAR_LENGTH} are taken"
            )
        _check_characters(self.grammar, f"the {_word(self.kind)}")
        for name, value in (("begins", self.begins), ("after", self.after)):
            if len(value) > MAX_BEGINS_LENGTH:
                raise ConstraintError(f"{name} must have at most {MAX_BEGINS_LENGTH} characters, not {len(value)}")
        if self.white:
            check_white(self.white)
            if self.kind not in ("json_schema", "json_object"):
                raise ConstraintError(f"white space between its parts is for JSON, not for a {_word(self.kind)}")
        if self.kind == "json_schema":
            _check_schema(self.grammar)
        elif self.kind == "choice":
            choices(self.grammar)
        elif self.kind != "json_object" and not (self.grammar if self.kind == "regex" else self.grammar.strip()):
            raise ConstraintError(f"the {_word(self.kind)} is empty")


def check_white(expression: str) -> None:
    """Raises ConstraintError for an expression that is not one of JSON's white space."""
    if len(expression) > MAX_WHITE_LENGTH:
        raise ConstraintError(f"the expression of white space must have at most {MAX_WHITE_LENGTH} characters")
    if not _WHITE.fullmatch(expression):
        raise ConstraintError(
            "the expression must match white space only: blanks, \\t, \\n, \\r and \\s, lists of them in [], "
            "groups in (), |, and ?, *, +, {m,n}"
        )
    try:
        re.compile(expression)
    except re.error as error:
        raise ConstraintError(f"the expression of white space is not possible: {error}") from None


def choices(grammar: str) -> list[str]:
    """The texts of a constraint of the kind "choice". Raises ConstraintError for what is no list of texts."""
    texts = _json(grammar, "the choices")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise ConstraintError("the choices must be a list of texts, none of them empty")
    for text in texts:
        _check_characters(text, "the choices")
    if len(texts) > MAX_CHOICES:
        raise ConstraintError(f"there are {len(texts)} choices; at most {MAX_CHOICES} are taken")
    return texts


def _check_schema(grammar: str) -> None:
    schema = _json(grammar, "the schema")
    if not isinstance(schema, dict | bool):
        raise ConstraintError("the schema must be a JSON object (or true)")
    if schema is False:
        raise ConstraintError("the schema false allows nothing")


def _check_characters(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise ConstraintError(f"line {line}: {name} has half a character: {text[error.start]!r}") from None


def _json(text: str, name: str) -> object:
    def refuse(constant: str) -> float:
        raise json.JSONDecodeError(f"{constant:.40} is no number of JSON", text, max(0, text.find(constant)))

    def number(digits: str) -> float:
        return value if math.isfinite(value := float(digits)) else refuse(digits)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConstraintError(f"{name} must be JSON: {error.msg} ({where})") from None
    except RecursionError:
        raise ConstraintError(f"{name} must be JSON, nested less deeply") from None
    except ValueError as error:
        raise ConstraintError(f"{name} must be JSON: {error}") from None


def _word(kind: str) -> str:
    return {"json_schema": "schema", "regex": "regular expression", "choice": "list of choices"}.get(kind, "grammar")
