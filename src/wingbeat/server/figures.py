"""What a model's engine has done since the server started, and how fast it was lately."""

from __future__ import annotations

import operator
import time
from collections import deque
from typing import NamedTuple

from wingbeat.engine.client import EngineClient
from wingbeat.engine.messages import STEP_BUCKETS

SAMPLE_SECONDS = 1.0
RATE_SAMPLES = 5
"""Rates are over so many of the newest samples."""
LATENCY_SAMPLES = 60
"""Latencies too, over more of them: a request comes less often than a step."""


class Totals(NamedTuple):
    """Sums that never go back. `step_times` counts steps as `Stats` does; sums of latencies are in seconds."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    step_seconds: float = 0.0
    bytes_moved: int = 0
    step_times: tuple[int, ...] = (0,) * (len(STEP_BUCKETS) + 1)
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def plus(self, other: Totals) -> Totals:
        return Totals(
            self.steps + other.steps,
            self.prompt_tokens + other.prompt_tokens,
            self.generated_tokens + other.generated_tokens,
            self.step_seconds + other.step_seconds,
            self.bytes_moved + other.bytes_moved,
            tuple(map(operator.add, self.step_times, other.step_times)),
            self.cached_tokens + other.cached_tokens,
            self.drafted_tokens + other.drafted_tokens,
            self.accepted_tokens + other.accepted_tokens,
        )


class Sample(NamedTuple):
    """The totals of a moment, and counts and sums of the latencies."""

    moment: float
    totals: Totals
    first_tokens: int
    first_token_seconds: float
    later_tokens: int
    later_token_seconds: float


class Recent(NamedTuple):
    """Means over the last seconds; None where nothing happened in them."""

    tokens_per_second: float
    prompt_tokens_per_second: float
    step_seconds: float | None
    bandwidth: float | None
    """Bytes a second that steps moved while they ran."""
    first_token_seconds: float | None
    inter_token_seconds: float | None


class Figures:
    """Of one model. An engine that is started again counts from zero; what the earlier ones did is kept here."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._before = self._last = Totals()
        self._restarts = 0  # of the engine, when `_last` was noted
        self._samples: deque[Sample] = deque(maxlen=LATENCY_SAMPLES + 1)

    def sample(self) -> None:
        """Note the totals: to be called each second."""
        self._samples.append(self._now())

    def totals(self) -> Totals:
        """Up to the engine's last step. Work of the second in which an engine was killed may be missing."""
        stats = self._client.stats()
        times = tuple(stats.step_times) or Totals().step_times
        last = Totals(
            *(stats.steps, stats.prompt_tokens, stats.generated_tokens, stats.step_seconds, stats.bytes_moved, times),
            *(stats.cached_tokens, stats.drafted_tokens, stats.accepted_tokens),
        )
        restarts = self._client.restarts
        if last.steps < self._last.steps or restarts > self._restarts:  # the new one may have done more already
            self._before = self._before.plus(self._last)
        self._last, self._restarts = last, restarts
        return self._before.plus(last)

    def recent(self) -> Recent:
        """How fast the engine was in the seconds before now."""
        now = self._now()
        then = self._samples[-min(RATE_SAMPLES, len(self._samples))] if self._samples else now
        long_ago = self._samples[0] if self._samples else now
        seconds = max(now.moment - then.moment, 1e-9)
        new, old = now.totals, then.totals
        stepping = new.step_seconds - old.step_seconds
        return Recent(
            tokens_per_second=(new.generated_tokens - old.generated_tokens) / seconds,
            prompt_tokens_per_second=(new.prompt_tokens - old.prompt_tokens) / seconds,
            step_seconds=_mean(stepping, new.steps - old.steps),
            bandwidth=_mean(new.bytes_moved - old.bytes_moved, stepping),
            first_token_seconds=_mean(
                now.first_token_seconds - long_ago.first_token_seconds, now.first_tokens - long_ago.first_tokens
            ),
            inter_token_seconds=_mean(
                now.later_token_seconds - long_ago.later_token_seconds, now.later_tokens - long_ago.later_tokens
            ),
        )

    def bandwidth_share(self) -> float | None:
        """Of the rate at which this machine reads memory, what steps reached lately. None: no steps, or not known."""
        limit, reached = self._client.stats().read_bandwidth, self.recent().bandwidth
        return reached / limit if limit and reached is not None else None

    def _now(self) -> Sample:
        first, later = self._client.latencies.first_token, self._client.latencies.inter_token
        return Sample(time.monotonic(), self.totals(), sum(first.counts), first.sum, sum(later.counts), later.sum)


def _mean(amount: float, count: float) -> float | None:
    return amount / count if count > 0 else None
