"""A real server for tests: uvicorn on a free port in a thread, a real engine process, a tiny random model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn

from tests.random_models import random_rwkv7, write_safetensors
from tests.text.vocabs import with_bytes, write_vocab
from wingbeat.config import Settings
from wingbeat.server.app import build_registry, create_app
from wingbeat.server.registry import ModelRegistry
from wingbeat.server.run import HTTP, bind

VOCAB = 300
T = TypeVar("T")

WORDS = [b"\n\n", b"the ", b"wing", b"beat", "é".encode(), "世界".encode(), b"User", b": "]


def write_model(folder: Path, name: str = "tiny") -> Path:
    """A random model of 300 rows with its vocabulary (World's bytes, ids 1-256, and some words) beside it."""
    write_vocab(folder / f"{name}.vocab.txt", with_bytes(WORDS, first_id=261))
    return write_safetensors(folder / f"{name}.safetensors", random_rwkv7(layers=2, width=64, vocab=VOCAB, seed=3))


def settings_for(model: Path, **changes: Any) -> Settings:
    """Settings for tests: nothing from the environment or a file, and a data folder of their own."""
    data = Path(tempfile.mkdtemp(dir=os.environ["XDG_DATA_HOME"]))
    fields = {
        "data_dir": data,
        "model": str(model),
        "dtype": "float32",
        "threads": 1,
        "max_batch": 8,
        "access_log": False,
        **changes,
    }
    return Settings.model_construct(**{**{k: f.get_default() for k, f in Settings.model_fields.items()}, **fields})


@dataclass
class LiveServer:
    url: str
    registry: ModelRegistry
    http: httpx.Client
    uvicorn: uvicorn.Server
    loop: asyncio.AbstractEventLoop

    def call(self, function: Callable[[], T]) -> T:
        """What it returns in the server's own thread, while this one waits."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)

    def connections(self) -> list[Any]:
        """uvicorn's protocol of each open connection."""
        return self.call(lambda: list(self.uvicorn.server_state.connections))

    def health(self) -> dict[str, Any]:
        return self.http.get("/health").json()

    def wait_idle(self, seconds: float = 5.0) -> dict[str, Any]:
        """The health report once nothing runs or waits, or the last one."""
        return self.wait_for(lambda health: health["running"] == health["waiting"] == 0, seconds)

    def wait_for(self, condition: Any, seconds: float = 10.0) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while not condition(health := self.health()) and time.monotonic() < end:
            time.sleep(0.02)
        return health


@contextlib.contextmanager
def live_server(settings: Settings) -> Iterator[LiveServer]:
    """A server that is ready to answer."""
    registry = build_registry(settings)
    listener = bind("127.0.0.1", 0)
    app = create_app(settings, registry)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", http=HTTP, ws="none"))
    loops: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()

    async def serve() -> None:
        loops.put(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    http = httpx.Client(base_url=url, timeout=30)
    live = LiveServer(url, registry, http, server, loops.get())
    try:
        assert live.wait_for(lambda health: health["status"] in ("ok", "failed"), 30)["status"] == "ok"
        yield live
    finally:
        http.close()
        server.should_exit = True
        thread.join(10)
        listener.close()
