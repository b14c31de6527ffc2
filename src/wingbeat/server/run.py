"""Runs the server in a terminal or under a supervisor: binds at once, shows the loading, ends tidily."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib.util
import socket
from types import FrameType

import structlog
import uvicorn

from wingbeat.config import Settings
from wingbeat.server.app import build_registry, create_app
from wingbeat.server.drain import Drain
from wingbeat.server.greeting import example, loading_display
from wingbeat.server.logs import configure_logging
from wingbeat.server.open_files import raise_open_files
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.tracking import Traffic

log = structlog.get_logger("wingbeat")

GRACE_SECONDS = 3
"""How long connections may take to close when all requests have ended."""

LAST_LINES_SECONDS = 1.0
"""How long the end of the log may take to be written."""

HTTP = "wingbeat.server.protocol:GuardedProtocol" if importlib.util.find_spec("httptools") else "auto"

UNREAD_SECONDS = 90
"""How long the system keeps what a client does not take, such as one that lost its power."""

KEEP_ALIVE_SECONDS = 65
"""How long an unused connection stays open: longer than the 60 s of common proxies, so that they close it first."""


class CannotServe(Exception):  # noqa: N818 - what happened, to be told to the user
    """The server cannot run; the message says why and what to do."""


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        CannotServe: the address is taken or the model cannot be loaded.
    """
    log_thread = configure_logging(settings.log_level, settings.log_format)
    try:
        _serve(settings)
    finally:
        log_thread.stop(LAST_LINES_SECONDS)


def _serve(settings: Settings) -> None:
    if not settings.loopback and not settings.needs_key:
        log.warning("everyone who can reach this machine can use the server: set --api-key", host=settings.host)
    raise_open_files()
    registry, traffic = build_registry(settings), Traffic()
    listener = bind(settings.host, settings.port)
    config = uvicorn.Config(
        create_app(settings, registry, traffic),
        log_config=None,
        access_log=False,  # `RequestTracker` says more
        server_header=False,
        lifespan="on",
        http=HTTP,
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    server = _Server(config, registry, settings, traffic)
    with listener, contextlib.suppress(KeyboardInterrupt):  # of a signal that came before uvicorn took them
        server.run(sockets=[listener])
    if server.failure is not None:
        raise CannotServe(f"The model cannot be loaded: {server.failure}")


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotServe with what to do about it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=2048)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        hint = "Another program uses it: choose another port with --port." if taken else f"{error.strerror}."
        raise CannotServe(f"Cannot listen on {host} port {port}. {hint}") from None
    # Of the connections, which inherit it: a reply is sent in pieces, and none waits for the one before to be received.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # likewise: when what is sent is not taken any more
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
    return listener


def _spare_collector() -> None:
    """What there is when serving begins will stay: no collection need look at it again. What requests leave behind is
    mostly freed without one, so they may be rarer, and no stream stops for them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


class _Server(uvicorn.Server):
    """Greets once it listens. Told to stop, it lets what runs finish, then ends the engines."""

    def __init__(self, config: uvicorn.Config, registry: ModelRegistry, settings: Settings, traffic: Traffic) -> None:
        super().__init__(config)
        self._registry = registry
        self._settings = settings
        self._traffic = traffic
        self._drain = Drain(traffic, settings.shutdown_seconds)
        self._greeting: asyncio.Task[None] | None = None
        self.failure: str | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop; a second one to do so at once. Ending as told is success, so none is raised again."""
        self._drain.hurry = self._traffic.stopping
        self._traffic.stopping = self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._greeting = asyncio.create_task(self._greet(self._registry.first, url))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The listener stays open while requests finish: who asks for the health must learn that no more are taken."""
        self._traffic.stopping = True
        if self._greeting is not None:
            self._greeting.cancel()
        await self._drain.run()
        await self._registry.close()
        await super().shutdown(sockets)

    async def _greet(self, model: ServedModel, url: str) -> None:
        """Show how the loading goes; then say where the server is, or stop it."""
        assert model.loading is not None
        log.info("loading", model=model.config.model, health=f"{url}/health")
        async with loading_display(model):
            await asyncio.wait([model.loading])
        if model.failure is not None:
            self.failure = model.failure
            self.should_exit = True
            return
        _spare_collector()
        log.info("ready", url=url, model=model.name, slots=model.client.stats().slots)
        if self._settings.log_format != "json":
            print(example(url, model.name, self._settings.needs_key), flush=True)
