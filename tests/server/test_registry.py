"""A model under its name, without an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from wingbeat.config import Settings
from wingbeat.engine.messages import EngineConfig, GenerationRequest, Ready, Stats
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.app import build_registry
from wingbeat.server.errors import ApiError
from wingbeat.server.registry import ServedModel


def test_the_engine_is_told_the_settings(model_path: Path) -> None:
    settings = Settings(
        model=str(model_path),
        dtype="int8",
        backend="cpu",
        threads=3,
        cache_packed=True,
        max_batch=5,
        token_budget=7,
        cache_memory_mb=3,
        cache_dir=model_path.parent / "cache",
        cache_disk_mb=4,
    )
    config = build_registry(settings).models[0].config
    assert (config.cache_memory, config.cache_disk) == (3 * 2**20, 4 * 2**20)
    for name in set(EngineConfig.__struct_fields__) - {"cache_memory", "cache_disk"}:
        told = getattr(settings, name)
        assert getattr(config, name) == (str(told) if isinstance(told, Path) else told)


async def test_the_tokenizer_follows_the_model_that_the_engine_runs(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ServedModel(EngineConfig(model=str(model_path)), max_prompt_tokens=100)
    sent: list[GenerationRequest] = []
    monkeypatch.setattr(model.client, "submit", sent.append)

    def ready(fingerprint: str, profile: str) -> None:
        metadata = {"wingbeat.profile": profile}
        info = {"name": "tiny", "vocab_size": 300, "fingerprint": fingerprint, "metadata": metadata}
        model.client._dispatch(Ready(info, Stats(slots=1)))

    ready("first", "world")
    model.loading = loading = asyncio.create_task(model._load())
    assert model.status == "loading"
    await loading
    first = model.tokenizer
    ready("first", "world")  # a restart with the same file keeps what is loaded
    assert (model.status, model.loading, model.profile.name) == ("ok", loading, "world")

    ready("second", "g1")
    assert model.status == "loading"
    with pytest.raises(ApiError, match="loading"):
        model.check_ready()
    prompts = await model.encode([[1]], "prompt")
    model.submit(prompts, 1, SamplingParams())  # its ids are still the first tokenizer's
    assert sent[-1].fingerprint == "first"
    await model.loading
    assert (model.status, model.profile.name) == ("ok", "g1")
    assert model.tokenizer is not first
    with pytest.raises(ApiError, match="Another model") as refused:
        model.submit(prompts, 1, SamplingParams())
    assert refused.value.status == 503
    model.submit(await model.encode([[1]], "prompt"), 1, SamplingParams())
    assert [request.fingerprint for request in sent] == ["first", "second"]
