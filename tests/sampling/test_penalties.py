"""The penalties' formulae, seen through greedy choices and through log-odds of draws."""

import msgspec
import numpy as np
import pytest

from tests.sampling.oracle import IMPLEMENTATIONS
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.penalties import Memory
from wingbeat.sampling.results import Masks
from wingbeat.sampling.samplers import Sampler

pytestmark = pytest.mark.parametrize("native", IMPLEMENTATIONS)

SLOT = np.array([0], np.int32)


def generate(native, params, logits, steps, prompt=()):
    """Tokens of `steps` greedy steps over the same logits."""
    sampler = Sampler(1, len(logits), native=native)
    sampler.start(0, params, np.array(prompt, np.int32), seed=0, choice=0)
    row = np.array([logits], np.float32)
    return [int(sampler.sample(row, SLOT, np.array([position])).tokens[0]) for position in range(steps)]


def test_presence_is_subtracted_once(native):
    params = SamplingParams(temperature=0, presence_penalty=1.0)
    assert generate(native, params, [5.0, 4.5, 3.8], 5) == [0, 1, 0, 0, 0]  # 5, then 4 < 4.5, then 4 > 3.8 > 3.5


def test_frequency_is_subtracted_for_each_use(native):
    params = SamplingParams(temperature=0, frequency_penalty=1.0)
    assert generate(native, params, [5.0, 3.5, 0.0], 5) == [0, 0, 1, 0, 1]  # 5 | 4 | 3 < 3.5 | 3 > 2.5 | 2 < 2.5


def test_presence_and_frequency_do_not_count_the_prompt(native):
    params = SamplingParams(temperature=0, presence_penalty=2.0, frequency_penalty=2.0)
    assert generate(native, params, [5.0, 4.5], 1, prompt=[0, 0, 0]) == [0]


def test_repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_answer(native):
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert generate(native, params, [5.0, 3.0, 1.0], 3, prompt=[0]) == [1, 0, 0]  # 2.5 < 3 | 2.5 > 1.5
    assert generate(native, params, [-1.0, -1.5, -9.0], 2, prompt=[0]) == [1, 0]  # -2 < -1.5 | -2 > -3
    assert generate(native, params, [-1.0, -1.5, -9.0], 2) == [0, 1]


def test_repetition_below_one_encourages(native):
    assert generate(native, SamplingParams(temperature=0, repetition_penalty=0.5), [3.0, 4.0], 1, prompt=[0]) == [0]


def test_the_bias_comes_before_the_penalties(native):
    params = SamplingParams(temperature=0, repetition_penalty=2.0, logit_bias={0: 10.0})
    assert generate(native, params, [-4.0, 3.5], 1, prompt=[0]) == [1]  # (-4 + 10) / 2 = 3 < 3.5
    assert generate(native, params, [-4.0, 2.5], 1, prompt=[0]) == [0]


def test_tokens_outside_the_vocabulary_are_ignored(native):
    params = SamplingParams(temperature=0, repetition_penalty=2.0, logit_bias={99: 5.0})
    assert generate(native, params, [3.0, 2.0], 1, prompt=[-1, 2, 70000]) == [0]


def decaying(native, style, steps, **more):
    """What is subtracted from token 0, generated at every step that is 1: the largest of other tokens that it beats."""
    params = SamplingParams(temperature=0, presence_penalty=1.0, frequency_penalty=0.5, penalty_decay=0.5, **more)
    params = SamplingParams(**{**{f: getattr(params, f) for f in params.__struct_fields__}, "penalties": style})
    low, high = 0.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        sampler = Sampler(1, 4, native=native)
        sampler.start(0, params, np.array([], np.int32), seed=0, choice=0, generated=steps)
        row = np.array([[10.0, 10 - middle, -99, -99]], np.float32)
        low, high = (middle, high) if sampler.sample(row, SLOT, np.array([0])).tokens[0] == 1 else (low, middle)
    return pytest.approx(high, abs=1e-4)


def test_what_decays_is_what_the_style_says(native):
    """After token 0, two others and token 0 again."""
    steps = [0, 2, 3, 0]
    assert decaying(native, "counts", steps) == 1 + 0.5 * (1 + 0.125)
    assert decaying(native, "counts_decay_first", steps) == 1 + 0.5 * (0.5 + 0.0625)
    assert decaying(native, "values", steps) == 1 * 0.125 + 0.5
    assert decaying(native, "counts", [0, 2]) == 1 + 0.5 * 0.5
    assert decaying(native, "values", [0, 2]) == 0.5
    assert decaying(native, "counts", [0, 2, 0], penalty_free=(0,)) == 1
    for style in ("counts", "counts_decay_first", "values"):
        free = {"penalty_free": (0,), "penalty_free_presence": True}
        assert decaying(native, style, [0, 2, 0], penalty_history=(0,), **free) == 0
        assert decaying(native, style, [0, 2], **free | {"penalty_free": (2,)}) != 0


def test_history_counts_as_if_it_had_been_generated(native):
    """By its distance from the end: token 0 is 3 and 0 tokens before it."""
    history = (0, 2, 3, 0)
    assert decaying(native, "counts", [], penalty_history=history) == 1 + 0.5 * (1 + 0.125)
    assert decaying(native, "counts_decay_first", [], penalty_history=history) == 1 + 0.5 * (0.5 + 0.0625)
    assert decaying(native, "values", [], penalty_history=history) == 1 + 0.5 * (1 + 0.125)
    assert decaying(native, "values", [2, 0], penalty_history=history) == (1 + 0.5 * 1.125) * 0.25 + 0.5
    assert decaying(native, "counts", [2], penalty_history=(0,), penalty_free=(0,)) == 1


def test_a_global_history_counts_from_the_second_token_on(native):
    params = SamplingParams(temperature=0, frequency_penalty=1.0, penalty_history=(0, 0), global_penalty=True)
    assert generate(native, params, [5.0, 3.5, 0.0], 3) == [0, 1, 1]  # 5 | 2 < 3.5 | 2 < 2.5
    assert generate(native, msgspec.structs.replace(params, global_penalty=False), [5.0, 3.5, 0.0], 1) == [1]  # 3 < 3.5
    row, first = np.array([[5.0, 3.5, 0.0]], np.float32), np.array([0])
    for memory, want in ((Memory(weights={0: (2.0, 0)}), 0), (Memory(counts={0: 1}, weights={0: (3.0, 0)}), 1)):
        sampler = Sampler(1, 3, native=native)  # one that goes on: from the prompt, from the answer's first token
        sampler.start(0, params, np.array([], np.int32), seed=0, choice=0, memory=memory)
        assert sampler.sample(row, SLOT, first).tokens[0] == want


def test_repetition_may_leave_the_prompt_alone(native):
    params = SamplingParams(temperature=0, repetition_penalty=2.0, repetition_over="answer")
    assert generate(native, params, [5.0, 3.0, 1.0], 3, prompt=[0]) == [0, 1, 0]  # 5 | 2.5 < 3 | 2.5 > 1.5


def test_start_and_finish_forget_the_history(native):
    params = SamplingParams(temperature=0, presence_penalty=1.0)
    sampler = Sampler(1, 2, native=native)
    row, position = np.array([[5.0, 4.5]], np.float32), np.array([0])
    found = []
    for again in (False, True, True):
        if again:
            sampler.finish(0)
        sampler.start(0, params, np.array([], np.int32), seed=0, choice=0)
        found += [int(sampler.sample(row, SLOT, position).tokens[0]) for _ in range(2)]
    assert found == [0, 1] * 3


def test_a_sequence_that_goes_on_has_its_history(native):
    params = SamplingParams(temperature=0, presence_penalty=0.3, frequency_penalty=0.5, repetition_penalty=1.1)
    logits = [5.0, 4.5, 3.8]
    whole = generate(native, params, logits, 12, prompt=[2])
    for done in (1, 5, 11):
        sampler = Sampler(1, 3, native=native)
        sampler.start(0, params, np.array([2], np.int32), seed=0, choice=0, generated=whole[:done])
        row = np.array([logits], np.float32)
        rest = [int(sampler.sample(row, SLOT, np.array([position])).tokens[0]) for position in range(done, 12)]
        assert rest == whole[done:]


def test_a_row_that_fails_is_not_counted(native):
    sampler = Sampler(1, 2, native=native)
    sampler.start(0, SamplingParams(temperature=0, presence_penalty=1.0), np.array([], np.int32), seed=0, choice=0)
    rows = [[5.0, np.nan], [5.0, 4.5], [5.0, 4.5]]
    found = [int(sampler.sample(np.array([row], np.float32), SLOT, np.array([0])).tokens[0]) for row in rows]
    assert found == [-1, 0, 1]


def test_penalties_change_the_odds_by_their_formula(native):
    """Two tokens with equal logits; token 0 was generated: its odds are e^-(presence + frequency)."""
    slots = 2000
    sampler = Sampler(slots, 2, native=native)
    params = SamplingParams(presence_penalty=0.4, frequency_penalty=0.3)
    everyone = np.arange(slots, dtype=np.int32)
    for slot in everyone:
        sampler.start(int(slot), params, np.array([], np.int32), seed=int(slot), choice=0)
    sampler.sample(np.tile(np.array([0, -np.inf], np.float32), (slots, 1)), everyone, np.zeros(slots, np.int64))
    ones = sampler.sample(np.zeros((slots, 2), np.float32), everyone, np.ones(slots, np.int64)).tokens.mean()
    assert ones == pytest.approx(1 / (1 + np.exp(-0.7)), abs=0.04)


@pytest.mark.parametrize("style", ["counts", "counts_decay_first", "values"])
@pytest.mark.parametrize("decay", [1.0, 1e-200])
@pytest.mark.parametrize("frequency", [-1.5e308, 1.5e308])
def test_penalties_too_large_for_numbers_leave_infinite_logits_alone(native, style, decay, frequency):
    params = SamplingParams(
        temperature=0, frequency_penalty=frequency, penalty_decay=decay, penalties=style, logit_bias={1: 1e308}
    )
    sampler = Sampler(1, 4, native=native)
    sampler.start(0, params, np.array([], np.int32), seed=0, choice=0, generated=[1, 1, 1, 2, 2, 2])
    row = np.array([[0.0, 2.0, -np.inf, 3.0]], np.float32)
    assert sampler.sample(row, SLOT, np.array([6])).tokens[0] == 1
    masks = Masks(np.array([[0b1101]], np.uint32), np.array([0], np.int32))
    assert sampler.sample(row, SLOT, np.array([7]), masks).tokens[0] == 3
