"""Another model, or the same with other settings, in the place of one that is served, while the server stays up.

Where memory holds both, the new one is loaded beside the old, which answers until the new one is ready. Where it does
not, the new file is checked, the old model is let go, and it is loaded again should the new one fail. Either way a
replacement that fails leaves the old model serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from wingbeat.engine.memory import available_memory
from wingbeat.engine.messages import EngineConfig
from wingbeat.engine.weigh import weigh
from wingbeat.server.registry import ModelRegistry, ServedModel

log = structlog.get_logger("wingbeat.server")

REPLACED = "another model was loaded in the place of this one: send the request again"


class ReplacementError(Exception):
    """The new model cannot be served; the old one still is. The message says why."""


class Replacement:
    """Replaces models of `registry`, one at a time."""

    def __init__(
        self,
        registry: ModelRegistry,
        drain_seconds: float,
        free_memory: Callable[[], int] = available_memory,
    ) -> None:
        self._registry = registry
        self._drain_seconds = drain_seconds
        self._free_memory = free_memory
        self._busy = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], ServedModel] = {}

    @property
    def busy(self) -> bool:
        """Whether a model is being replaced now."""
        return self._busy.locked()

    async def replace(self, old: ServedModel, config: EngineConfig) -> ServedModel:
        """Serve the model of `config` in the place of `old`; returns when it is ready.

        What `old` is generating goes on for `drain_seconds` at most, then ends with an error.
        Raises ReplacementError.
        """
        async with self._busy:
            if old not in self._registry.models:
                raise ReplacementError("another model has taken its place meanwhile")
            try:
                needed = await weigh(config)
            except (ValueError, OSError, TimeoutError) as error:
                raise ReplacementError(str(error)) from error
            new = ServedModel(config, max_prompt_tokens=old.max_prompt_tokens)
            beside = needed <= self._free_memory()
            log.info("replacing", model=old.name, by=config.model, dtype=config.dtype, beside=beside)
            try:
                await (self._load_beside(old, new) if beside else self._load_instead(old, new))
            except BaseException:  # also when who asked is gone
                await new.close()
                raise
            log.info("replaced", model=new.name)
            return new

    async def close(self) -> None:
        """End the models that are still finishing what they were generating."""
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        for model in retiring.values():  # a task that is cancelled before it begins does nothing at all
            await model.close(REPLACED)

    async def _load_beside(self, old: ServedModel, new: ServedModel) -> None:
        await _load(new)
        self._registry.swap(old, new)
        task = asyncio.create_task(self._retire(old))
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)

    async def _load_instead(self, old: ServedModel, new: ServedModel) -> None:
        self._registry.swap(old, new)  # who comes now is told that the model is being loaded
        try:
            await self._retire(old)
            await _load(new)
        except BaseException:
            await new.close()
            if old.client.status == "closed":
                again = ServedModel(old.config, max_prompt_tokens=old.max_prompt_tokens)
                self._registry.swap(new, again)
                await again.start()
            else:
                self._registry.swap(new, old)
            raise

    async def _retire(self, old: ServedModel) -> None:
        await old.client.wait_idle(self._drain_seconds)
        await old.close(REPLACED)


async def _load(model: ServedModel) -> None:
    await model.start()
    assert model.loading is not None
    await asyncio.shield(model.loading)
    if model.failure is not None:
        raise ReplacementError(model.failure)
