"""The application: routes, keys, origins and errors, put together for one set of models."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from wingbeat.config import Settings, version
from wingbeat.engine.messages import EngineConfig
from wingbeat.server.auth import ApiKeyGate
from wingbeat.server.dialects import openai, responses
from wingbeat.server.errors import ApiError, handle_api_error, handle_crash, handle_http_exception
from wingbeat.server.openapi import describe, serve_docs
from wingbeat.server.registry import ModelRegistry, ServedModel

DESCRIPTION = """\
An RWKV inference server. Unmodified OpenAI clients work with the base URL `/v1`; the same routes answer under
`/openai/v1`. Fields marked "beyond OpenAI" go into `extra_body` of the `openai` package.
"""


class Health(BaseModel):
    """Whether requests are taken. The counts are rows: a request for `n` answers has `n`."""

    status: Literal["ok", "loading", "restarting", "failed", "closed"]
    model: str
    running: int
    waiting: int
    slots: int
    progress: float | None = None
    """Share of the model that is loaded, 0 to 1, while it is loading."""
    error: str | None = None


def build_registry(settings: Settings) -> ModelRegistry:
    """The models that `settings` ask for, not started yet. Raises ConfigError when there is no such file."""
    config = EngineConfig(
        model=str(settings.model_path()),
        dtype=settings.dtype,
        backend=settings.backend,
        threads=settings.threads,
        tokenizer=None if settings.tokenizer is None else str(settings.tokenizer),
        profile=settings.profile,
        max_batch=settings.max_batch,
        token_budget=settings.token_budget,
        max_queue=settings.max_queue,
    )
    model = ServedModel(config, max_prompt_tokens=settings.max_prompt_tokens)
    return ModelRegistry([model], any_model=settings.any_model)


def create_app(settings: Settings, registry: ModelRegistry) -> FastAPI:
    """The server as an ASGI application. Its lifespan starts the models and ends them."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await registry.start()
        try:
            yield
        finally:
            await registry.close()

    app = FastAPI(
        title="wingbeat",
        version=version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(ApiError, handle_api_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(Exception, handle_crash)
    if settings.api_keys:
        app.add_middleware(ApiKeyGate, keys=settings.api_keys)
    if settings.allowed_origins:  # outside the gate: a browser's preflight carries no key
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    _add_own_routes(app, registry)
    max_body = int(settings.max_body_mb * 2**20)
    for router in (openai.openai_router(registry, max_body), responses.responses_router(registry, max_body)):
        for prefix in openai.PREFIXES:
            app.include_router(router, prefix=prefix, include_in_schema=prefix == openai.PREFIXES[0])
    serve_docs(app)
    describe(app, (*openai.SCHEMAS, *responses.SCHEMAS), needs_key=bool(settings.api_keys))
    return app


def _add_own_routes(app: FastAPI, registry: ModelRegistry) -> None:
    model = registry.models[0]

    @app.get("/", include_in_schema=False)
    async def index() -> dict[str, Any]:
        return {"name": "wingbeat", "version": version(), "model": model.name, "docs": "/docs", "openai": "/v1"}

    @app.head("/health", include_in_schema=False)
    @app.get("/health", response_model=Health, responses={503: {"model": Health}}, tags=["Server"])
    async def health() -> Response:
        """200 when requests are taken, 503 while the model is loading or its engine restarts. Needs no key."""
        report = _health(model)
        return JSONResponse(report.model_dump(exclude_none=True), 200 if report.status == "ok" else 503)


def _health(model: ServedModel) -> Health:
    stats = model.client.stats()
    status = model.status
    done, total = model.client.progress
    return Health.model_validate(
        {
            "status": status,
            "model": model.name,
            "running": stats.running,
            "waiting": stats.waiting,
            "slots": stats.slots,
            "progress": round(done / total, 3) if total and status != "ok" else None,
            "error": model.failure or (model.client.error if status != "ok" else None),
        }
    )
