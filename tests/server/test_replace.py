"""Another model in the place of one that is served: real engines, tiny models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.live import write_model
from wingbeat.engine.client import Generation
from wingbeat.engine.messages import EngineConfig
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.errors import ApiError
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.replace import Replacement, ReplacementError

PLENTY, NOTHING = (lambda: 1 << 50), (lambda: 0)
LONG = 1_000_000


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return write_model(folder, "first"), write_model(folder, "second")


def config_of(path: Path, dtype: str = "float32") -> EngineConfig:
    # Without guesses: nobody reads these answers, and of a text that repeats itself too much would soon wait.
    return EngineConfig(model=str(path), dtype=dtype, threads=1, max_batch=4, speculative_tokens=0)


@asynccontextmanager
async def serving(
    path: Path, free_memory: Callable[[], int] = PLENTY, drain_seconds: float = 5.0
) -> AsyncIterator[tuple[ModelRegistry, Replacement]]:
    registry = ModelRegistry([ServedModel(config_of(path), max_prompt_tokens=100)])
    replacement = Replacement(registry, drain_seconds, free_memory)
    await registry.start()
    assert registry.first.loading is not None
    await registry.first.loading
    try:
        yield registry, replacement
    finally:
        await replacement.close()
        await registry.close()


async def begin(model: ServedModel, tokens: int) -> Generation:
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, stop_token_ids=())
    return model.submit(await model.encode([[5, 6, 7]], "prompt"), 1, sampling)


async def generate(model: ServedModel, tokens: int = 3) -> tuple[str | None, int]:
    return await finish(await begin(model, tokens))


async def finish(generation: Generation) -> tuple[str | None, int]:
    reason, count = None, 0
    async for outputs in generation:
        for output in outputs:
            count += len(output.token_ids)
            reason = output.finish_reason or reason
    return reason, count


@pytest.mark.parametrize("free_memory", [PLENTY, NOTHING], ids=["beside", "instead"])
async def test_the_new_model_answers(paths: tuple[Path, Path], free_memory: Callable[[], int]) -> None:
    async with serving(paths[0], free_memory) as (registry, replacement):
        old = registry.first
        new = await replacement.replace(old, config_of(paths[1], "int8"))
        assert registry.first is new
        assert (new.name, new.info["dtype"], new.status) == ("second", "int8", "ok")
        assert await generate(new) == ("length", 3)
        await old.client.wait_idle(5)
        with pytest.raises(ApiError, match=r"send the request again|loaded in the place"):
            await generate(old)


@pytest.mark.parametrize("free_memory", [PLENTY, NOTHING], ids=["beside", "instead"])
async def test_what_runs_may_finish(paths: tuple[Path, Path], free_memory: Callable[[], int]) -> None:
    async with serving(paths[0], free_memory, drain_seconds=60) as (registry, replacement):
        running = await begin(registry.first, 2000)
        await replacement.replace(registry.first, config_of(paths[1]))
        assert await finish(running) == ("length", 2000)


@pytest.mark.parametrize("free_memory", [PLENTY, NOTHING], ids=["beside", "instead"])
async def test_what_runs_too_long_is_told_why(paths: tuple[Path, Path], free_memory: Callable[[], int]) -> None:
    async with serving(paths[0], free_memory, drain_seconds=0.2) as (registry, replacement):
        running = await begin(registry.first, LONG)
        await replacement.replace(registry.first, config_of(paths[1]))
        outputs = [output async for several in running for output in several]
        assert outputs[-1].finish_reason == "error"
        assert "loaded in the place of this one" in (outputs[-1].error or "")
        assert await generate(registry.first) == ("length", 3)


@pytest.mark.parametrize("free_memory", [PLENTY, NOTHING], ids=["beside", "instead"])
async def test_a_bad_file_changes_nothing(
    paths: tuple[Path, Path], tmp_path: Path, free_memory: Callable[[], int]
) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(paths[1].read_bytes()[:-1000])
    async with serving(paths[0], free_memory) as (registry, replacement):
        old = registry.first
        running = await begin(old, 500)
        for path in (damaged, tmp_path / "nowhere.pth"):
            with pytest.raises(ReplacementError, match=path.name):
                await replacement.replace(old, config_of(path))
        assert registry.first is old
        assert await finish(running) == ("length", 500)
        assert await generate(old) == ("length", 3)


@pytest.mark.parametrize("free_memory", [PLENTY, NOTHING], ids=["beside", "instead"])
async def test_a_load_that_fails_leaves_the_old_model(paths: tuple[Path, Path], free_memory: Callable[[], int]) -> None:
    """The file is good; what fails is found only by the engine or by the tokenizer."""
    async with serving(paths[0], free_memory) as (registry, replacement):
        for wrong in ({"backend": "quantum"}, {"tokenizer": "/nowhere/vocab.txt"}):
            config = EngineConfig(model=str(paths[1]), dtype="float32", threads=1, **wrong)
            with pytest.raises(ReplacementError):
                await replacement.replace(registry.first, config)
            model = registry.first
            assert model.loading is not None
            await model.loading
            assert (model.name, await generate(model)) == ("first", ("length", 3))


@pytest.mark.parametrize("free_memory", [PLENTY, NOTHING], ids=["beside", "instead"])
async def test_who_gives_up_leaves_the_old_model(paths: tuple[Path, Path], free_memory: Callable[[], int]) -> None:
    async with serving(paths[0], free_memory, drain_seconds=60) as (registry, replacement):
        old = registry.first
        running = await begin(old, LONG)
        task = asyncio.create_task(replacement.replace(old, config_of(paths[1])))
        while not replacement.busy:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (registry.first, replacement.busy) == (old, False)
        running.cancel()
        assert await generate(old) == ("length", 3)


async def test_two_at_once_take_turns(paths: tuple[Path, Path]) -> None:
    async with serving(paths[0]) as (registry, replacement):
        old = registry.first
        first, second = await asyncio.gather(
            replacement.replace(old, config_of(paths[1])),
            replacement.replace(old, config_of(paths[1], "int8")),
            return_exceptions=True,
        )
        assert first is registry.first
        assert isinstance(second, ReplacementError)
        assert "meanwhile" in str(second)
