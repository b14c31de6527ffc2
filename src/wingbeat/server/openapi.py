"""The OpenAPI document: what FastAPI finds by itself, and the bodies and streams that are read and sent by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from wingbeat.server.auth import OPEN_PATHS

_REF = "#/components/schemas/{model}"


def body_of(*models: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads one of `models` from its body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _any_of(models)}}}}


def stream_of(*events: type[BaseModel], end: str | None = None) -> dict[str, Any]:
    """The extra content type of a route that may stream `events`, and then the text `end`.

    OpenAPI 3.1 describes each event by itself.
    """
    content = _any_of(events)
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    if end is not None:
        data = {"anyOf": [{"const": end}, data]}
    event = {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}
    return {
        "description": "The reply; with `stream`, events with a part of it each.",
        "content": {"text/event-stream": {"schema": event}},
    }


def _any_of(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    kinds = [{"$ref": _REF.format(model=model.__name__)} for model in models]
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def serve_docs(app: FastAPI) -> None:
    """The page for people at /docs, with scripts that this server sends itself: it works without the Internet."""
    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))  # located, never imported

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(  # relative addresses, so that a proxy may put the server under any path
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},
        )


def describe(app: FastAPI, models: Iterable[type[BaseModel]], *, needs_key: bool, open_paths: Iterable[str]) -> None:
    """Make `app.openapi` include `models` and, where one is needed, the API key; not on `open_paths`."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, models)
            if needs_key:
                _lock(app.openapi_schema, OPEN_PATHS.union(open_paths))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's 422, which this server never sends
        schemas.pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    return document


def _lock(document: dict[str, Any], open_paths: Set[str]) -> None:
    """All routes but those want the key."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    for path in open_paths & document["paths"].keys():
        for operation in document["paths"][path].values():
            operation["security"] = []
