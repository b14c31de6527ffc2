"""The text-embedding model that a server offers beside its RWKV model: found, loaded, and asked in batches."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import structlog

from wingbeat.hub.download import DownloadError, Watch, client, download
from wingbeat.hub.source import from_repository
from wingbeat.progress import progress_bar
from wingbeat.services.text_model import MODEL_FILES, TOKENIZER_FILES, MissingExtraError, TextModel, Vectors, find_file

DEFAULT = "intfloat/multilingual-e5-small"
BATCH = 16
"""Texts that go through the model at once: the unit in which requests take turns."""
MAX_WAITING = 4096
"""Texts that may wait."""

log = structlog.get_logger("wingbeat.embed")

T = TypeVar("T")


class EmbedderBusyError(Exception):
    """Too many texts are waiting."""


class EmbedderUnavailableError(Exception):
    """There is no model to ask, now or ever. ``ever``: whether it may come."""

    def __init__(self, message: str, *, ever: bool) -> None:
        super().__init__(message)
        self.ever = ever


class Chunk(NamedTuple):
    text: str
    vector: Vectors


class Embedder:
    """One model: a folder, or "owner/repository" of a hub, which is fetched into ``store`` once; "default" is
    multilingual-e5-small. All work is done by one thread, beside the event loop."""

    def __init__(self, model: str, *, store: Path, hub: str, version: str, threads: int = 1) -> None:
        wanted = DEFAULT if model == "default" else model
        self._folder = Path(wanted).expanduser()
        self._local = self._folder.is_dir()
        self.created = int(time.time())
        self.name = self._folder.resolve().name if self._local else wanted
        self._store, self._hub, self._version, self._threads = store, hub, version, threads
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._loading: asyncio.Task[TextModel] | None = None
        self._waiting = 0

    def start(self) -> None:
        """Begin to load the model."""
        self._loading = asyncio.create_task(self._load())

    async def close(self) -> None:
        """Forget what waits."""
        if self._loading is not None:
            self._loading.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def width(self) -> int:
        """Of its vectors. Raises EmbedderUnavailableError."""
        return self._ready().width

    async def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts, the model's special tokens included. Raises EmbedderUnavailableError, EmbedderBusyError."""
        model = self._ready()
        return await self._run(len(texts), lambda: [model.tokens(text) for text in texts])

    async def embed(self, texts: Sequence[list[int]]) -> Vectors:
        """Vectors float32 [n, D] of length 1 of texts as ``tokens`` gives them, short ones together.

        Raises EmbedderUnavailableError, EmbedderBusyError before anything is computed.
        """
        model = self._ready()
        self._enter(len(texts))
        try:
            order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
            vectors = np.empty((len(texts), model.width), np.float32)
            for start in range(0, len(order), BATCH):
                places = order[start : start + BATCH]
                vectors[places] = await self._call(model.embed, [texts[place] for place in places])
            return vectors
        finally:
            self._waiting -= len(texts)

    async def chunks(self, text: str, most: int, prefix: str) -> list[Chunk]:
        """The text in chunks of up to ``most`` tokens, and the vector of each with ``prefix`` directly before it.

        Raises EmbedderUnavailableError, EmbedderBusyError.
        """
        model = self._ready()
        pieces = await self._run(1, lambda: model.chunks(text, most, prefix))
        vectors = await self.embed(await self.tokens([prefix + piece for piece in pieces])) if pieces else []
        return [Chunk(piece, vector) for piece, vector in zip(pieces, vectors, strict=True)]

    def _ready(self) -> TextModel:
        task = self._loading
        if task is None or not task.done():
            raise EmbedderUnavailableError("The embedding model is being loaded.", ever=True)
        error = asyncio.CancelledError("closed") if task.cancelled() else task.exception()
        if error is not None:
            raise EmbedderUnavailableError(f"The embedding model cannot be used: {error}", ever=False)
        return task.result()

    async def _load(self) -> TextModel:
        try:
            model = await self._call(lambda: TextModel(self._fetched(), self._threads))
        except (MissingExtraError, DownloadError, OSError, ValueError) as error:
            log.error("the embedding model cannot be used", model=self.name, error=str(error))
            raise
        log.info("the embedding model is ready", model=self.name, width=model.width)
        return model

    def _fetched(self) -> Path:
        if self._local:
            return self._folder
        folder = self._store / "embed" / self.name.replace("/", "--")
        watch = Watch(functools.partial(progress_bar, in_bytes=True, plain=True, speed=True), log.info)
        for names in (MODEL_FILES, TOKENIZER_FILES):
            try:
                find_file(folder, names)
            except FileNotFoundError:
                self._fetch(names, folder, watch)
        return folder

    def _fetch(self, names: Sequence[str], folder: Path, watch: Watch) -> None:
        """The file under one of its names; a repository has them at the top or under ``onnx/``."""
        folder.mkdir(parents=True, exist_ok=True)
        errors: list[DownloadError] = []
        for name in reversed(names):
            wanted = from_repository(f"{self.name}/{name}", self._hub)
            try:
                with client(self._version) as http:
                    download(http, wanted, folder / names[0], watch)
            except DownloadError as error:
                errors.append(error)
            else:
                return
        raise errors[0]

    async def _run(self, texts: int, work: Callable[[], T]) -> T:
        self._enter(texts)
        try:
            return await self._call(work)
        finally:
            self._waiting -= texts

    def _enter(self, texts: int) -> None:
        if self._waiting and self._waiting + texts > MAX_WAITING:
            raise EmbedderBusyError(f"{self._waiting} texts are waiting to be embedded.")
        self._waiting += texts

    async def _call(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
