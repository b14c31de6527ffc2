"""`POST /models/load`: another model, or the same with other settings, while the server stays up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wingbeat.config import DEMO, AdapterSettings, ConfigError, Settings
from wingbeat.engine.messages import EngineConfig
from wingbeat.server.body import read_model
from wingbeat.server.dialects.openai_replies import ERRORS, ErrorReply
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.health import Health, report_health
from wingbeat.server.openapi import body_of
from wingbeat.server.registry import ModelRegistry
from wingbeat.server.replace import Replacement, ReplacementError
from wingbeat.server.tracking import Traffic

OWN = ("loras", "states", "default_state", "tokenizer", "profile", "gn_eps")
"""Settings that belong to one model: another one begins without them."""


_ERRORS: dict[int | str, dict[str, Any]] = {
    **{code: ERRORS[code] for code in (400, 401, 413, 415)},
    403: {"model": ErrorReply, "description": "This server does not load other models."},
    409: {"model": ErrorReply, "description": "Another model is being loaded."},
}


class LoraBody(BaseModel):
    """A file of fine-tuning in the models folder."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    file: str = Field(description="Its name in the models folder.")
    alpha: float | None = Field(None, description="Default: its rank.")


class LoadBody(BaseModel):
    """What to load. What is left out stays as the server was started, but for what belongs to one model only."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [{"model": DEMO}]}
    )

    model: str = Field(min_length=1, max_length=255, description="Its name in the models folder, or `demo`.")
    dtype: Literal["auto", "float32", "bfloat16", "int8", "int4", "nf4", "sf4"] | None = None
    quant: Literal["int8", "int4", "nf4", "sf4"] | None = Field(None, description="Of the matrices of layers.")
    quant_layers: int | None = Field(None, ge=0, description="Layers that `quant` holds for. Default: all.")
    strategy: str | None = Field(None, description="In place of these three: the rwkv package's words.")
    gn_eps: float | None = Field(None, gt=0, description="Epsilon of the GroupNorms.")
    loras: list[LoraBody] | None = Field(None, max_length=64, description="Merged one after the other.")
    states: dict[str, str] | None = Field(None, description="Files of initial states in the models folder, by name.")
    default_state: str | None = Field(None, description="Name of the one for requests that name none.")
    tokenizer: Literal["world", "20b", "midi", "piano", "abc", "bytes"] | None = None
    profile: str | None = Field(None, description="The chat format. Default: found from the model.")
    max_batch: int | None = Field(None, ge=1, description="Sequences generated at the same time.")


def load_router(
    registry: ModelRegistry, replacement: Replacement, settings: Settings, traffic: Traffic, max_body: int
) -> APIRouter:
    """`POST /models/load`, for a server that allows it."""
    router = APIRouter(tags=["Server"])

    @router.post("/models/load", response_model=Health, responses=_ERRORS, openapi_extra=body_of(LoadBody))
    async def load(request: Request) -> Response:
        """Serve another model in the place of the one that is served; answers when it is ready.

        Requests that run may finish, for as long as at the end of the server. A load that fails leaves the old model.
        """
        if not settings.allow_load:
            message = "This server does not load other models: start it with --allow-load."
            raise ApiError(403, message, code="loading_not_allowed")
        body = await read_model(request, LoadBody, max_body)
        if replacement.busy:
            raise ApiError(409, "Another model is being loaded: wait until that is done.", code="loading")
        try:
            await replacement.replace(registry.first, load_config(settings, body))
        except ReplacementError as error:
            raise bad_request(f"The model cannot be loaded: {error}", "model") from None
        return JSONResponse(report_health(registry.first, traffic).model_dump(exclude_none=True))

    return router


def load_config(settings: Settings, body: LoadBody) -> EngineConfig:
    """The engine's settings. Raises ApiError (400) for files that are not in the models folder."""
    folder = settings.models_folder
    fields: dict[str, Any] = {
        name: value for name, value in body.model_dump(exclude={"loras", "states"}).items() if value is not None
    }
    if {"dtype", "quant", "quant_layers", "strategy"} & fields.keys():
        fields = {"dtype": "auto", "quant": None, "quant_layers": None, "strategy": None} | fields
    fields["loras"] = [
        AdapterSettings(path=_inside(folder, lora.file, f"loras[{i}].file"), alpha=lora.alpha)
        for i, lora in enumerate(body.loras or ())
    ]
    fields["states"] = {name: _inside(folder, file, f"states.{name}") for name, file in (body.states or {}).items()}
    unset = {name: Settings.model_fields[name].get_default(call_default_factory=True) for name in OWN}
    changed = Settings.model_construct(**{**vars(settings), **unset, **fields})
    if body.model != DEMO and Path(body.model).name != body.model:
        raise bad_request("model: the name of a model in the models folder is wanted, not a path.", "model")
    if body.model in (settings.model, Path(settings.model).name):
        changed.model = settings.model
    try:
        return changed.engine_config()
    except ConfigError as error:
        raise bad_request(str(error), "model") from None


def _inside(folder: Path, name: str, param: str) -> Path:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise bad_request(f"{param}: there is no file {name[:100]!r} in the models folder.", param)
    return path
