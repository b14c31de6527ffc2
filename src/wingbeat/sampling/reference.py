"""The sampler in NumPy: the readable truth that `native/sampler.cpp` repeats bit for bit.

`masses.py` says how that is possible, `penalties.py` and `kept.py` what happens to a row of logits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wingbeat.sampling import kept
from wingbeat.sampling.masses import depths, masses, share_infinities
from wingbeat.sampling.params import DEFAULT_TAU, SamplingParams
from wingbeat.sampling.penalties import Memory, Penalties
from wingbeat.sampling.results import Masks, Report
from wingbeat.sampling.rng import noise, uniform

GREEDY_BELOW = 1e-6
"""Lower temperatures take the most likely token."""

_IMPOSSIBLE = np.float32(-np.inf)


class _Sequence:
    """What the sampler keeps of one running sequence."""

    def __init__(self, params: SamplingParams, seed: int, choice: int, memory: Memory, vocab_size: int) -> None:
        self.params, self.seed, self.choice = params, seed, choice
        self.penalties = Penalties(params, memory, vocab_size)
        self.length = sum(memory.counts.values())  # of the answer
        self.last = memory.last
        self.tau = DEFAULT_TAU.get(params.sampler, 0.0) if params.tau is None else params.tau
        self.mu = 2 * self.tau if memory.mu is None else memory.mu

    def remember(self, token: int) -> None:
        self.penalties.remember(token)
        self.length += 1
        self.last = token

    def banned(self, end_of_text: int) -> list[int]:
        """Tokens that must not come now."""
        params = self.params
        banned = [self.last] if self.last in params.no_repeat else []
        if self.length < params.min_tokens:
            banned += params.stop_token_ids
            if not params.ignore_eos and end_of_text >= 0:
                banned.append(end_of_text)
        return banned


class ReferenceSampler:
    """Same interface as `wingbeat._sampler.Sampler`; `samplers.Sampler` has checked the arguments."""

    def __init__(self, slots: int, valid_vocab: int, end_of_text: int) -> None:
        self._sequences: list[_Sequence | None] = [None] * slots
        self._valid = valid_vocab
        self._end_of_text = end_of_text

    def start(
        self,
        slot: int,
        params: SamplingParams,
        prompt: NDArray[np.int32],
        seed: int,
        choice: int,
        generated: NDArray[np.int32],
        memory: Memory,
    ) -> None:
        sequence = _Sequence(params, seed, choice, memory, self._valid)
        if params.repetition_over == "all":
            sequence.penalties.repeat(np.unique(prompt).tolist())
        for token in generated.tolist():
            sequence.remember(token)
        self._sequences[slot] = sequence

    def finish(self, slot: int) -> None:
        self._sequences[slot] = None

    def prepare(self, rows: int) -> None:
        """There is nothing to prepare."""

    def sample(
        self,
        logits: NDArray[np.float32],
        slots: NDArray[np.int32],
        positions: NDArray[np.int64],
        tokens: NDArray[np.int32],
        report: Report | None,
        masks: Masks | None,
    ) -> None:
        """Fill `tokens` [R] (-1: the row cannot be sampled), and `report` for the rows that want details.

        Raises:
            IndexError: a slot that does not exist.
            ValueError: a slot twice, a slot without a sequence.
        """
        for row, sequence in enumerate(self._running(slots.tolist())):
            raw = logits[row, : self._valid]
            mask = -1 if masks is None else masks.rows[row]
            allowed = None if masks is None or mask < 0 else self._allowed(masks.bits[mask])
            tokens[row] = self._choose(raw, sequence, int(positions[row]), allowed)
            if report is None or tokens[row] < 0:
                continue
            if sequence.params.sampler.startswith("mirostat"):
                report.mu[row] = sequence.mu
            if sequence.params.logprobs is not None:
                best, logprob = self._report(raw, sequence.params.logprobs)
                report.logprobs[row] = logprob[tokens[row]]
                report.top_tokens[row, : len(best)], report.top_logprobs[row, : len(best)] = best, logprob[best]

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
        ranks: NDArray[np.int32],
    ) -> None:
        """Fill `logprobs` [R], `top_*` [R, K] and `ranks` [R] for the given tokens; a row that cannot be sampled keeps
        what it held."""
        for row, target in enumerate(targets.tolist()):
            raw = logits[row, : self._valid]
            if np.isnan(raw).any() or raw.max() == -np.inf:
                continue
            best, logprob = self._report(raw, top_tokens.shape[1])
            logprobs[row] = logprob[target] if target < self._valid else -np.inf
            ranks[row] = np.count_nonzero(raw >= raw[target]) if target < self._valid else self._valid
            top_tokens[row, : len(best)], top_logprobs[row, : len(best)] = best, logprob[best]

    def _allowed(self, words: NDArray[np.uint32]) -> NDArray[np.bool_]:
        tokens = np.arange(self._valid)
        return (words[tokens >> 5] >> (tokens & 31).astype(np.uint32) & 1).astype(bool)

    def _choose(
        self, raw: NDArray[np.float32], sequence: _Sequence, position: int, allowed: NDArray[np.bool_] | None
    ) -> int:
        if np.isnan(raw).any():
            return -1
        logits = raw.copy() if allowed is None else np.where(allowed, raw, _IMPOSSIBLE)
        self._ban(logits, sequence)
        self._edit(logits, sequence)
        if logits.max() == -np.inf:
            return -1
        if sequence.params.temperature < GREEDY_BELOW:
            token = int(logits.argmax())
        else:
            token = self._draw(share_infinities(logits), sequence, position)
        sequence.remember(token)
        return token

    def _ban(self, logits: NDArray[np.float32], sequence: _Sequence) -> None:
        """A ban that leaves nothing is none."""
        banned = [token for token in sequence.banned(self._end_of_text) if token < self._valid]
        before = logits[banned]
        logits[banned] = _IMPOSSIBLE
        if logits.max() == -np.inf:
            logits[banned] = before

    def _edit(self, logits: NDArray[np.float32], sequence: _Sequence) -> None:
        """Logit bias, then penalties; each in float64, rounded to float32 once."""
        with np.errstate(over="ignore"):
            for token, bias in sequence.params.logit_bias.items():
                if token < self._valid:
                    logits[token] = np.float64(logits[token]) + bias
            sequence.penalties.apply(logits)

    def _draw(self, logits: NDArray[np.float32], sequence: _Sequence, position: int) -> int:
        params = sequence.params
        if params.sampler == "noise":
            return self._loudest(logits, sequence, position)
        random = uniform(sequence.seed, sequence.choice, position)
        if params.sampler == "typical":
            return kept.draw(kept.typical(logits, params, sequence.tau), random)
        if params.sampler != "nucleus":
            return self._surprise(logits, sequence, random)
        if params.order == "standard":
            return kept.draw(kept.standard(logits, params), random)
        if params.order == "joint":
            return kept.draw_joint(logits, params, random)
        return kept.draw(kept.truncated(logits, params), random)

    def _surprise(self, logits: NDArray[np.float32], sequence: _Sequence, random: float) -> int:
        """Mirostat: a token, and how surprising it was, in bits, of those kept or (full) of all."""
        params, mu = sequence.params, sequence.mu
        mass = masses(logits, 1.0)
        if params.sampler == "mirostat":
            mass = weights = kept.mirostat(logits, mu)
        else:
            weights = kept.mirostat_full(logits, params, mu)
        token = kept.draw(weights, random)
        surprise = math.log2(mass.sum()) - float(depths(logits)[token])
        mu -= params.rate * (surprise - sequence.tau)
        sequence.mu = min(mu, 4 * sequence.tau) if params.sampler == "mirostat" else mu
        return token

    def _loudest(self, logits: NDArray[np.float32], sequence: _Sequence, position: int) -> int:
        """The largest logit after noise. Only tokens within its reach of the largest before can be that."""
        params = sequence.params
        scaled = logits.astype(np.float64) / params.temperature
        within = np.flatnonzero(scaled + params.noise >= scaled.max()).tolist()
        loud = [scaled[i] + params.noise * noise(sequence.seed, sequence.choice, position, i) for i in within]
        return within[int(np.argmax(loud))]

    def _report(self, raw: NDArray[np.float32], top: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The ids of the `top` most likely tokens that are possible, and the log-softmax of the row."""
        logprob = self._log_softmax(raw)
        best = kept.descending(raw)[:top]
        return best[logprob[best] > -np.inf], logprob

    def _log_softmax(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        raw = share_infinities(raw)
        total = masses(raw, 1.0).sum()
        with np.errstate(over="ignore"):
            return ((raw.astype(np.float64) - np.float64(raw.max())) - math.log(total)).astype(np.float32)
