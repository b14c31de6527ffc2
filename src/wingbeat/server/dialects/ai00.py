"""Ai00's dialect: ranking of choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from wingbeat.reading import Score, score_in, scoring_request
from wingbeat.server.body import read_model
from wingbeat.server.dialects.ai00_schema import ChoosesBody, ChoosesReply
from wingbeat.server.dialects.openai_answer import encode
from wingbeat.server.dialects.openai_replies import ERRORS
from wingbeat.server.errors import ApiError
from wingbeat.server.openapi import body_of
from wingbeat.server.reading import read_rows
from wingbeat.server.registry import ModelRegistry, Prompts, ServedModel, Start
from wingbeat.server.starts import Starts
from wingbeat.services.choosing import perplexity, rank

PREFIXES = ("/api/oai", "/api/oai/v1")

SCHEMAS = (ChoosesBody,)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""


def chooses_router(registry: ModelRegistry, starts: Starts, max_body: int, *, any_model: bool) -> APIRouter:
    """The route, without its prefix. `any_model`: whatever a request calls the model."""
    router = APIRouter(tags=["Scoring"])

    @router.post("/chooses", response_model=ChoosesReply, responses=ERRORS, openapi_extra=body_of(ChoosesBody))
    async def choose(request: Request) -> Response:
        """Rank texts by how likely they follow another one."""
        body = await read_model(request, ChoosesBody, max_body)
        model = registry.first if any_model else registry.find(body.model or None)
        model.check_ready()
        scores, alone = await _scores(request, body, model, await _start(body.state, starts, model))
        values = [perplexity(*pair) for pair in zip(scores, alone or [None] * len(scores), strict=True)]
        data = [
            {"object": "choice", "index": choice.place, "rank": place, "perplexity": _finite(choice.perplexity)}
            for place, choice in enumerate(rank(values))
        ]
        reply = {"object": "list", "model": model.name, "data": data}
        return Response(encode(reply), media_type="application/json")

    return router


async def _scores(
    request: Request, body: ChoosesBody, model: ServedModel, start: Start
) -> tuple[list[Score], list[Score]]:
    """Of each choice: after the input, and after the start of a document if that is wanted."""
    count = len(body.choices)
    choices = await model.encode([(text,) for text in body.choices], "choices", 2 if body.calibrate else 1)
    context = await model.encode([(body.input,)], "input", max(count, 1))
    nothing = [model.start_token]
    pairs = [(context[0] or nothing, choice) for choice in choices]
    if body.calibrate:
        pairs += [(nothing, choice) for choice in choices]
    places = [place for place, (_, choice) in enumerate(pairs) if choice]
    scores = [Score((), ())] * len(pairs)
    if places:
        wanted = scoring_request(choices.fingerprint, [pairs[place] for place in places])
        generation = model.read(wanted, start, _charged(context, choices), "choices")
        rows = await read_rows(request, generation, model)
        for place, row in zip(places, rows, strict=True):
            scores[place] = score_in(row)
    return scores[:count], scores[count:]


def _charged(context: Prompts, choices: Sequence[list[int]]) -> int:
    """Tokens that are read: the context once."""
    return len(context[0]) + sum(map(len, choices))


async def _start(state: str | None, starts: Starts, model: ServedModel) -> Start:
    """Ai00 begins from the default state where it knows no state of such an id. Raises ApiError as `Starts.find`."""
    try:
        return await starts.find(state or None, model)
    except ApiError as error:
        if error.status != 404 or not _is_uuid(state or ""):
            raise
        return await starts.find(None, model)


def _is_uuid(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False


def _finite(value: float) -> Any:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
