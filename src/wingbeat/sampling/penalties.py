"""Presence, frequency and repetition penalties of one sequence: the readable twin of `native/sampler_penalties.hpp`.

A token's *weight* is what decays: how often it was generated, or its penalty itself (see `SamplingParams.penalties`).
Only tokens that occurred have one, and it is written only when its token occurs: in between its *age* grows, and it
counts `weight * decay^age`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from wingbeat.sampling.params import SamplingParams

MAX_AGE = 2**20
"""Tokens after which a weight decays no further."""

Weights = dict[int, tuple[float, int]]
"""Weight and age of each token that has one."""


class Memory(msgspec.Struct, frozen=True):
    """What a sampler must know of the part of an answer that came before: see `Continuation` in the engine."""

    counts: Mapping[int, int] = {}
    """How often each token was generated."""

    weights: Weights = {}
    """Those that tokens had by the end of that part. Empty: made from `counts`."""

    last: int = -1
    """The last token before what is to be sampled, of the prompt or the answer; -1: none is known."""

    mu: float | None = None
    """Mirostat's."""


def has_weights(params: SamplingParams) -> bool:
    """Whether the presence or the frequency penalty does anything."""
    return params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def counts_suffice(params: SamplingParams) -> bool:
    """Whether the weights follow from how often each token was generated, in whatever order."""
    plain = params.penalty_decay == 1.0 and params.penalties == "counts" and not params.penalty_history
    return plain or not has_weights(params)


class Penalties:
    """What the penalties know of a sequence after the tokens of `memory`."""

    def __init__(self, params: SamplingParams, memory: Memory, vocab_size: int) -> None:
        self._params = params
        self._vocab = vocab_size  # of tokens that have logits
        self._free = frozenset(params.penalty_free)
        self._unweighed = self._free if params.penalty_free_presence else frozenset[int]()
        # What came before the answer counts from its second token on, as with RWKV Runner.
        self._late = params.global_penalty and not memory.counts
        self._now = 0  # tokens since the beginning of this part of the answer
        self._powers = [1.0]  # of the decay
        self._weights: dict[int, tuple[float, int]] = {}  # token -> weight, and when it was written
        self._repeated: set[int] = set()  # tokens that the repetition penalty is for
        if has_weights(params):
            self._begin(memory)
        self.repeat(memory.counts)

    def _begin(self, memory: Memory) -> None:
        if memory.weights:
            self._weights = {token: (weight, -age) for token, (weight, age) in memory.weights.items()}
            return
        power = 1.0
        for token in reversed([token for token in self._params.penalty_history if token < self._vocab]):
            gain = 0.0 if token in self._free else power
            if token not in self._unweighed:
                self._weights[token] = (self._weights.get(token, (0.0, 0))[0] + gain, 0)
            power *= self._params.penalty_decay
        if self._params.penalties == "values":
            presence, frequency = self._params.presence_penalty, self._params.frequency_penalty
            self._weights = {t: (_finite(presence + frequency * w), 0) for t, (w, _) in self._weights.items()}
        for token, count in memory.counts.items():
            self._add(token, count)

    def repeat(self, tokens: Iterable[int]) -> None:
        """The repetition penalty is for these tokens too."""
        if self._params.repetition_penalty != 1.0:
            self._repeated.update(token for token in tokens if 0 <= token < self._vocab)

    def remember(self, token: int) -> None:
        """`token` was generated."""
        self.repeat((token,))
        if has_weights(self._params):
            self._now += 1
            self._add(token, 1)

    def weights(self) -> Weights:
        """As a `Memory` holds them."""
        return {token: (weight, self._now - then) for token, (weight, then) in self._weights.items()}

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Change the logits [N] of tokens that have occurred; each in float64, rounded to float32 once."""
        weights = {} if self._late and self._now == 0 else self._weights
        for token in weights.keys() | self._repeated:
            logit = float(logits[token])
            if token in self._repeated:
                penalty = self._params.repetition_penalty
                logit = logit / penalty if logit > 0 else logit * penalty
            if token in weights:
                logit -= self._penalty(*weights[token])
            logits[token] = logit

    def _penalty(self, weight: float, then: int) -> float:
        age = self._now - then
        if self._params.penalties == "values":
            return self._decayed(weight, age)
        first = self._params.penalties == "counts_decay_first"
        weight = self._decayed(weight, age + 1 if first else age)
        return _finite(self._params.presence_penalty + self._params.frequency_penalty * weight)

    def _add(self, token: int, count: int) -> None:
        """`token` was generated `count` times just now."""
        if token in self._unweighed:
            return
        known = token in self._weights
        weight, then = self._weights.get(token, (0.0, self._now))
        weight = self._decayed(weight, self._now - then)
        gain = 0 if token in self._free else count
        if self._params.penalties != "values":
            weight += gain
        elif known:
            weight += self._params.frequency_penalty * gain
        else:
            weight = self._params.presence_penalty + self._params.frequency_penalty * max(0, gain - 1)
        self._weights[token] = (_finite(weight), self._now)

    def _decayed(self, weight: float, age: int) -> float:
        age = min(age, MAX_AGE)
        while len(self._powers) <= age:
            self._powers.append(self._powers[-1] * self._params.penalty_decay)
        return weight * self._powers[age]


def _finite(value: float) -> float:
    """The nearest number that is: an infinite penalty would make NaN of an infinite logit."""
    return max(-sys.float_info.max, min(value, sys.float_info.max))
