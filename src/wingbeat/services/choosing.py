"""Which of several texts follows a context best: Ai00's ranking by mean negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from wingbeat.reading import Score


class Ranked(NamedTuple):
    """A choice by its place in the request. Ai00's ``perplexity`` is a mean negative log-likelihood for each token."""

    place: int
    perplexity: float


def rank(perplexities: Sequence[float]) -> list[Ranked]:
    """The choices from the best, of the lowest value, to the worst; those of one value in their order."""
    ranked = [Ranked(index, value) for index, value in enumerate(perplexities)]
    return sorted(ranked, key=lambda choice: choice.perplexity)


def perplexity(score: Score, alone: Score | None = None) -> float:
    """Of one choice: the mean negative log-likelihood of its tokens, infinite without tokens.

    ``alone``: the same choice after the start of a document. What it loses there is taken off, over one token more
    (Ai00's ``calibrate``), so that a choice does not win by being likely everywhere; values may then be negative.
    """
    value = -score.mean
    if alone is None or math.isinf(value):
        return value
    return value + alone.logprob / (len(alone.logprobs) + 1)
