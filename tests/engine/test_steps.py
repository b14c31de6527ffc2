"""What the engine does step by step, on a stand-in model whose words are known."""

from __future__ import annotations

import pytest

from tests.engine.helpers import Speller, answers, assert_empty, drain, request, speller_engine, stand_in
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, RowOutput
from wingbeat.ops.table import FloatArray, StepBatch
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer

LONG = SamplingParams(max_tokens=50, ignore_eos=True)


def tokens_of(outputs: list[RowOutput], request_id: int) -> int:
    return sum(len(o.token_ids) for o in outputs if o.request == request_id)


def rows_of_steps(engine: Engine) -> list[int]:
    executable = engine.model.executable
    assert isinstance(executable, Speller)
    return [len(batch.tokens) for batch in executable.batches]


def test_a_long_prompt_never_stalls_decoding(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100, max_batch=4, token_budget=20)
    engine.submit(request(engine, 1, [[7]], LONG))
    engine.step()
    engine.submit(request(engine, 2, [[7] * 95], LONG))
    steps = [engine.step().rows for _ in range(5)]
    assert [tokens_of(rows, 1) for rows in steps] == [1] * 5
    assert [tokens_of(rows, 2) for rows in steps] == [0] * 4 + [1]  # 95 tokens in five chunks of 19
    assert rows_of_steps(engine) == [1, 20, 20, 20, 20, 20]


def test_short_prompts_share_a_step_in_order_of_arrival(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100, max_batch=4, token_budget=16)
    for i, length in enumerate([6, 6, 6]):
        engine.submit(request(engine, i, [[7] * length], LONG))
    assert {o.request for o in engine.step().rows} == {0, 1}
    assert {o.request for o in engine.step().rows} == {0, 1, 2}
    assert rows_of_steps(engine) == [16, 2 + 2]


def test_a_short_prompt_does_not_wait_for_a_long_one(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100_000, max_batch=4, token_budget=64)
    engine.submit(request(engine, 1, [[7] * 20_000], LONG))
    engine.step()
    engine.submit(request(engine, 2, [[7] * 20], LONG))
    steps = [engine.step().rows for _ in range(2)]
    assert tokens_of(steps[0] + steps[1], 2) >= 1
    assert rows_of_steps(engine) == [64, 64, 64]


def test_prompts_are_read_even_when_decoding_fills_the_budget(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100, max_batch=8, token_budget=2)
    engine.submit(request(engine, 1, [[7], [8], [9], [10]], LONG))
    engine.step()
    engine.submit(request(engine, 2, [[7] * 12], LONG))
    assert tokens_of(engine.step().rows, 2) == 1


def test_a_request_larger_than_the_batch_flows_through_in_order(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100, max_batch=2)
    engine.submit(request(engine, 1, [[7 + i] for i in range(7)], SamplingParams(max_tokens=3)))
    engine.submit(request(engine, 2, [[7]], SamplingParams(max_tokens=3)))
    assert engine.step().stats.waiting == 6
    outputs = drain(engine)
    assert [(o.request, o.row) for o in outputs if o.finish_reason] == [*((1, row) for row in range(7)), (2, 0)]
    assert_empty(engine)


def test_cancel_frees_the_slots_of_the_whole_group_within_a_step(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100, max_batch=3)
    engine.submit(request(engine, 1, [[7], [8], [9], [10]], LONG))
    engine.submit(request(engine, 2, [[7]], LONG))
    assert {o.request for o in engine.step().rows} == {1}
    engine.cancel(1)
    output = engine.step()
    assert [(o.row, o.finish_reason) for o in output.rows if o.request == 1] == [(i, "cancelled") for i in range(4)]
    assert tokens_of(output.rows, 2) == 1
    assert output.stats.slots_in_use == 1
    engine.cancel(1)
    engine.cancel(99)
    engine.cancel(2)
    drain(engine)
    assert_empty(engine)


def test_cancelling_while_a_prompt_is_read_and_followed_leaves_nothing(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100, max_batch=4, token_budget=16)
    engine.submit(request(engine, 1, [[7] * 40] * 6, LONG))
    engine.step()
    engine.cancel(1)
    drain(engine)
    assert_empty(engine)


def test_a_step_that_raises_fails_its_request_only(tokenizer: WorldTokenizer) -> None:
    engine = Engine(
        stand_in(Speller([5] * 100, 300, crash_token=66)),
        tokenizer,
        EngineConfig(model="", max_batch=18, token_budget=16),
    )
    engine.submit(request(engine, 1, [[7]], LONG))
    engine.submit(request(engine, 2, [[66] * 30] * 2, LONG))  # one reads, one follows
    for i in range(14):
        engine.submit(request(engine, 10 + i, [[7] * 30], LONG))
    engine.submit(request(engine, 3, [[7]], SamplingParams(max_tokens=2)))  # in a slot, but not in the step
    engine.submit(request(engine, 4, [[7]], SamplingParams(max_tokens=2)))  # waits for a slot
    ended = answers(drain(engine))
    for key in ((2, 0), (2, 1)):
        assert ended[key].finish_reason == "error"
        assert "FloatingPointError: boom" in str(ended[key].error)
    for key in ((1, 0), (10, 0), (23, 0)):
        assert ended[key].token_ids == [5] * 50
    assert ended[3, 0].token_ids == ended[4, 0].token_ids == [5, 5]
    assert_empty(engine)


class Interrupted(Speller):
    """Raises KeyboardInterrupt once, after the states have moved."""

    interrupted = False

    def run(self, batch: StepBatch, pool: FloatArray) -> FloatArray:
        logits = super().run(batch, pool)
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return logits


def test_an_interrupt_is_the_callers_and_leaves_no_half_step(tokenizer: WorldTokenizer) -> None:
    engine = Engine(stand_in(Interrupted([5] * 10, 300)), tokenizer, EngineConfig(model="", max_batch=4))
    engine.submit(request(engine, 1, [[7]] * 2, LONG))
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    ended = answers(drain(engine))
    assert ["KeyboardInterrupt" in str(ended[1, row].error) for row in (0, 1)] == [True, True]
    assert_empty(engine)
    engine.submit(request(engine, 2, [[7]], SamplingParams(max_tokens=2)))
    assert answers(drain(engine))[2, 0].token_ids == [5, 5]


def test_choices_follow_nobody_once_they_have_a_token(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 10, max_batch=4)
    engine.submit(request(engine, 1, [[7]] * 3, LONG))
    engine.step()
    assert [sequence.leader for sequence in engine._groups[1].values()] == [None] * 3


def test_a_row_whose_logits_are_not_finite_fails_alone(tokenizer: WorldTokenizer) -> None:
    engine = Engine(stand_in(Speller([5] * 100, 300, bad_token=66)), tokenizer, EngineConfig(model="", max_batch=8))
    engine.submit(request(engine, 1, [[7], [66], [66]], SamplingParams(max_tokens=2)))
    ended = answers(drain(engine))
    assert ended[1, 0].token_ids == [5, 5]
    for row in (1, 2):
        assert ended[1, row].finish_reason == "error"
        assert "not finite" in str(ended[1, row].error)
    assert_empty(engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "other"}, "another model"),
        ({"prompt": [300]}, "token id 300 is outside the model's vocabulary of 300"),
        ({"prompt": [2**63]}, "outside the model's vocabulary"),
        ({"prompt": [-1]}, "token id -1"),
        ({"choice": -1}, "choice must be"),
        ({"index": 2}, "prompt 2 is not one of the request's 2"),
        ({"sampling": SamplingParams(top_p=2.0)}, "top_p"),
        ({"sampling": SamplingParams(stop_token_ids=(300,))}, "stop_token_ids"),
    ],
)
def test_a_bad_request_fails_alone(tokenizer: WorldTokenizer, change: dict, message: str) -> None:
    engine = speller_engine(tokenizer, [5] * 10)
    engine.submit(request(engine, 1, [[7]], SamplingParams(max_tokens=2)))
    bad = request(engine, 2, [[7], change.get("prompt", [8])], change.get("sampling", LONG))
    bad.fingerprint = change.get("fingerprint", bad.fingerprint)
    bad.rows[1].choice = change.get("choice", 0)
    bad.rows[1].prompt = change.get("index", 1)
    engine.submit(bad)
    ended = answers(drain(engine))
    assert ended[1, 0].finish_reason == "length"
    assert [ended[2, row].finish_reason for row in (0, 1)] == ["error", "error"]
    assert message in str(ended[2, 0].error)
    assert_empty(engine)


def test_stop_strings_need_a_tokenizer() -> None:
    engine = speller_engine(None, [5] * 10)
    engine.submit(request(engine, 1, [[7]], SamplingParams(stop=("x",))))
    assert "tokenizer" in str(answers(drain(engine))[1, 0].error)


def test_without_a_tokenizer_there_are_ids_and_no_text() -> None:
    engine = speller_engine(None, [5, 6, 7])
    engine.submit(request(engine, 1, [[7]], SamplingParams()))
    answer = answers(drain(engine))[1, 0]
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", [5, 6, 7, 0], "stop")


def test_an_empty_prompt_is_the_document_start(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 10)
    engine.submit(request(engine, 1, [[]], SamplingParams(max_tokens=1)))
    executable = engine.model.executable
    assert isinstance(executable, Speller)
    assert answers(drain(engine))[1, 0].token_ids == [5]
    assert executable.batches[0].tokens.tolist() == [0]


def test_no_tokens_wanted_is_a_finished_request(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 10)
    engine.submit(request(engine, 1, [[7, 8]], SamplingParams(max_tokens=0)))
    answer = answers(drain(engine))[1, 0]
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("length", 2, 0)
    assert rows_of_steps(engine) == []


def test_requests_without_a_limit_end_at_the_engines(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100, default_max_tokens=9)
    engine.submit(request(engine, 1, [[7]], SamplingParams()))
    answer = answers(drain(engine))[1, 0]
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 9)
