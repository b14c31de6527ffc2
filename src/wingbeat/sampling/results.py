"""What goes into a call of the sampler beside logits, and what comes out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Masks(NamedTuple):
    """Which tokens each of R rows may get. Bit `t & 31` of word `t >> 5` set: token t is allowed."""

    bits: NDArray[np.uint32]
    """[M, W], with W at least the words of a valid vocabulary."""

    rows: NDArray[np.int32]
    """[R]: the row of `bits` for each row of logits, -1 for none; one may serve many."""


class Details(NamedTuple):
    """What there is to say of a drawn token, where its sequence wants to know."""

    logprob: float | None
    """Log-softmax of the raw logits at the token; None where not asked for."""

    top: list[tuple[int, float]]
    """(token, log-probability) of the most likely tokens, best first. Tokens of probability 0 are left out, so the list
    may be shorter than asked for."""

    mu: float | None
    """Mirostat's value after the token, which goes into `Memory`; None for other samplers."""


class SampleResult(NamedTuple):
    """What `Sampler.sample` found for R rows."""

    tokens: NDArray[np.int32]
    """[R]; -1 where the row cannot be sampled: it holds a NaN, or every token is at -inf, or none is allowed."""

    details: list[Details | None]
    """[R]: None where the sequence wants none, as most, and where the row cannot be sampled."""


class ScoreResult(NamedTuple):
    """What `Sampler.score` found for R rows."""

    logprobs: NDArray[np.float32]
    """[R]: log-softmax of the logits at the given token, -inf where that is impossible; NaN where the row cannot be
    sampled."""

    top: list[list[tuple[int, float]]]
    """[R]: (token, log-probability) of the most likely tokens, best first, as in `Details`."""

    ranks: NDArray[np.int32]
    """[R]: how many tokens are at least as likely as the given one, that one included: 1 is the most likely. 0 where
    the row cannot be sampled."""


class Report(NamedTuple):
    """Where a core writes the details of R rows; what does not apply to a row it leaves as it is."""

    logprobs: NDArray[np.float32]
    """[R]"""

    top_tokens: NDArray[np.int32]
    """[R, K]"""

    top_logprobs: NDArray[np.float32]
    """[R, K]"""

    mu: NDArray[np.float64]
    """[R]"""
