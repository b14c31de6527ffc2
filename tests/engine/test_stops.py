"""How an answer ends and what of it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.helpers import answers, complete, drain, request, speller_engine
from wingbeat.engine.messages import RowOutput
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer


def spell(tokenizer: WorldTokenizer, *pieces: str | bytes, **sampling: Any) -> RowOutput:
    """The answer of a model that says these pieces, each tokenised alone, and then ends the text."""
    ids = [token for piece in pieces for token in tokenizer.encode(piece)]
    return complete(speller_engine(tokenizer, ids), [7], SamplingParams(**sampling))


def test_the_end_of_text(tokenizer: WorldTokenizer) -> None:
    answer = spell(tokenizer, "wing", "beat")
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("wingbeat", "stop", None)
    assert answer.token_ids == [*tokenizer.encode("wing"), *tokenizer.encode("beat"), 0]
    assert (answer.prompt_tokens, answer.completion_tokens) == (1, 3)


def test_the_end_of_text_may_be_ignored(tokenizer: WorldTokenizer) -> None:
    answer = spell(tokenizer, "wing", max_tokens=4, ignore_eos=True)
    assert (answer.text, answer.finish_reason, answer.token_ids[1:]) == ("wing", "length", [0, 0, 0])


def test_a_stop_id_is_counted_but_not_shown(tokenizer: WorldTokenizer) -> None:
    stop = tokenizer.encode("stop")[0]
    answer = spell(tokenizer, "wing", "stop", "beat", stop_token_ids=(stop,))
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("wing", "stop", stop)
    assert (answer.token_ids[-1], answer.completion_tokens) == (stop, 2)


@pytest.mark.parametrize(
    "pieces", [("so", "\n\nUs", "er", ": hi"), ("so\n", "\n", "U", "s", "e", "r", ":"), ("so\n\nUser: hi",)]
)
def test_a_stop_string_across_tokens_never_leaks(tokenizer: WorldTokenizer, pieces: tuple[str, ...]) -> None:
    answer = spell(tokenizer, *pieces, stop=("\n\nUser:", "\n\nBot:"))
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("so", "stop", "\n\nUser:")
    assert answer.completion_tokens == len(answer.token_ids)


def test_the_earliest_stop_wins_over_the_length(tokenizer: WorldTokenizer) -> None:
    assert spell(tokenizer, "a", "b", "c", stop=("c",), max_tokens=3).finish_reason == "stop"


@pytest.mark.parametrize("ending", [{"max_tokens": 2}, {"stop_token_ids": (100,)}, {}])
def test_half_a_stop_is_shown_when_the_answer_ends_otherwise(tokenizer: WorldTokenizer, ending: dict) -> None:
    tail = b"" if "max_tokens" in ending or not ending else tokenizer.token_bytes(100)
    answer = spell(tokenizer, "wing", "\n\n", tail, stop=("\n\nUser",), **ending)
    assert answer.text == "wing\n\n"


def test_characters_are_never_cut(tokenizer: WorldTokenizer) -> None:
    data = "界é".encode()
    engine = speller_engine(tokenizer, [byte + 1 for byte in data])
    engine.submit(request(engine, 1, [[7]], SamplingParams()))
    outputs = drain(engine)
    assert [o.text for o in outputs] == ["", "", "界", "", "é", ""]
    assert answers(outputs)[1, 0].text == "界é"


def test_half_a_character_at_the_end_is_a_replacement(tokenizer: WorldTokenizer) -> None:
    assert spell(tokenizer, "a", "界".encode()[:1]).text == "a\ufffd"


def test_logprobs_go_with_every_token(tokenizer: WorldTokenizer) -> None:
    answer = spell(tokenizer, "wing", "beat", logprobs=2)
    assert answer.logprobs is not None
    assert [entry.token for entry in answer.logprobs] == answer.token_ids
    assert all(entry.logprob == pytest.approx(0.0, abs=1e-3) for entry in answer.logprobs)
    assert all(len(entry.top) == 2 and entry.top[0][0] == entry.token for entry in answer.logprobs)
