"""How long clients wait for tokens: histograms cheap enough to be kept for every token."""

from __future__ import annotations

from bisect import bisect_left

LATENCY_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3),
    *(0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""Upper bounds in seconds, inclusive."""


class LatencyHistogram:
    """``counts[i]`` durations were at most ``edges[i]`` seconds and longer than the edge before; the last entry of
    ``counts`` has those beyond the last edge. ``sum`` is in seconds."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: tuple[float, ...] = LATENCY_BUCKETS) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.edges, seconds)] += 1
        self.sum += seconds


class Latencies:
    """Of one engine client: from submission to a row's first token, and from token to token."""

    __slots__ = ("first_token", "inter_token")

    def __init__(self) -> None:
        self.first_token = LatencyHistogram()
        self.inter_token = LatencyHistogram()
