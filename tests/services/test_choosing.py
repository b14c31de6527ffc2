"""Ranking by mean negative log-likelihood."""

from __future__ import annotations

import math

import pytest

from wingbeat.reading import Score
from wingbeat.services.choosing import perplexity, rank


def test_the_likeliest_comes_first_and_equals_keep_their_order() -> None:
    ranked = rank([2.0, 0.5, math.inf, 0.5, -1.0, math.inf])
    assert [choice.place for choice in ranked] == [4, 1, 3, 0, 2, 5]
    assert ranked[0].perplexity == -1.0
    assert rank([]) == []


def test_the_mean_is_over_a_choices_own_tokens() -> None:
    assert perplexity(Score((1, 2), (-1.0, -2.0))) == 1.5
    assert perplexity(Score((), ())) == math.inf
    assert perplexity(Score((1,), (-math.inf,))) == math.inf


def test_calibrating_takes_off_what_it_loses_alone_over_one_token_more() -> None:
    after, alone = Score((1, 2), (-1.0, -2.0)), Score((1, 2), (-3.0, -6.0))
    assert perplexity(after, alone) == pytest.approx(1.5 - 9 / 3)
    assert perplexity(Score((), ()), Score((), ())) == math.inf
    impossible = Score((1,), (-math.inf,))
    assert perplexity(impossible, impossible) == math.inf
