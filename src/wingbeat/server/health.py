"""Whether the server takes requests (readiness) and whether it answers at all (liveness)."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.tracking import Traffic

Status = Literal["ok", "loading", "restarting", "failed", "closed", "stopping"]


class Health(BaseModel):
    """Whether requests are taken. The counts are rows: a request for `n` answers has `n`."""

    status: Status
    model: str
    running: int
    waiting: int
    slots: int
    progress: float | None = None
    """Share of the model that is loaded, 0 to 1, while it is loading."""
    error: str | None = None


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


def health_router(models: ModelRegistry, traffic: Traffic) -> APIRouter:
    """`/health` and `/health/live`."""
    router = APIRouter(tags=["Server"])

    @router.get("/healthz", include_in_schema=False)  # as other servers call it
    @router.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        """200 when requests are taken, 503 while the model is loading, its engine restarts or the server is stopping.

        Needs no key."""
        report = report_health(models.first, traffic)
        return JSONResponse(report.model_dump(exclude_none=True), 200 if report.status == "ok" else 503)

    @router.get("/health/live", response_model=Liveness)
    async def live() -> Response:
        """200 as long as the process answers, whatever the model does. Needs no key."""
        return JSONResponse(Liveness().model_dump())

    return router


def status_of(model: ServedModel, traffic: Traffic) -> str:
    """Whether requests for `model` are taken: `ok`, or why not."""
    return "stopping" if traffic.stopping else model.status


def progress_of(model: ServedModel, traffic: Traffic) -> float | None:
    """Share of the model that is loaded, 0 to 1, while it is loading."""
    done, total = model.client.progress
    return round(done / total, 3) if total and status_of(model, traffic) == "loading" else None


def report_health(model: ServedModel, traffic: Traffic) -> Health:
    stats = model.client.stats()
    status = status_of(model, traffic)
    return Health.model_validate(
        {
            "status": status,
            "model": model.name,
            "running": stats.running,
            "waiting": stats.waiting,
            "slots": stats.slots,
            "progress": progress_of(model, traffic),
            "error": model.failure or (model.client.error if status not in ("ok", "stopping") else None),
        }
    )
