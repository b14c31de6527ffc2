"""Figures: what is summed up and averaged, what Prometheus and the page are told."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live import LiveServer, live_server, settings_for
from wingbeat.config import version
from wingbeat.engine.client import EngineClient, EngineConfig
from wingbeat.engine.messages import STEP_BUCKETS, Stats, StepOutput
from wingbeat.server.figures import Figures

ROOT = Path(__file__).parent.parent.parent
HTML = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def server(model_path: Path) -> Iterator[LiveServer]:
    with live_server(settings_for(model_path)) as live:
        yield live


def stepped(client: EngineClient, steps: int, seconds: float = 0.0, **sums: int) -> None:
    """The engine reports that it has made so many steps in all."""
    times = [steps] + [0] * len(STEP_BUCKETS)
    stats = Stats(steps=steps, step_seconds=seconds, step_times=times, read_bandwidth=1e9, **sums)
    client._dispatch(StepOutput([], stats))


def test_sums_go_on_when_an_engine_starts_again() -> None:
    client = EngineClient(EngineConfig(model="none"))
    figures = Figures(client)
    assert figures.totals().steps == 0
    stepped(client, 5, 0.5, generated_tokens=10, prompt_tokens=3, bytes_moved=7)
    assert figures.totals()[:5] == (5, 3, 10, 0.5, 7)
    client._lose("it crashed")
    assert figures.totals()[:5] == (5, 3, 10, 0.5, 7)
    stepped(client, 2, 0.25, generated_tokens=4, prompt_tokens=1, bytes_moved=2)
    assert figures.totals()[:5] == (7, 4, 14, 0.75, 9)
    assert figures.totals().step_times[0] == 7


def test_sums_never_go_back_when_nobody_looked_during_the_restart() -> None:
    client = EngineClient(EngineConfig(model="none"))
    figures = Figures(client)
    stepped(client, 5, 0.5, prompt_tokens=1000)
    assert figures.totals()[:2] == (5, 1000)
    client._lose("it crashed")
    client.restarts = 1
    stepped(client, 9, 0.1, prompt_tokens=3)  # more steps than before, and fewer tokens
    assert figures.totals()[:2] == (14, 1003)
    assert figures.totals()[:2] == (14, 1003)


def test_recent_figures_are_of_the_last_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("wingbeat.server.figures.time.monotonic", lambda: clock)
    client = EngineClient(EngineConfig(model="none"))
    figures = Figures(client)
    assert figures.recent().tokens_per_second == 0
    figures.sample()
    assert (figures.recent().step_seconds, figures.bandwidth_share()) == (None, None)
    stepped(client, 1000, 10.0, generated_tokens=1000)
    client.latencies.first_token.observe(3.0)
    for _ in range(5):
        clock += 1
        figures.sample()
    stepped(client, 1100, 10.5, generated_tokens=1400, prompt_tokens=200, bytes_moved=250_000_000)
    client.latencies.first_token.observe(1.0)
    clock += 1
    recent = figures.recent()
    assert recent.tokens_per_second == pytest.approx(80)  # five seconds: the thousand tokens are forgotten
    assert recent.prompt_tokens_per_second == pytest.approx(40)
    assert recent.step_seconds == pytest.approx(0.005)
    assert figures.bandwidth_share() == pytest.approx(0.5)
    assert recent.first_token_seconds == pytest.approx(2.0)  # a minute: both
    assert recent.inter_token_seconds is None


def scrape(http: httpx.Client) -> dict[str, float]:
    """Every sample by its name, with its labels other than the model."""
    reply = http.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "model")
            name = sample.name + (f"{{{labels}}}" if labels else "")
            assert name not in samples
            samples[name.removeprefix("wingbeat_")] = sample.value
    return samples


def test_every_metric_is_described(server: LiveServer) -> None:
    described = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    families = text_string_to_metric_families(server.http.get("/metrics").text)
    names = {sample.name for family in families for sample in family.samples}
    names = {name.removeprefix("wingbeat_").removesuffix("_bucket").removesuffix("_count") for name in names}
    own = {name for name in names if "_process_" not in name and not name.endswith("_sum")}
    assert len(own) > 20
    assert [name for name in own if f"`{name}`" not in described and f"`{name}{{" not in described] == []


def test_metrics_follow_the_work_and_survive_a_crash(server: LiveServer) -> None:
    body = {"prompt": "the wing", "max_tokens": 9, "n": 2, "ignore_eos": True}
    assert server.http.post("/v1/completions", json=body).status_code == 200
    server.wait_idle()
    before = scrape(server.http)
    assert (before["ready"], before["loading_progress"], before["slots"]) == (1, 1, 8)
    assert (before["prompt_tokens_total"], before["generated_tokens_total"]) == (2, 18)
    assert (before["running_sequences"], before["waiting_sequences"], before["slots_in_use"]) == (0, 0, 0)
    assert before["time_to_first_token_seconds_count"] == 2
    assert before["inter_token_seconds_count"] == 16
    assert before["steps_total"] == before["step_seconds_count"] == before["step_seconds_bucket{le=+Inf}"] >= 9
    assert before["moved_bytes_total"] > 0
    assert before["read_bandwidth_bytes_per_second"] > 0
    assert before["requests_total{method=POST,route=/v1/completions,status=200}"] == 1
    for process in ("api", "engine"):
        assert before[f"{process}_process_resident_memory_bytes"] > 0

    pid = server.registry.models[0].client.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    server.wait_for(lambda health: health["status"] != "ok")
    away = scrape(server.http)
    assert away["ready"] == 0
    assert "engine_process_resident_memory_bytes" not in away or server.registry.models[0].client.pid != pid
    assert server.wait_for(lambda health: health["status"] == "ok")["status"] == "ok"
    assert server.http.post("/v1/completions", json=body).status_code == 200
    after = scrape(server.http)
    assert after["engine_restarts_total"] == 1
    assert (after["prompt_tokens_total"], after["generated_tokens_total"]) == (4, 36)
    totals = [name for name in before if name.endswith(("_total", "_count")) and "engine_process" not in name]
    assert [name for name in totals if after[name] < before[name]] == []


def test_requests_are_counted_by_route_whatever_is_asked_for(server: LiveServer) -> None:
    for path in ("/nothing", "/v1/models/a", "/v1/models/b", "/openai/v1/models/v1", "/x" * 100):
        server.http.get(path)
    server.http.options("/v1/models")
    server.http.head("/v1/models")
    counts = {name: value for name, value in scrape(server.http).items() if name.startswith("requests_total")}
    counts = {name: value for name, value in counts.items() if "/health" not in name}
    assert counts == {
        "requests_total{method=GET,route=other,status=404}": 2,
        "requests_total{method=GET,route=/v1/models/{model_id},status=404}": 2,
        "requests_total{method=GET,route=/openai/v1/models/{model_id},status=404}": 1,
        "requests_total{method=HEAD,route=/v1/models,status=200}": 1,
        "requests_total{method=OPTIONS,route=/v1/models,status=204}": 1,
    }


def test_streams_are_counted_while_they_are_open(server: LiveServer) -> None:
    body = {"prompt": "x", "max_tokens": 1_000_000, "ignore_eos": True, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as reply, httpx.Client(base_url=server.url) as other:
        lines = reply.iter_lines()
        next(lines)
        samples = scrape(other)
        assert (samples["open_streams"], samples["open_requests"]) == (1, 2)  # the scrape itself is one
        assert other.get("/stats").json()["open_streams"] == 1
    server.wait_idle()
    assert scrape(server.http)["open_streams"] == 0


def test_the_page_shows_what_the_statistics_say(server: LiveServer) -> None:
    server.http.post("/v1/completions", json={"prompt": "the ", "max_tokens": 5, "ignore_eos": True})
    server.wait_idle()
    stats = server.http.get("/stats").json()
    (model,) = stats["models"]
    assert (stats["version"], stats["needs_key"]) == (version(), False)
    assert (model["id"], model["status"], model["progress"]) == ("tiny", "ok", None)
    assert (model["architecture"], model["dtype"], model["slots"]) == ("RWKV-7", "float32", 8)
    assert (model["running"], model["waiting"], model["generated_tokens"]) == (0, 0, 5)
    assert model["first_token_seconds"] > 0
    page = server.http.get("/", headers=HTML)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    drawn = page.text.split("function draw(stats)")[1].split("function setStatus")[0]
    used = set(re.findall(r"\b(?:model|stats)\.(\w+)", drawn))
    assert {"running", "tokens_per_second", "bandwidth_share", "open_streams"} <= used
    assert used <= {*stats, *model}


def test_the_page_is_self_contained_and_for_browsers_only(server: LiveServer) -> None:
    page = server.http.get("/", headers=HTML).text
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert " src=" not in page
    for path in ("docs", "metrics", "v1/models", "health", "stats"):
        assert f'"{path}"' in page
        assert server.http.get(f"/{path}").status_code == 200
    for accept in ("*/*", "application/json"):
        assert server.http.get("/", headers={"accept": accept}).json()["name"] == "wingbeat"
