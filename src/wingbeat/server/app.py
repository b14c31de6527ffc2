"""The application: routes, keys, origins and errors, put together for one set of models."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from wingbeat.config import Settings, version
from wingbeat.server import states
from wingbeat.server.auth import ApiKeyGate, Key, digest
from wingbeat.server.cors import Origins
from wingbeat.server.dialects import (
    ai00,
    ai00_embeds,
    lightning,
    lightning_chat,
    lightning_sessions,
    lightning_translate,
    openai,
    openai_chat_route,
    openai_embeddings,
    openai_tokenize,
    responses,
)
from wingbeat.server.drain import DrainGate
from wingbeat.server.errors import ApiError, handle_api_error, handle_crash, handle_http_exception
from wingbeat.server.figures import SAMPLE_SECONDS
from wingbeat.server.health import health_router
from wingbeat.server.hot_states import HotStates
from wingbeat.server.limits import RATE_LIMIT_HEADERS, Allowance, LimitGate, Limits
from wingbeat.server.loading import LoadBody, load_router
from wingbeat.server.metrics import metrics_router
from wingbeat.server.openapi import describe, serve_docs
from wingbeat.server.overview import overview_router
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.replace import Replacement
from wingbeat.server.session_states import SessionStates
from wingbeat.server.sessions import sessions_router
from wingbeat.server.starts import Starts
from wingbeat.server.states import states_router
from wingbeat.server.states_loading import states_loading_router
from wingbeat.server.tracking import RequestTracker, Traffic
from wingbeat.services.embedder import Embedder
from wingbeat.services.sessions import SessionStore
from wingbeat.services.states import StateStore

DESCRIPTION = """\
An RWKV inference server. Unmodified OpenAI clients work with the base URL `/v1`; the same routes answer under
`/openai/v1`. Fields marked "beyond OpenAI" go into `extra_body` of the `openai` package.
"""


def build_registry(settings: Settings) -> ModelRegistry:
    """The models that `settings` ask for, not started yet. Raises ConfigError when there is no such file."""
    model = ServedModel(settings.engine_config(), max_prompt_tokens=settings.max_prompt_tokens)
    return ModelRegistry([model], any_model=settings.any_model, embedder=_embedder(settings))


class Application(FastAPI):
    """FastAPI within a `RequestTracker`: replies to our own defects have a request's id too."""

    traffic: Traffic
    access_log: bool

    def build_middleware_stack(self) -> ASGIApp:
        return RequestTracker(super().build_middleware_stack(), self.traffic, access_log=self.access_log)


def create_app(settings: Settings, registry: ModelRegistry, traffic: Traffic | None = None) -> FastAPI:
    """The server as an ASGI application. Its lifespan starts the models and ends them.

    `traffic` shows who drives the application what is in progress, and takes the word that it is stopping.
    """
    traffic = traffic or Traffic()
    max_body = int(settings.max_body_mb * 2**20)
    store = StateStore(
        settings.states_folder,
        budget=int(settings.max_states_mb_per_key * 2**20),
        life=settings.state_hours * 3600,
    )
    hot = HotStates(store)
    starts = Starts(store, hot)
    replacement = Replacement(registry, settings.shutdown_seconds)
    sessions = _session_store(settings, registry)
    embedder = registry.embedder

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await store.open()
        await registry.start()
        if embedder is not None:
            embedder.start()
        try:
            async with _beside(_keep_sampling(registry)), _beside(sessions.keep_sweeping()):
                yield
        finally:
            await replacement.close()
            if embedder is not None:
                await embedder.close()
            await registry.close()
            await store.close()
            await sessions.close()

    app = Application(
        title="wingbeat",
        version=version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.traffic, app.access_log = traffic, settings.access_log
    app.add_exception_handler(ApiError, handle_api_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(Exception, handle_crash)
    _add_gates(app, settings, traffic, max_body)
    for own in (
        health_router(registry, traffic),
        overview_router(registry, traffic, needs_key=settings.needs_key),
        metrics_router(registry, traffic),
        load_router(registry, replacement, settings, traffic, max_body),
    ):
        app.include_router(own)
    batches = lightning.Batches(registry)
    chats = (registry, store, starts, sessions, max_body)
    for prefix, rules in {"/v1": lightning.V1, "/v2": lightning.V2, "/v3": lightning.V3}.items():
        form = lightning_chat.ChatsAndBatches(batches, rules, alone=prefix != "/v1")
        app.include_router(openai_chat_route.chat_router(*chats, form), prefix=prefix)
    own = openai_chat_route.chat_router(*chats, lightning_chat.LightningChats())
    app.include_router(own, prefix="/openai/v1", include_in_schema=False)
    app.include_router(lightning.lightning_router(batches, max_body))
    app.include_router(lightning_translate.translate_router(registry, max_body))
    app.include_router(lightning_sessions.sessions_router(registry, sessions, starts, max_body))
    for router in (
        openai.openai_router(registry, store, starts, sessions, max_body),
        responses.responses_router(registry, store, starts, sessions, max_body),
        openai_embeddings.embeddings_router(registry, starts, max_body),
        states_loading_router(registry, store, hot, settings, max_body),
        states_router(store, SessionStates(registry, sessions, starts), max_body),
        sessions_router(sessions),
    ):
        for prefix in openai.PREFIXES:
            app.include_router(router, prefix=prefix, include_in_schema=prefix == openai.PREFIXES[0])
    for prefix in ("", *openai.PREFIXES):
        tokenizer = openai_tokenize.tokenize_router(registry, max_body)
        app.include_router(tokenizer, prefix=prefix, include_in_schema=not prefix)
    for prefix in (*openai.PREFIXES, *ai00.PREFIXES):
        chooses = ai00.chooses_router(registry, starts, max_body, any_model=prefix in ai00.PREFIXES)
        app.include_router(chooses, prefix=prefix, include_in_schema=prefix in (openai.PREFIXES[0], ai00.PREFIXES[0]))
    for prefix in ("/v1", *ai00.PREFIXES):
        embeds = ai00_embeds.embeds_router(embedder, max_body)
        app.include_router(embeds, prefix=prefix, include_in_schema=prefix in ("/v1", ai00.PREFIXES[0]))
    serve_docs(app)
    homes = (openai, openai_embeddings, responses, openai_tokenize, states, ai00, ai00_embeds)
    homes = (*homes, lightning, lightning_chat, lightning_sessions, lightning_translate)
    schemas = [schema for home in homes for schema in home.SCHEMAS]
    describe(app, (*schemas, LoadBody), needs_key=settings.needs_key, open_paths=settings.open_paths)
    return app


def _embedder(settings: Settings) -> Embedder | None:
    if settings.embed_model is None:
        return None
    return Embedder(
        settings.embed_model,
        store=settings.models_folder,
        hub=settings.hub_address,
        version=version(),
        threads=settings.embed_threads,
    )


def _session_store(settings: Settings, registry: ModelRegistry) -> SessionStore:
    def forget(names: list[str]) -> None:
        for model in registry.models:
            model.client.forget(names)

    path = settings.data_folder / "sessions.sqlite3"
    return SessionStore(path, days=settings.session_days, most=settings.max_sessions_per_key, forget=forget)


async def _keep_sampling(registry: ModelRegistry) -> None:
    """Each second each model's figures are noted."""
    while True:
        for model in registry.models:
            model.figures.sample()
        await asyncio.sleep(SAMPLE_SECONDS)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs work without an end while the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


def _add_gates(app: FastAPI, settings: Settings, traffic: Traffic, max_body: int) -> None:
    """What a request passes, from the last to the first."""
    limits = Limits(settings.key_requests_per_minute, settings.key_tokens_per_minute, settings.key_max_running)
    app.add_middleware(LimitGate, everyone=None if settings.needs_key else Allowance(limits))
    if settings.needs_key:
        keys = _keys(settings, limits)
        app.add_middleware(ApiKeyGate, keys=keys, max_body=max_body, open_paths=settings.open_paths)
    app.add_middleware(DrainGate, traffic=traffic)
    if settings.allowed_origins:  # outside the keys' gate: a browser's preflight carries no key
        app.add_middleware(
            Origins,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After", *RATE_LIMIT_HEADERS],
        )


def _keys(settings: Settings, limits: Limits) -> list[Key]:
    unnamed = [
        Key(f"key {number}", digest(key.encode()), Allowance(limits))
        for number, key in enumerate(settings.api_keys, start=1)
    ]
    named = [
        Key(entry.name, digest(entry.key.encode()), Allowance(limits.overridden(entry.model_dump())))
        for entry in settings.keys
    ]
    return unnamed + named
