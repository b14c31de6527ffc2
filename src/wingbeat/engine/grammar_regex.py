"""Regular expressions as users write them: what their short classes mean here, and what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wingbeat.sampling.constraint import ConstraintError

_CERTAIN = {"d": "0-9", "w": "0-9A-Za-z_", "s": r" \t\n\r\f\v"}
_POSSIBLE = {"d": r"\p{N}", "w": r"\p{L}\p{M}\p{N}\p{Pc}\p{Cf}", "s": r"\s\x1c-\x1f"}
_REASON = re.compile(r"^error: (.*)", re.MULTILINE)
_EXCERPT = re.compile(r"regex parse error:\n    .*\n    ( *)\^")
_AROUND = re.compile(r"lookarounds not supported yet; (\w+)")
_ANCHORS = {"Word": [r"\b", r"\B"], "Start": ["^", r"\A"], "End": ["$", r"\z"]}
_EXCERPT_LENGTH = 20
AROUND = r"\b, and ^ and $ but at the ends, look at what stands beside: that is not possible here"


def check_expression(expression: str) -> None:
    """Raises ConstraintError for what llguidance would misread."""
    if expression.endswith("\\") and len(expression.rstrip("\\")) % 2 != len(expression) % 2:
        raise ConstraintError(
            f"{_place(expression, len(expression) - 1)}: a \\ at the end stands for nothing; write \\\\"
        )


def with_certain_classes(expression: str) -> str:
    """``\\d``, ``\\w``, ``\\s`` as what every reader takes for such: libraries disagree beyond ASCII.

    Where they are excluded, it is all that any reader takes for such.
    """
    written, in_class, negated, at = "", False, False, 0
    while at < len(expression):
        piece = expression[at : at + 2] if expression[at] == "\\" else expression[at]
        at += len(piece)
        letter = piece[1:].lower()
        if len(piece) == 2 and letter in _CERTAIN:
            excluded = piece[1].isupper() or (in_class and negated)
            content = (_POSSIBLE if excluded and not (negated and piece[1].isupper()) else _CERTAIN)[letter]
            open_class = "[^" if piece[1].isupper() else "["
            written += content if in_class and piece[1].islower() else f"{open_class}{content}]"
            continue
        if piece == "[" and not in_class:
            in_class, negated = True, expression[at : at + 1] == "^"
            rest = expression[at + negated :]
            if rest.startswith("]"):  # the first one is a member
                piece, at = expression[at - 1 : at + negated + 1], at + negated + 1
        elif piece == "]":
            in_class = negated = False
        written += piece
    return written


def explain_expression(expression: str, error: str) -> str:
    """What llguidance says of an ``expression``, which it read as it is: the place in it, and the reason."""
    around = _AROUND.search(error)
    if around is not None:
        anchors = next((signs for name, signs in _ANCHORS.items() if around[1].startswith(name)), [])
        at = next((place for place, piece in _pieces(expression) if piece in anchors), 0)
        return f"{_place(expression, at)}: {AROUND}"
    reason, excerpt = _REASON.search(error), _EXCERPT.search(error)
    if reason is None:
        return "nothing matches this expression" if "empty" in error else first_line(error)
    if excerpt is None:
        return reason[1]
    at = _original(expression, len(excerpt[1]))
    found = expression[at : at + _EXCERPT_LENGTH]
    return f"{_place(expression, at)}: {reason[1]}{f' (at {found!r})' if found else ''}"


def _original(expression: str, column: int) -> int:
    """The place in the expression of a column of what llguidance shows, where a line end is ``\\n``."""
    at = 0
    while at < len(expression) and column > 0:
        column -= 2 if expression[at] == "\n" else 1
        at += 1
    return at


def _pieces(expression: str) -> Iterator[tuple[int, str]]:
    """Characters, and escaped ones, outside of classes, with their places; anchors at the ends are not among them."""
    at, in_class = 0, False
    while at < len(expression):
        piece = expression[at : at + 2] if expression[at] == "\\" else expression[at]
        in_class = (in_class or piece == "[") and piece != "]"
        at_end = (at == 0 and piece == "^") or (at + 1 == len(expression) and piece == "$")
        if not in_class and not at_end:
            yield at, piece
        at += len(piece)


def _place(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    return f"line {line}, column {at - (text.rfind(chr(10), 0, at) + 1) + 1}"


def last_reason(error: str) -> str:
    """The reason at the end of a long error about an expression, or its first line."""
    around, reason = _AROUND.search(error), _REASON.search(error)
    if around is not None:
        return AROUND
    return reason[1] if reason else first_line(error)


def first_line(text: str) -> str:
    """The first line of what a library says, without what only its authors understand."""
    line = text.strip().splitlines()[0][:300] if text.strip() else "it is not possible"
    return re.sub(r"\s*\(?\S*\.rs:\d+(:\d+)?\)?", "", line)
