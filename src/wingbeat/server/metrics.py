"""`GET /metrics` for Prometheus. Nothing is counted here: numbers that are kept anyway are read when asked for."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response

from wingbeat.config import version
from wingbeat.engine.latency import LatencyHistogram
from wingbeat.engine.messages import STEP_BUCKETS
from wingbeat.server.logs import dropped_lines
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.tracking import Traffic

PREFIX = "wingbeat_"

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


def metrics_router(models: ModelRegistry, traffic: Traffic) -> APIRouter:
    """`/metrics`, with a registry of its own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(traffic))
    registry.register(ModelCollector(models, traffic))
    ProcessCollector(namespace="wingbeat_api", registry=registry)
    ProcessCollector(namespace="wingbeat_engine", pid=lambda: str(models.first.client.pid), registry=registry)
    router = APIRouter(tags=["Server"])

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures for Prometheus, in its text format."""
        return Response(generate_latest(registry), media_type=TEXT_FORMAT)

    return router


class ServerCollector(Collector):
    """What is counted once for the whole server."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            PREFIX + "build",
            "What this server is.",
            value={"version": version(), "python": platform.python_version()},
        )
        requests = CounterMetricFamily(
            PREFIX + "requests", "Requests that ended.", labels=("route", "method", "status")
        )
        for (route, method, status), count in self._traffic.ended.items():
            requests.add_metric((route, method, str(status)), count)
        yield requests
        yield GaugeMetricFamily(PREFIX + "open_requests", "Requests in progress.", len(self._traffic.active))
        yield GaugeMetricFamily(PREFIX + "open_streams", "Event streams being sent.", self._traffic.open_streams)
        yield CounterMetricFamily(
            PREFIX + "log_lines_dropped", "Lines of the log that were lost: nobody read them in time.", dropped_lines()
        )


class ModelCollector(Collector):
    """What is counted for each model. Counters go on when its engine is started again."""

    def __init__(self, models: ModelRegistry, traffic: Traffic) -> None:
        self._models = models
        self._traffic = traffic

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}  # one of each name, with the samples of all models
        for model in self._models.models:
            for family in _all(model, self._traffic):
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples += family.samples
        return families.values()


def _all(model: ServedModel, traffic: Traffic) -> Iterator[Metric]:
    yield from _about(model)
    yield from _load(model, traffic)
    yield from _cache(model)
    yield from _work(model)
    yield from _speed(model)


def _about(model: ServedModel) -> Iterator[Metric]:
    if info := model.info:
        names = ("version", "dtype", "backend", "kernels", "fingerprint")
        about = InfoMetricFamily(PREFIX + "model", "What the model is.", labels=("model",))
        about.add_metric((model.name,), {name: str(info[name]) for name in names if info.get(name)})
        yield about


def _load(model: ServedModel, traffic: Traffic) -> Iterator[Metric]:
    stats, (done, total) = model.client.stats(), model.client.progress
    ready = model.status == "ok" and not traffic.stopping
    yield _gauge(model, "ready", "1 while requests are taken.", ready)
    loaded = 1.0 if model.status == "ok" else done / total if total else 0.0
    yield _gauge(model, "loading_progress", "Share of the model that is loaded, 0 to 1.", loaded)
    yield _gauge(model, "running_sequences", "Sequences that are being generated.", stats.running)
    yield _gauge(model, "waiting_sequences", "Sequences that wait for a slot.", stats.waiting)
    yield _gauge(model, "max_waiting_sequences", "Sequences that may wait.", model.config.max_queue)
    yield _gauge(model, "slots", "Sequences that can be generated at the same time.", stats.slots)
    yield _gauge(model, "slots_in_use", "Slots that hold a sequence's state.", stats.slots_in_use)


def _cache(model: ServedModel) -> Iterator[Metric]:
    stats = model.client.stats()
    yield _gauge(model, "cached_states", "States that are cached in memory.", stats.cached_states)
    yield _gauge(model, "cached_bytes", "What they take there.", stats.cached_bytes)
    yield _gauge(model, "disk_states", "States that are cached on disk.", stats.disk_states)
    yield _gauge(model, "disk_bytes", "What they take there.", stats.disk_bytes)


def _work(model: ServedModel) -> Iterator[Metric]:
    totals = model.figures.totals()
    yield _counter(model, "prompt_tokens", "Prompt tokens that were read.", totals.prompt_tokens)
    cached = "Prompt tokens that need not be read: a cached state had seen them."
    yield _counter(model, "cached_prompt_tokens", cached, totals.cached_tokens)
    yield _counter(model, "generated_tokens", "Tokens that were generated.", totals.generated_tokens)
    drafted = "Guessed tokens that were checked, see speculative decoding."
    yield _counter(model, "drafted_tokens", drafted, totals.drafted_tokens)
    yield _counter(model, "accepted_tokens", "Guessed tokens that came true.", totals.accepted_tokens)
    yield _counter(model, "steps", "Steps of the engine.", totals.steps)
    yield _counter(model, "moved_bytes", "Bytes that steps moved: weights, and states in and out.", totals.bytes_moved)
    yield _counter(model, "engine_restarts", "Starts of the engine's process after the first.", model.client.restarts)
    yield _histogram(model, "step_seconds", "Time of a step.", STEP_BUCKETS, totals.step_times, totals.step_seconds)


def _speed(model: ServedModel) -> Iterator[Metric]:
    latencies = model.client.latencies
    yield _latency(model, "time_to_first_token_seconds", "From a request to its first token.", latencies.first_token)
    yield _latency(model, "inter_token_seconds", "From a sequence's token to its next one.", latencies.inter_token)
    if limit := model.client.stats().read_bandwidth:
        yield _gauge(model, "read_bandwidth_bytes_per_second", "How fast this machine reads memory.", limit)
    if (share := model.figures.bandwidth_share()) is not None:
        yield _gauge(model, "bandwidth_share", "Of that rate, what steps reached in the last seconds.", share)


def _gauge(model: ServedModel, name: str, text: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(PREFIX + name, text, labels=("model",))
    gauge.add_metric((model.name,), value)
    return gauge


def _counter(model: ServedModel, name: str, text: str, value: float) -> Metric:
    counter = CounterMetricFamily(PREFIX + name, text, labels=("model",))
    counter.add_metric((model.name,), value)
    return counter


def _latency(model: ServedModel, name: str, text: str, histogram: LatencyHistogram) -> Metric:
    return _histogram(model, name, text, histogram.edges, histogram.counts, histogram.sum)


def _histogram(
    model: ServedModel, name: str, text: str, edges: Sequence[float], counts: Iterable[int], total: float
) -> Metric:
    """`counts` has one entry for each edge, not cumulative, and one for what is beyond the last."""
    histogram = HistogramMetricFamily(PREFIX + name, text, labels=("model",))
    buckets: list[tuple[str, float]] = []
    reached = 0
    for edge, count in zip((*map(str, edges), "+Inf"), counts, strict=True):
        reached += count
        buckets.append((edge, reached))
    histogram.add_metric((model.name,), buckets, total)
    return histogram
