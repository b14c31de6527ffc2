"""Guesses of what comes next."""

from __future__ import annotations

import numpy as np
import pytest

from wingbeat.engine.drafting import MOST_INDEXED, Drafter


def drafter(prompt: list[int], answer: list[int] | None = None, expected: list[int] | None = None) -> Drafter:
    made = Drafter(np.array(prompt, np.int32), expected or [])
    made.see(answer or [])
    return made


def test_what_came_after_the_same_tokens_is_guessed() -> None:
    assert drafter([1, 2, 3, 4, 5], [9, 1, 2]).guess(3)[0] == [3, 4, 5]


def test_a_prompt_that_ends_like_something_in_it_gives_the_first_guess() -> None:
    assert drafter([1, 2, 3, 4, 1, 2]).guess(2)[0] == [3, 4]


def test_of_many_places_the_one_with_most_in_common_is_followed() -> None:
    assert drafter([7, 1, 2, 30, 8, 1, 2, 40], [7, 1, 2]).guess(1)[0] == [30]


def test_of_places_that_are_equally_good_the_latest_is_followed() -> None:
    assert drafter([1, 2, 30, 1, 2, 40], [1, 2]).guess(1)[0] == [40]


def test_a_loop_is_guessed_to_go_on() -> None:
    assert drafter([9], [1, 2, 3, 1, 2]).guess(7)[0] == [3, 1, 2, 3, 1, 2, 3]
    assert drafter([9], [5, 5, 5]).guess(3)[0] == [5, 5, 5]


def test_an_expected_answer_is_guessed_from_its_beginning_to_its_end() -> None:
    made = drafter([1, 2, 3], expected=[11, 12, 13])
    assert made.guess(9)[0] == [11, 12, 13]
    made.see([11, 12])
    assert made.guess(9)[0] == [13]
    made.see([13])
    assert made.guess(9) == ([], [])


def test_after_a_changed_word_the_next_one_is_guessed() -> None:
    assert drafter([9], [11, 70], expected=[11, 12, 13, 14]).guess(2)[0] == [13, 14]


def test_without_anything_in_common_there_is_no_guess() -> None:
    assert drafter([1, 2, 3], [4, 5, 6]).guess(5) == ([], [])
    assert drafter([], [4]).guess(5) == ([], [])
    assert drafter([4]).guess(5) == ([], [])


def test_only_the_newest_tokens_of_a_huge_prompt_are_looked_through() -> None:
    tail = list(range(10, 10 + MOST_INDEXED - 3))
    assert drafter([1, 2, 3, *tail], [1, 2]).guess(1)[0] == [3]
    assert drafter([1, 2, 3, 9, *tail], [1, 2]).guess(1)[0] == []


def test_the_index_of_a_prompt_is_that_of_tokens_seen_one_by_one() -> None:
    tokens = np.random.default_rng(4).integers(0, 6, 500).tolist()
    for cut in (0, 1, 2, 250, 499):
        made, stepwise = drafter(tokens[:cut], tokens[cut:]), drafter([], tokens)
        assert made._latest == stepwise._latest
        assert made._before == stepwise._before


def test_chances_fall_with_each_guess_and_follow_what_comes_true() -> None:
    good, bad = drafter([9], [1, 2, 3] * 60), drafter(np.random.default_rng(1).integers(0, 9, 200).tolist(), [1, 2] * 1)
    bad.see(np.random.default_rng(2).integers(0, 9, 400).tolist())
    chances = good.guess(8)[1]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] > 0.7
    assert max(bad.guess(8)[1], default=0.0) < 0.3


@pytest.mark.parametrize("least", [0.0, 0.3, 0.9])
def test_guesses_end_before_those_that_are_too_unlikely(least: float) -> None:
    made = drafter([1, 2, 3, 4, 5, 6, 7, 8], [1, 2])
    all_of_them = made.guess(6)
    likely = sum(chance >= least for chance in all_of_them[1])
    assert made.guess(6, least) == (all_of_them[0][:likely], all_of_them[1][:likely])
