"""Constraints that llguidance runs: JSON schemas, expressions, choices, Lark and GBNF. For the grammar process."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import llguidance

from wingbeat.engine.grammar_faults import NOTHING, TOO_BIG, explain_schema, is_too_big
from wingbeat.engine.grammar_gbnf import explain_gbnf, from_gbnf
from wingbeat.engine.grammar_lark import explain_lark, from_lark
from wingbeat.engine.grammar_messages import Vocabulary
from wingbeat.engine.grammar_places import Schema
from wingbeat.engine.grammar_regex import check_expression, explain_expression, first_line, with_certain_classes
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

    def reset(self) -> bool:
        """Not worth while: what it finds out for one text helps little with the next."""
        return False

    def _check(self) -> None:
        if self._matcher.is_error():
            error = self._matcher.get_error()
            if error.startswith(NOTHING):
                raise ConstraintError("the text can neither end nor go on: a rule leads back to itself without an end")
            raise ConstraintError(TOO_BIG if is_too_big(first_line(error)) else first_line(error))


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
        try:
            matcher, error = self._try(_grammar(constraint))
            if error:
                raise ConstraintError(self._explain(constraint, error))
        except RecursionError:
            raise ConstraintError("line 1: it is nested too deeply") from None
        except ConstraintError:
            raise
        except ValueError as refused:  # before llguidance has compiled anything
            raise ConstraintError(f"line 1: {first_line(str(refused))}") from None
        return Matcher(matcher, self._words)

    def _try(self, grammar: str) -> tuple[llguidance.LLMatcher, str]:
        """The matcher, and what is said against the grammar; "" for nothing."""
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # a grammar that nothing fits is noticed here
        return matcher, matcher.get_error().partition("\n<state>")[0]

    def _fault(self, schema: Schema) -> str:
        return self._try(_from_schema(json.dumps(schema)))[1]

    def _explain(self, constraint: Constraint, error: str) -> str:
        """What llguidance says, in plain words and with the place in what the user wrote."""
        text = constraint.grammar
        match constraint.kind:
            case "json_schema":
                schema = prepared(text)
                if isinstance(schema, dict):
                    return explain_schema(text, schema, self._fault, error)
                return first_line(error)
            case "regex":
                said = self._fault({"type": "string", "pattern": text}) or error
                said = explain_expression(text, said)
                return said if said.startswith("line ") else f"line 1: {said}"
            case "gbnf":
                return explain_gbnf(text, error)
            case "lark":
                return explain_lark(text, error, self._fault, self._is_dead)
            case _:
                return TOO_BIG if is_too_big(error) else first_line(error)

    def _is_dead(self, lark: str) -> bool:
        return self._try(llguidance.LLMatcher.grammar_from_lark(lark))[1].startswith(NOTHING)


def _grammar(constraint: Constraint) -> str:
    as_lark, text = llguidance.LLMatcher.grammar_from_lark, constraint.grammar
    match constraint.kind:
        case "json_schema":
            return _from_schema(json.dumps(prepared(text)), constraint.white)
        case "json_object":
            return _from_schema('{"type":"object"}', constraint.white)
        case "regex":
            check_expression(text)
            return as_lark(f"start: /{llguidance.regex_to_lark(with_certain_classes(text), '')}/")
        case "choice":
            return as_lark("start: " + " | ".join(map(json.dumps, choices(text))))
        case "gbnf":
            return as_lark(from_gbnf(text))
        case _:
            return as_lark(from_lark(text))


def _from_schema(schema: str, white: str = "") -> str:
    options: JsonCompileOptions = {**COMPACT, "whitespace_pattern": _json_white(white)} if white else COMPACT
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=options)


def _json_white(expression: str) -> str:
    """With ``\\s`` as the white space that JSON may have."""
    each = r" \t\n\r"
    return re.sub(
        r"\[[^]]*\]|\\s", lambda part: part[0].replace(r"\s", each if part[0][0] == "[" else f"[{each}]"), expression
    )
