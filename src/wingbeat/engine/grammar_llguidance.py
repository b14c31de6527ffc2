"""Constraints that llguidance runs: JSON schemas, expressions, choices, Lark and GBNF. For the grammar process."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import llguidance
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from wingbeat.engine.grammar_messages import Vocabulary
from wingbeat.engine.grammar_schema import prepared
from wingbeat.sampling.constraint import Constraint, ConstraintError, choices
from wingbeat.text.greedy import GreedyMatcher

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

COMPACT: JsonCompileOptions = {"whitespace_flexible": False}
"""No white space between the parts of JSON."""

LIMITS = llguidance.LLParserLimits(
    max_lexer_states=100_000, max_grammar_size=500_000, step_max_items=50_000, verbose_errors=False
)
_PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): (.*)", re.DOTALL)
_EXCERPT = re.compile(r"\n +\d+ \|.*", re.DOTALL)
_CERTAIN = {"d": "0-9", "w": "0-9A-Za-z_", "s": r" \t\n\r\f\v"}
_POSSIBLE = {"d": r"\p{N}", "w": r"\p{L}\p{M}\p{N}\p{Pc}\p{Cf}", "s": r"\s\x1c-\x1f"}
_GBNF_PLACE = re.compile(r"^(.*?) at line (\d+)\b", re.DOTALL)
_NAMED = re.compile(r"['\"`]([\w-]+)['\"`]")
_KEYS = re.compile(r"Unimplemented keys: (\[.*?\])")


class _Words:
    """What llguidance asks of a tokenizer. Forced texts become the longest tokens that fit, as World's do anyway."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.end_of_text
        self.special_token_ids = [vocabulary.end_of_text]
        self.tokens = vocabulary.tokens + [b""] * (32 * vocabulary.words - len(vocabulary.tokens))
        ids = {token: token_id for token_id, token in enumerate(self.tokens) if token and token_id}
        self._matcher = GreedyMatcher(ids)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._matcher.encode(text.encode() if isinstance(text, str) else text)


class Matcher:
    """One text under a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, words: int) -> None:
        self._matcher, self._words = matcher, words

    @property
    def complete(self) -> bool:
        """Whether the text is a whole one, and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def copy(self) -> Matcher:
        return Matcher(self._matcher.deep_copy(), self._words)

    def accept(self, token: int) -> None:
        """Raises ConstraintError when that is not possible, or takes too much."""
        if not self._matcher.consume_token(token):
            self._check()

    def mask(self) -> bytes:
        """The tokens that may follow, as uint32 words; the end of text is one of them where the text may end."""
        bits = self._matcher.compute_bitmask()[: 4 * self._words]
        self._check()
        return bits

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(_first_line(self._matcher.get_error()))


_FAR_NUMBER = re.compile(r"(?<=[:,\[ ])-?(?:\d{19,}|\d[\d.]*[eE]\+?(?:1[89]|[2-9]\d|\d{3,}))")
"""In a grammar's ``%json``. llguidance counts in 64 bits, and dies of more."""


class Compiler:
    """Makes matchers for a vocabulary. Lets other threads run meanwhile."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._words = vocabulary.words
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Words(vocabulary)),
            n_vocab=32 * vocabulary.words,
            eos_token=vocabulary.end_of_text,
        )

    def compile(self, constraint: Constraint) -> Matcher:
        """Raises ConstraintError."""
        grammar = _grammar(constraint)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise ConstraintError(_explain(constraint, matcher.get_error()))
        return Matcher(matcher, self._words)


def _grammar(constraint: Constraint) -> str:
    from_lark, text = llguidance.LLMatcher.grammar_from_lark, constraint.grammar
    match constraint.kind:
        case "json_schema":
            return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(prepared(text)), overrides=COMPACT)
        case "json_object":
            return llguidance.LLMatcher.grammar_from_json_schema('{"type":"object"}', overrides=COMPACT)
        case "regex":
            return from_lark(f"start: /{llguidance.regex_to_lark(_with_certain_classes(text), '')}/")
        case "choice":
            return from_lark("start: " + " | ".join(map(json.dumps, choices(text))))
        case "gbnf":
            return from_lark(_from_gbnf(text))
        case _:
            if far := _FAR_NUMBER.search(text):
                line = text.count("\n", 0, far.start()) + 1
                raise ConstraintError(f"line {line}: numbers of a schema have 18 digits at most")
            return from_lark(text)


def _with_certain_classes(expression: str) -> str:
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


def _from_gbnf(text: str) -> str:
    try:
        return gbnf_to_lark(text)
    except GbnfToLarkError as error:
        raise ConstraintError(_gbnf_error(text, str(error))) from None
    except RecursionError:
        raise ConstraintError("the grammar is nested too deeply") from None
    except Exception as error:  # the converter meets what it does not expect
        raise ConstraintError(_gbnf_error(text, str(error))) from None


def _gbnf_error(text: str, error: str) -> str:
    """The words of the converter or of llguidance, with the line in what the user wrote where that can be told."""
    place = _GBNF_PLACE.match(error)
    if place is not None:
        line = min(int(place[2]), text.rstrip().count("\n") + 1)  # the end is where the last line ends
        return f"line {line}: {place[1][:1].lower()}{place[1][1:]}"
    for name in _NAMED.findall(error):
        if found := re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
            return f"line {text.count(chr(10), 0, found.start()) + 1}: {_first_line(error)}"
    return f"the grammar is not GBNF: {_first_line(error)}"


def _explain(constraint: Constraint, error: str) -> str:
    """llguidance's words, with the line in what the user wrote."""
    if constraint.kind in ("json_schema", "json_object"):
        return _explain_schema(constraint.grammar, error)
    place = _PLACE.match(error)
    if place is None:
        return _first_line(error)
    reason = _EXCERPT.sub("", place[3]).strip()
    if constraint.kind == "regex":
        last = reason.rsplit("error: ", 1)[-1]
        return f"line 1: the regular expression is not possible: {_first_line(last)}"
    if constraint.kind == "gbnf":  # the place is one in the Lark grammar that was made of it
        return _gbnf_error(constraint.grammar, reason)
    return f"line {place[1]}, column {place[2]}: {_first_line(reason)}"


def _explain_schema(text: str, error: str) -> str:
    found = _KEYS.search(error)
    if found is None:
        return f"the schema is not possible: {_first_line(error.rsplit('error: ', 1)[-1])}"
    keys = json.loads(found[1])
    where = min((text.count("\n", 0, text.find(f'"{key}"')) + 1 for key in keys), default=1)
    return f"line {where}: the schema's {', '.join(keys)} cannot be enforced; leave it out"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "it is not possible"
