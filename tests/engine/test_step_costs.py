"""What a step costs by its rows."""

from __future__ import annotations

import numpy as np
import pytest

from wingbeat.engine.step_costs import StepCosts
from wingbeat.ops.row_costs import row_costs

CURVE = [1 + 0.1 * max(0, rows - 1) for rows in range(33)]


def taught(rows: list[int], seconds: list[float]) -> StepCosts:
    costs = StepCosts(CURVE, 0.0)
    for row, second in zip(rows, seconds, strict=True):
        costs.count(second, row, 1, 0)
    return costs


@pytest.mark.parametrize("speed", [1e-4, 0.3])
@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_a_kind_of_steps_is_learned_and_the_others_stay(speed: float, factor: float) -> None:
    draw = np.random.default_rng(3)
    noise = draw.lognormal(0, 0.1, 600)
    noise[draw.random(600) < 0.1] *= 4  # another program has the machine
    rows = [1 if draw.random() < 0.5 else int(draw.integers(5, 9)) for _ in noise]
    seconds = [speed * float(n) * CURVE[row] * (factor if row > 1 else 1) for n, row in zip(noise, rows, strict=True)]
    costs = taught(rows, seconds)
    for row in range(5, 9):
        assert costs.of[row] == pytest.approx(factor * CURVE[row], rel=0.15)
    assert costs.of[:5] == CURVE[:5]
    assert costs.of[9:] == CURVE[9:]


def test_a_machine_that_gets_slower_changes_no_proportion() -> None:
    rows = [1, 4] * 400
    seconds = [CURVE[row] * (1.0 if step < 400 else 1.6) for step, row in enumerate(rows)]
    assert taught(rows, seconds).of[4] == pytest.approx(CURVE[4], rel=0.15)


def test_states_are_no_part_of_what_rows_cost() -> None:
    costs = StepCosts(CURVE, 0.05)
    for row in [1, 8] * 200:
        costs.count(CURVE[row] + (row - 1) * 0.05 + row * costs.copy, row, row, row)
    assert costs.of[8] == pytest.approx(CURVE[8], rel=0.08)


def test_steps_of_more_rows_are_not_counted() -> None:
    assert taught([1, 500], [1.0, 9.0]).of == CURVE


@pytest.mark.parametrize("level", ["amx", "avx2", "portable", ""])
@pytest.mark.parametrize("formats", [{"int4", "bfloat16"}, {"int8"}, {"nf4"}, {"float32"}, set[str]()])
def test_costs_are_modelled_for_every_format(level: str, formats: set[str]) -> None:
    costs = row_costs(formats, level, 32)
    assert len(costs) == 33
    assert costs[1] == 1.0
    assert costs == sorted(costs)
    assert 1.4 < costs[32] < 10


def test_of_several_formats_the_dearest_counts() -> None:
    assert row_costs({"int4", "bfloat16"}, "amx", 32) == row_costs({"int4"}, "amx", 32)
