"""Tokens that must not come now: `min_tokens` and `no_repeat`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.sampling.oracle import EVERY_LEVEL
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.penalties import Memory
from wingbeat.sampling.results import Masks
from wingbeat.sampling.samplers import Sampler

pytestmark = pytest.mark.parametrize("kind", EVERY_LEVEL)

ROW = np.array([[5, 4, 3, 2, 1]], np.float32)


def generate(
    kind: dict[str, Any], params: SamplingParams, steps: int, prompt: tuple[int, ...] = (), **more: Any
) -> list:
    sampler = Sampler(1, 5, end_of_text=0, **kind)
    sampler.start(0, params, np.array(prompt, np.int32), seed=0, choice=0, **more)
    return [int(sampler.sample(ROW, np.array([0]), np.array([step])).tokens[0]) for step in range(steps)]


def test_nothing_ends_an_answer_before_min_tokens(kind: dict[str, Any]) -> None:
    params = SamplingParams(temperature=0, min_tokens=3, stop_token_ids=(1, 2))
    assert generate(kind, params, 5) == [3, 3, 3, 0, 0]
    assert generate(kind, params, 3, generated=[4, 4]) == [3, 0, 0]
    assert generate(kind, params, 3, memory=Memory({4: 1})) == [3, 3, 0]
    ignoring = SamplingParams(temperature=0, min_tokens=3, stop_token_ids=(1, 2), ignore_eos=True)
    assert generate(kind, ignoring, 2) == [0, 0]  # it ends nothing


def test_some_tokens_never_follow_themselves(kind: dict[str, Any]) -> None:
    params = SamplingParams(temperature=0, no_repeat=(0, 2))
    assert generate(kind, params, 4) == [0, 1, 0, 1]
    assert generate(kind, params, 3, prompt=(3, 0)) == [1, 0, 1]
    assert generate(kind, params, 2, memory=Memory(last=0)) == [1, 0]
    assert generate(kind, params, 2, prompt=(0,), generated=[1]) == [0, 1]


def test_a_ban_that_leaves_nothing_is_none(kind: dict[str, Any]) -> None:
    params = SamplingParams(temperature=0, no_repeat=(2,), min_tokens=9, stop_token_ids=(2,))
    sampler = Sampler(1, 5, end_of_text=0, **kind)
    sampler.start(0, params, np.array([2], np.int32), seed=0, choice=0)
    masks = Masks(np.array([[0b00101]], np.uint32), np.array([0]))
    row = ROW.copy()
    assert sampler.sample(row, np.array([0]), np.array([0]), masks).tokens.tolist() == [0]
    np.testing.assert_array_equal(row, ROW)
