import math

import pytest

from wingbeat.sampling.params import MAX_LOGPROBS, SamplingParams


def test_the_defaults_and_every_border_are_valid():
    SamplingParams().validate(10)
    SamplingParams(temperature=0, top_p=0, top_k=-1, min_p=1, seed=-(2**63), max_tokens=0, logprobs=0).validate(10)
    SamplingParams(top_p=1, seed=2**64 - 1, logprobs=MAX_LOGPROBS, stop=("\n",), stop_token_ids=(9,)).validate(10)
    SamplingParams(logit_bias={9: -100.0}, repetition_penalty=0.1, presence_penalty=-2).validate(10)
    SamplingParams(sampler="typical", tau=0, rate=0, noise=0, penalty_decay=1, min_tokens=0, no_repeat=(9,)).validate(
        10
    )
    SamplingParams(order="joint", penalties="values", penalty_free=(0,), penalty_history=(1, 1)).validate(10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", 10**400),
        ("top_p", 1.01),
        ("top_p", -0.01),
        ("min_p", 2),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_k", 2**31),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("sampler", "Nucleus"),
        ("order", "random"),
        ("penalties", ["counts"]),
        ("repetition_over", None),
        ("tau", -1),
        ("tau", math.nan),
        ("rate", -0.1),
        ("noise", -1),
        ("penalty_decay", 0),
        ("penalty_decay", 1.01),
        ("penalty_free", (10,)),
        ("penalty_history", (-1,)),
        ("no_repeat", ("a",)),
        ("min_tokens", -1),
        ("min_tokens", 2.0),
        ("seed", 2**64),
        ("seed", 1.0),
        ("max_tokens", -1),
        ("logprobs", -1),
        ("logprobs", MAX_LOGPROBS + 1),
        ("stop", ("",)),
        ("stop", "END"),
        ("stop", (1,)),
        ("stop", ("x" * 1001,)),
        ("stop", ("x",) * 65),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", (10,)),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {10: 0.0}),
        ("logit_bias", {1: math.nan}),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        SamplingParams(**{field: value}).validate(10)


def test_token_ids_are_limited_only_by_a_known_vocabulary():
    SamplingParams(stop_token_ids=(70000,), logit_bias={70000: 1.0}).validate()
    with pytest.raises(ValueError, match="vocabulary of 65536"):
        SamplingParams(stop_token_ids=(70000,)).validate(65536)
