"""The sampler in NumPy: the readable truth that `native/sampler.cpp` repeats bit for bit.

How two implementations can choose the same token always: a token's *mass* is its probability relative to the most
likely token, `2^((logit - max) * log2(e) / temperature)`, computed in float32 by the fixed sequence of IEEE
operations of `exp2_f32` and then rounded to a multiple of a grain so coarse (2^-36) that every sum of masses is exact
in float64. Exact sums have no order, so vectors, blocks and threads cannot change them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.rng import uniform

GREEDY_BELOW = 1e-6
"""Lower temperatures take the most likely token."""

CUTOFF = np.float32(-37.5)
"""Tokens less likely than 2^-37.5 (5e-12) of the most likely one have no mass."""

_LOG2_E = 1.4426950408889634
_TO_INTEGER = np.float32(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
_POLYNOMIAL = (
    0.00015353361959569156,
    0.0013398873852565885,
    0.00961843691766262,
    0.055503323674201965,
    0.24022647738456726,
    0.6931471824645996,
    1.0,
)


def exp2_f32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """2^x for -100 < x <= 0, within 1.2 ulp of float32; 2^0 is exactly 1.

    x = n + r with |r| <= 1/2; 2^r is a polynomial of degree 6, minimax in the relative error. No step is fused.
    """
    shifted = x + _TO_INTEGER
    r = x - (shifted - _TO_INTEGER)
    power = np.full_like(r, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        power = power * r + np.float32(coefficient)
    return (power.view(np.uint32) + (shifted.view(np.uint32) << np.uint32(23))).view(np.float32)


def mass_rounder(vocab: int) -> float:
    """Adding and subtracting this rounds a number in [0, 1] so that sums of `vocab` such numbers are exact.

    The grain is 2^-36, or coarser for more than 2^17 - 1 tokens; a mass at the cutoff becomes 0.
    """
    return 1.5 * 2.0 ** (max(vocab.bit_length(), 17) - 1)


def masses(logits: NDArray[np.float32], temperature: float, rounder: float) -> NDArray[np.float64]:
    """Probabilities relative to the largest: float64 [N] in [0, 1]. The logits hold no NaN and not only -inf.

    Infinite logits share all of it equally, the limit of ever larger ones.
    """
    peak = logits.max()
    if peak == np.inf:
        logits, peak = np.where(logits == np.inf, np.float32(0), np.float32(-np.inf)), np.float32(0)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        depth = (logits - peak) * np.float32(_LOG2_E / temperature)
    mass = exp2_f32(np.where(depth > CUTOFF, depth, CUTOFF)).astype(np.float64)
    return (mass + rounder) - rounder


@dataclass
class _Sequence:
    """What the sampler keeps of one running sequence."""

    params: SamplingParams
    seed: int
    choice: int
    seen: dict[int, int] = field(default_factory=dict)  # token of prompt or answer -> times generated

    def remember(self, token: int) -> None:
        params = self.params
        if params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
            self.seen[token] = self.seen.get(token, 0) + 1


class ReferenceSampler:
    """Same interface as `wingbeat._sampler.Sampler`; `samplers.Sampler` has checked the arguments."""

    def __init__(self, slots: int, valid_vocab: int) -> None:
        self._sequences: list[_Sequence | None] = [None] * slots
        self._valid = valid_vocab
        self._rounder = mass_rounder(valid_vocab)

    def start(
        self,
        slot: int,
        params: SamplingParams,
        prompt: NDArray[np.int32],
        seed: int,
        choice: int,
        generated: NDArray[np.int32],
    ) -> None:
        sequence = _Sequence(params, seed, choice)
        if params.repetition_penalty != 1.0:
            sequence.seen = {int(token): 0 for token in np.unique(prompt) if 0 <= token < self._valid}
        for token in generated.tolist():
            sequence.remember(token)
        self._sequences[slot] = sequence

    def finish(self, slot: int) -> None:
        self._sequences[slot] = None

    def sample(
        self,
        logits: NDArray[np.float32],
        slots: NDArray[np.int32],
        positions: NDArray[np.int64],
        tokens: NDArray[np.int32],
        logprobs: NDArray[np.float32],
        top_tokens: NDArray[np.int32],
        top_logprobs: NDArray[np.float32],
        mask_bits: NDArray[np.uint32],
        mask_rows: NDArray[np.int32],
    ) -> None:
        """Fill `tokens` [R] (-1: the row cannot be sampled), `logprobs` [R] and `top_*` [R, K] (unused places keep
        what they held). `mask_rows` is empty where there are no masks.

        Raises:
            IndexError: a slot that does not exist.
            ValueError: a slot twice, a slot without a sequence.
        """
        for row, sequence in enumerate(self._running(slots.tolist())):
            raw = logits[row, : self._valid]
            mask = mask_rows[row] if len(mask_rows) else -1
            allowed = None if mask < 0 else self._allowed(mask_bits[mask])
            tokens[row] = self._choose(raw, sequence, int(positions[row]), allowed)
            if tokens[row] >= 0 and sequence.params.logprobs is not None:
                best, logprob = self._report(raw, sequence.params.logprobs)
                logprobs[row] = logprob[tokens[row]]
                top_tokens[row, : len(best)], top_logprobs[row, : len(best)] = best, logprob[best]

    def _running(self, slots: list[int]) -> list[_Sequence]:
        found = []
        for slot in slots:
            if not 0 <= slot < len(self._sequences):
                raise IndexError(f"slot {slot} does not exist: the sampler has {len(self._sequences)}")
            sequence = self._sequences[slot]
            if sequence is None:
                raise ValueError(f"slot {slot} has no sequence: call start first")
            if slots.count(slot) > 1:
                raise ValueError(f"slot {slot} occurs twice: every row of a step needs its own slot")
            found.append(sequence)
        return found

    def score(
        self,
        logits: NDArray[np.float32],
        targets: NDArray[np.int32],
        logprobs: NDArray[np.float32],
        top_tokens: NDArray[np.int32],
        top_logprobs: NDArray[np.float32],
    ) -> None:
        """Fill `logprobs` [R] and `top_*` [R, K] for the given tokens; a row that cannot be sampled keeps what it
        held."""
        for row, target in enumerate(targets.tolist()):
            raw = logits[row, : self._valid]
            if np.isnan(raw).any() or raw.max() == -np.inf:
                continue
            best, logprob = self._report(raw, top_tokens.shape[1])
            logprobs[row] = logprob[target] if target < self._valid else -np.inf
            top_tokens[row, : len(best)], top_logprobs[row, : len(best)] = best, logprob[best]

    def _allowed(self, words: NDArray[np.uint32]) -> NDArray[np.bool_]:
        tokens = np.arange(self._valid)
        return (words[tokens >> 5] >> (tokens & 31).astype(np.uint32) & 1).astype(bool)

    def _choose(
        self, raw: NDArray[np.float32], sequence: _Sequence, position: int, allowed: NDArray[np.bool_] | None
    ) -> int:
        if np.isnan(raw).any():
            return -1
        params = sequence.params
        logits = self._edit(raw if allowed is None else np.where(allowed, raw, np.float32(-np.inf)), sequence)
        if logits.max() == -np.inf:
            return -1
        if params.temperature < GREEDY_BELOW:
            token = int(logits.argmax())
        else:
            mass = self._filtered(logits, params)
            cumulative = np.cumsum(mass)
            draw = uniform(sequence.seed, sequence.choice, position) * cumulative[-1]
            token = int(np.searchsorted(cumulative, draw, side="right"))
        sequence.remember(token)
        return token

    def _edit(self, raw: NDArray[np.float32], sequence: _Sequence) -> NDArray[np.float32]:
        """Logit bias, then penalties; each in float64, rounded to float32 once."""
        params, logits = sequence.params, raw.copy()
        with np.errstate(over="ignore"):
            for token, bias in params.logit_bias.items():
                if token < self._valid:
                    logits[token] = np.float64(logits[token]) + bias
            for token, generated in sequence.seen.items():
                logit = np.float64(logits[token])
                logit = logit / params.repetition_penalty if logit > 0 else logit * params.repetition_penalty
                if generated:
                    logit -= params.presence_penalty + params.frequency_penalty * generated
                logits[token] = logit
        return logits

    def _filtered(self, logits: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
        """Masses with those of filtered tokens set to 0."""
        mass = masses(logits, params.temperature, self._rounder)
        if params.top_k > 0 or params.top_p < 1.0:
            order = _descending(logits)
            if params.top_k > 0:
                mass[order[params.top_k :]] = 0.0
            if params.top_p < 1.0:
                cumulative = np.cumsum(mass[order])
                kept = int(np.searchsorted(cumulative, params.top_p * cumulative[-1], side="left")) + 1
                mass[order[kept:]] = 0.0
        mass[mass < params.min_p] = 0.0
        return mass

    def _report(self, raw: NDArray[np.float32], top: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The ids of the `top` most likely tokens that are possible, and the log-softmax of the row."""
        logprob = self._log_softmax(raw)
        best = _descending(raw)[:top]
        return best[logprob[best] > -np.inf], logprob

    def _log_softmax(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        total = masses(raw, 1.0, self._rounder).sum()
        peak = raw.max()
        if peak == np.inf:
            raw, peak = np.where(raw == np.inf, np.float32(0), np.float32(-np.inf)), np.float32(0)
        with np.errstate(over="ignore"):
            return ((raw.astype(np.float64) - np.float64(peak)) - math.log(total)).astype(np.float32)


def _descending(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Token ids from the most to the least likely, ties by lower id."""
    return np.argsort(-logits, kind="stable")
