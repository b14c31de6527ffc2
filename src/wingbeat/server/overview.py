"""What runs here, for people: the page at `/`, and the live figures that it shows, at `/stats`."""

from __future__ import annotations

import time
from importlib import resources
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from wingbeat.config import version
from wingbeat.server.health import Status, progress_of, status_of
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.tracking import Traffic

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""The page needs nothing but itself and /stats."""


class ModelFigures(BaseModel):
    """A model and how it does. Rates and times are means of the last seconds (latencies: of the last minute), null
    where nothing happened in them."""

    id: str
    status: Status
    progress: float | None
    """Share of the model that is loaded, 0 to 1, while it is loading."""
    architecture: str | None
    parameters: int | None
    dtype: str | None
    backend: str | None
    kernels: str | None
    slots: int
    running: int
    waiting: int
    tokens_per_second: float
    prompt_tokens_per_second: float
    first_token_seconds: float | None
    inter_token_seconds: float | None
    step_seconds: float | None
    bandwidth_share: float | None
    """Of the rate at which this machine reads memory, what steps reached."""
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    """Of prompts, which were not read because a cached state had seen them."""
    drafted_tokens: int
    """Guesses of what comes next that were checked."""
    accepted_tokens: int
    """Those of them that came true."""
    cached_states: int
    cached_bytes: int
    disk_states: int
    disk_bytes: int
    engine_restarts: int


class ServerFigures(BaseModel):
    """What runs here."""

    name: str
    version: str
    uptime_seconds: float
    needs_key: bool
    open_requests: int
    open_streams: int
    models: list[ModelFigures]


def overview_router(models: ModelRegistry, traffic: Traffic, *, needs_key: bool) -> APIRouter:
    """`/` and `/stats`."""
    router = APIRouter(tags=["Server"])
    page = resources.files("wingbeat.server").joinpath("page.html").read_text(encoding="utf-8")
    began = time.monotonic()

    @router.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, "Vary": "Accept"})
        about = {"name": "wingbeat", "version": version(), "model": models.first.name, "docs": "/docs", "openai": "/v1"}
        return JSONResponse(about, headers={"Vary": "Accept"})

    @router.get("/stats", response_model=ServerFigures)
    async def stats() -> Response:
        """Live figures: what the page at `/` shows."""
        return JSONResponse(
            {
                "name": "wingbeat",
                "version": version(),
                "uptime_seconds": round(time.monotonic() - began, 1),
                "needs_key": needs_key,
                "open_requests": len(traffic.active),
                "open_streams": traffic.open_streams,
                "models": [_figures_of(model, traffic) for model in models.models],
            },
            headers={"Cache-Control": "no-store"},
        )

    return router


def _figures_of(model: ServedModel, traffic: Traffic) -> dict[str, Any]:
    info, load, totals, recent = model.info, model.client.stats(), model.figures.totals(), model.figures.recent()
    return {
        "id": model.name,
        "status": status_of(model, traffic),
        "progress": progress_of(model, traffic),
        "architecture": f"RWKV-{info['version']}" if info else None,
        **{name: info.get(name) or None for name in ("parameters", "dtype", "backend", "kernels")},
        "slots": load.slots,
        "running": load.running,
        "waiting": load.waiting,
        **{name: _short(value) for name, value in recent._asdict().items() if name != "bandwidth"},
        "bandwidth_share": _short(model.figures.bandwidth_share()),
        "prompt_tokens": totals.prompt_tokens,
        "generated_tokens": totals.generated_tokens,
        "cached_tokens": totals.cached_tokens,
        "drafted_tokens": totals.drafted_tokens,
        "accepted_tokens": totals.accepted_tokens,
        **{name: getattr(load, name) for name in ("cached_states", "cached_bytes", "disk_states", "disk_bytes")},
        "engine_restarts": model.client.restarts,
    }


def _short(value: float | None) -> float | None:
    """Four digits are all that such a figure has."""
    return None if value is None else float(f"{value:.4g}")
