"""The constraints under which a chat answers in a form, with calls of tools, or with either."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wingbeat.sampling.constraint import Constraint
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.tools import FENCE, calls_grammar


def in_chat(constraint: Constraint, answer: ReasoningSplitter) -> Constraint:
    """The form of such an answer of a chat: after the reasoning, and a space may come first."""
    before = answer.before_answer
    return msgspec.structs.replace(constraint, begins=before, required=bool(before), leading_white=answer.has_room)


def may_call(schemas: Mapping[str, object], most: int, answer: ReasoningSplitter) -> Constraint:
    """A free answer that may end with up to ``most`` calls of tools. ``schemas``: those of their arguments, prepared
    for a grammar, by the tools' names."""
    return Constraint("lark", calls_grammar(schemas, most, fenced=False), begins=FENCE, after=answer.before_answer)


def must_call(schemas: Mapping[str, object], most: int, answer: ReasoningSplitter, value: object = None) -> Constraint:
    """An answer that is 1 to ``most`` calls, likewise, or where there is a schema ``value``, a value of that."""
    return in_chat(Constraint("lark", calls_grammar(schemas, most, answer=value)), answer)
