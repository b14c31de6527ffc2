"""Ai00's dialect: ranking of choices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from wingbeat.reading import Score, score_in, scoring_request
from wingbeat.server.body import read_model
from wingbeat.server.dialects.ai00_schema import ChoosesBody, ChoosesReply
from wingbeat.server.dialects.openai_answer import encode
from wingbeat.server.dialects.openai_replies import ERRORS
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.openapi import body_of
from wingbeat.server.reading import read_rows
from wingbeat.server.registry import ModelRegistry, Prompts, ServedModel, Start
from wingbeat.server.starts import Starts
from wingbeat.services.choosing import perplexity, rank

Pair = tuple[list[int], list[int]]
"""A context and a choice."""

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
            {
                "object": "choice",
                "index": choice.place,
                "rank": place,
                "choice": (body.choices or [])[choice.place],
                "perplexity": _finite(choice.perplexity),
            }
            for place, choice in enumerate(rank(values))
        ]
        reply = {"object": "list", "model": model.name, "data": data}
        return Response(encode(reply), media_type="application/json")

    return router


async def _scores(
    request: Request, body: ChoosesBody, model: ServedModel, start: Start
) -> tuple[list[Score], list[Score]]:
    """Of each choice: after the input, and after the start of a document if that is wanted."""
    texts = body.choices or []
    count = len(texts)
    choices = await model.encode([(text,) for text in texts], "choices", 2 if body.calibrate else 1)
    (context,) = await model.encode([(body.input,)], "input")
    _check_sum(context, choices, model)
    nothing = [model.start_token]
    pairs = [(context or nothing, choice) for choice in choices]
    if body.calibrate:
        pairs += [(nothing, choice) for choice in choices]
    places = [place for place, (_, choice) in enumerate(pairs) if choice]
    scores = [Score((), ())] * len(pairs)
    for group in _groups(pairs, places, model.max_prompt_tokens):
        wanted = scoring_request(choices.fingerprint, [pairs[place] for place in group])
        charged = len(context) + sum(len(pairs[place][1]) for place in group)  # the context is read once
        rows = await read_rows(request, model.read(wanted, start, charged, "choices"), model)
        for place, row in zip(group, rows, strict=True):
            scores[place] = score_in(row)
    return scores[:count], scores[count:]


def _check_sum(context: Sequence[int], choices: Prompts, model: ServedModel) -> None:
    """Raises ApiError (400) where context and choices are more than a request may have, each counted once."""
    total, most = len(context) + sum(map(len, choices)), model.max_prompt_tokens
    if total > most:
        message = f"choices: {total} tokens with those of the input, and a request may have {most}. Ask in parts."
        raise bad_request(message, "choices", "context_length_exceeded")


def _groups(pairs: Sequence[Pair], places: Iterable[int], most: int) -> Iterator[list[int]]:
    """The `places` of pairs that are scored together: each holds its context, and so many tokens they may have."""
    group: list[int] = []
    size = 0
    for place in places:
        size += sum(map(len, pairs[place]))
        if group and size > most:
            yield group
            group, size = [], sum(map(len, pairs[place]))
        group.append(place)
    if group:
        yield group


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
