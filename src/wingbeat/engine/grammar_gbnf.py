"""GBNF grammars, llama.cpp's, as Lark grammars for llguidance; and the line of what is wrong with one."""

from __future__ import annotations

import re

from llguidance.gbnf_to_lark import (
    AlternativeNode,
    ASTNode,
    GbnfToLarkError,
    GrammarParser,
    RepetitionNode,
    RuleNode,
    RuleRefNode,
    gbnf_to_lark,
)

from wingbeat.engine.grammar_regex import first_line, last_reason
from wingbeat.sampling.constraint import ConstraintError

_CODE = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_NAMED = re.compile(r"['\"`]([\w-]+)['\"`]")
_PLACE = re.compile(r"^at \d+\(\d+\): ")
_EXPRESSION = re.compile(r'invalid regex "((?:[^"\\]|\\.)*)"')


def from_gbnf(text: str) -> str:
    """The Lark grammar. Raises ConstraintError naming the line."""
    try:
        plain = _CODE.sub(_character, text)
        lark = gbnf_to_lark(plain)
        endless = _endless(GrammarParser().parse(plain))
    except GbnfToLarkError as error:
        raise ConstraintError(_misread(error)) from None
    except RecursionError:
        raise ConstraintError("line 1: the grammar is nested too deeply") from None
    except ConstraintError:
        raise
    except Exception as error:  # the converter meets what it does not expect
        raise ConstraintError(explain_gbnf(text, str(error))) from None
    if endless is not None:
        line = _defined(text, endless)
        raise ConstraintError(f"line {line}: the rule {endless!r} never ends: each way through it leads back to it")
    return lark


def explain_gbnf(text: str, error: str) -> str:
    """The words of the converter, or of llguidance on its grammar, with the line in what the user wrote."""
    if "No 'root' rule" in error:
        return "line 1: there is no rule 'root', with which a text begins"
    reason = last_reason(_PLACE.sub("", error))
    if (found := _EXPRESSION.search(error)) is not None:
        inner = found[1].replace("\\\\", "\\")
        return f"line {_line(text, max(0, text.find(inner)))}: {inner[:60]} is not possible: {reason}"
    for name in _NAMED.findall(error):
        if use := _word(name).search(text):
            missing = error.endswith("not found")
            return f"line {_line(text, use.start())}: {f'there is no rule {name!r}' if missing else reason}"
    return f"line 1: {first_line(reason)}"


def _character(code: re.Match[str]) -> str:
    """The character itself: the converter drops zeros that belong to its number."""
    number = int(code[2] or code[3], 16)
    if 0xD800 <= number < 0xE000 or number > 0x10FFFF:
        line = _line(code.string, code.start())
        raise ConstraintError(f"line {line}: {code[0][len(code[1]) :]} is no character")
    char = chr(number)
    return code[1] + (char if char.isalnum() and number > 0x7F else f"\\x{number:02x}" if number < 0x80 else char)


def _misread(error: GbnfToLarkError) -> str:
    text, at = error.pos.text, error.pos.pos
    at = min(at, len(text.rstrip()))
    found = text[at : at + 20].splitlines()
    reason = str(error).rsplit(" at line ", 1)[0]
    reason = reason[:1].lower() + reason[1:]
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    what = f", found {found[0]!r}" if found else ""
    return f"line {_line(text, at)}, column {column}: {reason}{what}"


def _endless(rules: dict[str, RuleNode]) -> str | None:
    """A rule that a text may come to and never leave."""
    ending: set[str] = set()
    while found := {name for name, rule in rules.items() if name not in ending and _ends(rule.alternatives, ending)}:
        ending |= found
    left, seen = ["root"], {"root"}
    while left:
        name = left.pop()
        used = _used(rules[name]) - seen
        if name not in ending and not (_used(rules[name]) - ending - seen):
            return name
        left += used
        seen |= used
    return next((name for name in rules if name in seen and name not in ending), None)


def _ends(node: ASTNode, ending: set[str]) -> bool:
    if isinstance(node, RuleRefNode):
        return node.name in ending
    if isinstance(node, RepetitionNode) and node.min_times == 0:
        return True
    each = (_ends(inner, ending) for inner in node.children())
    return any(each) if isinstance(node, AlternativeNode) else all(each)


def _used(node: ASTNode) -> set[str]:
    if isinstance(node, RuleRefNode):
        return {node.name}
    return set[str]().union(*(_used(inner) for inner in node.children()))


def _defined(text: str, name: str) -> int:
    found = re.search(rf"^[ \t]*{re.escape(name)}[ \t]*::=", text, re.MULTILINE)
    return _line(text, found.end() if found else 0)


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
