"""The older dialect of Ai00's grammars, with names in angle brackets, put into that of kbnf.

``<name> ::= body`` begins a rule. A body has alternatives of quoted texts, ``<names>``, ``<any!>`` (any character) and
``<except!('text')>`` or ``<except!([name])>``: something without that text, or without all texts that ``name`` stands
for. A quoted text ends at the next quote of its kind. In it ``\\n \\t \\r \\xHH \\uHHHH`` are what they are elsewhere,
and any other escaped character is itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from wingbeat.sampling.constraint import ConstraintError

_TERM = re.compile(
    r"""\s*(?:
        (?P<head><(?P<defined>[^<>!()'"|\s]+)>\s*::=)
        | (?P<any><any!>)
        | <except!\(\s*(?:(?P<text>'[^']*'|"[^"]*")|\[\s*(?P<list>[^\[\]\s]+)\s*\])\s*\)>
        | <(?P<name>[^<>!()'"|\s]+)>
        | (?P<quoted>'[^']*'|"[^"]*")
        | (?P<bar>\|)
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}


class Term(NamedTuple):
    """A quoted text ("text"), a rule ("name"), any character ("any"), or what is not a text or a rule's texts
    ("except", "except_rule")."""

    kind: str
    value: str = ""


Rules = dict[str, list[list[Term]]]


def is_legacy(grammar: str) -> bool:
    """Whether the first rule's name is in angle brackets."""
    return grammar.lstrip().startswith("<")


def to_kbnf(grammar: str) -> str:
    """The same grammar for kbnf, each rule on the line that it had. Raises ConstraintError naming the line."""
    rules, lines = _parse(grammar)
    written = ""
    for name, alternatives in rules.items():
        written += "\n" * (lines[name] - 1 - written.count("\n"))
        body = " | ".join(" ".join(_write(term, rules) for term in terms) for terms in alternatives)
        written += f"{_name(name)} ::= {body}; "
    return written


def _parse(grammar: str) -> tuple[Rules, dict[str, int]]:
    rules: Rules = {}
    lines: dict[str, int] = {}
    alternatives: list[list[Term]] = []
    at, end = 0, len(grammar.rstrip())
    while at < end:
        found = _TERM.match(grammar, at)
        line = grammar.count("\n", 0, at + len(grammar[at:]) - len(grammar[at:].lstrip())) + 1 if found is None else 0
        if found is None:
            raise ConstraintError(f"line {line}: this is no part of a rule: {grammar[at:].strip()[:40]!r}")
        if found["head"]:
            line = grammar.count("\n", 0, found.start("head")) + 1
            lines.setdefault(found["defined"], line)
            alternatives = rules.setdefault(found["defined"], [])
            alternatives.append([])
        elif found["bar"]:
            alternatives.append([])
        else:
            alternatives[-1].append(_term(found, lambda at=at: grammar.count("\n", 0, at) + 1))
        at = found.end()
    for name, bodies in rules.items():
        if not all(bodies):
            raise ConstraintError(f"line {lines[name]}: an alternative of <{name}> is empty")
    return rules, lines


def _term(found: re.Match[str], line: Callable[[], int]) -> Term:
    if found["any"]:
        return Term("any")
    if found["name"]:
        return Term("name", found["name"])
    if found["list"]:
        return Term("except_rule", found["list"])
    kind, quoted = ("text", found["quoted"]) if found["quoted"] else ("except", found["text"])
    return Term(kind, _unescape(quoted[1:-1], line))


def _unescape(text: str, line: Callable[[], int]) -> str:
    def character(found: re.Match[str]) -> str:
        escape = found[1]
        if len(escape) == 1:
            return _CONTROL.get(escape, escape)
        code = int(escape[1:], 16)
        if escape[0] == "x" and code >= 0x80:
            raise ConstraintError(
                f"line {line()}: \\{escape} is no character; write it as \\u00{escape[1:]}, or itself"
            )
        if 0xD800 <= code < 0xE000:
            raise ConstraintError(f"line {line()}: \\{escape} is half a character")
        return chr(code)

    return _ESCAPE.sub(character, text)


def _write(term: Term, rules: Rules) -> str:
    match term.kind:
        case "text":
            return f'"{_escape(term.value)}"'
        case "name":
            return _name(term.value)
        case "any":
            return '#"(?s:.)"'
        case "except":
            return _without([term.value])
        case _:
            return _without(_texts(term.value, rules, (), {}))


def _without(texts: list[str]) -> str:
    if not all(texts):
        raise ConstraintError("except! needs texts that are not empty")
    if all(len(text) == 1 for text in texts):
        return f'#"[^{_escape("".join(map(re.escape, texts)))}]"'
    return f'#ex"{_escape("|".join(map(re.escape, texts)))}"'


def _texts(name: str, rules: Rules, within: tuple[str, ...], known: dict[str, list[str]]) -> list[str]:
    """The texts that a rule begins with. ``known``: those of rules that were looked at."""
    if name in known:
        return known[name]
    if name not in rules or name in within:
        raise ConstraintError(f"except!([{name}]): there is no rule <{name}> of texts")
    texts: list[str] = []
    for terms in rules[name]:
        if terms[0].kind == "name":
            texts += _texts(terms[0].value, rules, (*within, name), known)
            continue
        texts.append("")
        for term in terms:
            if term.kind != "text":
                break
            texts[-1] += term.value
    known[name] = list(dict.fromkeys(texts))
    return known[name]


def _escape(text: str) -> str:
    """For kbnf's double quotes."""
    return "".join(_escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else f"\\u{{{ord(char):x}}}"


def _name(name: str) -> str:
    """A name that kbnf takes."""
    plain = "".join(char if (char.isascii() and char.isalnum()) or char == "_" else f"_{ord(char):x}_" for char in name)
    return f"_{plain}" if plain[0].isdigit() else plain
