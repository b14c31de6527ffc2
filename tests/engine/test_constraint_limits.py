"""Constraints that would take for ever, kill what runs them, or end without what was asked for."""

from __future__ import annotations

import json
import time

import pytest

from tests.engine.helpers import assert_empty, complete, speller_engine
from wingbeat.engine.grammar_legacy import to_kbnf
from wingbeat.engine.grammar_schema import FARTHEST, prepared
from wingbeat.llm import LLM
from wingbeat.sampling.constraint import Constraint, ConstraintError
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer


def test_rules_that_name_each_other_twice_are_looked_at_once() -> None:
    rules = [f"<r{i}> ::= <r{i + 1}> | <r{i + 1}>" for i in range(200)]
    grammar = "\n".join(["<start> ::= <except!([r0])>", *rules, "<r200> ::= 'ab'"])
    begun = time.process_time()
    assert '#ex\\"ab\\"' in json.dumps(to_kbnf(grammar))
    assert time.process_time() - begun < 60  # and not 2^200 steps


@pytest.mark.parametrize("bounds", [{"maximum": -1e19}, {"minimum": 1e19}, {"minimum": 2**63}, {"minimum": 1e999}])
def test_numbers_that_cannot_be_written_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ConstraintError, match="18 digits at most"):
        prepared(json.dumps({"type": "integer", **bounds}))


def test_bounds_of_64_bits_are_drawn_in() -> None:
    schema = prepared(json.dumps({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}))
    assert schema == {"type": "integer", "minimum": -FARTHEST, "maximum": FARTHEST}


def test_they_are_refused_in_a_grammar_too() -> None:
    with LLM() as llm:
        for schema in ('{"type":"integer","maximum":-1e19}', '{"type": "integer", "minimum": -9223372036854775807}'):
            with pytest.raises(ValueError, match="line 2: numbers of a schema have 18 digits at most"):
                llm.generate("x", SamplingParams(constraint=Constraint("lark", f"start: a\na: %json {schema}")))
        whole = Constraint("json_schema", '{"type":"integer","minimum":-9223372036854775808,"uniqueItems":false}')
        assert int(llm.generate("x", SamplingParams(constraint=whole, temperature=2, seed=1))[0].text) >= -FARTHEST


def test_nothing_ends_an_answer_before_the_grammar_that_it_must_have() -> None:
    constraint = Constraint("choice", '["xyz"]', begins="</think>", required=True)
    ending = {"stop": ("\n\n", "e"), "stop_token_ids": (11,), "logit_bias": {0: 60.0, 11: 40.0}}
    with LLM() as llm:
        cut = llm.generate("<think", SamplingParams(constraint=constraint, max_tokens=30, seed=1, **ending))[0]
        assert (cut.finish_reason, len(cut.token_ids)) == ("length", 30)
        assert not {0, 11} & set(cut.token_ids)
        begun = llm.generate(
            "<think>a</thin", SamplingParams(constraint=constraint, seed=1, bad_words=("q",), **ending)
        )
        assert begun[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize("begins", ["", ">"])
def test_stops_that_do_not_count_are_not_held_back_for_min_tokens(tokenizer: WorldTokenizer, begins: str) -> None:
    """Else each "a" would come only where nothing else may."""
    engine = speller_engine(tokenizer, [ord(">") + 1] + [0] * 20)
    a = ord("a") + 1
    wish = SamplingParams(
        constraint=Constraint("regex", "[ab]{8}", begins=begins),
        min_tokens=9,
        stop_token_ids=(a,),
        logit_bias={a: 40.0},
        seed=1,
        max_tokens=20,
    )
    answer = complete(engine, [5], wish)
    assert answer.text == begins + "a" * 8
    assert_empty(engine)
    engine.close()
