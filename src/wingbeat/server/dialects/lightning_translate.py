"""rwkv_lightning's translation, as the browser extension Immersive Translate asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import AfterValidator, Field
from starlette.responses import JSONResponse, Response

from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.lightning import TAG
from wingbeat.server.dialects.lightning_answer import BatchAnswer
from wingbeat.server.dialects.lightning_errors import check_rows, in_own_shape, most_rows, read_fields, too_many_rows
from wingbeat.server.dialects.lightning_replies import ERRORS, TranslateReply
from wingbeat.server.dialects.lightning_schema import Body, Texts, shown
from wingbeat.server.errors import ApiError
from wingbeat.server.openapi import body_of
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.streaming import collect
from wingbeat.services.detection import detect_all
from wingbeat.services.languages import AUTO, check_language
from wingbeat.services.translation import Job, Outcome, TooManyPieces, Translator, Written


def _source(value: str) -> str:
    return AUTO if value.strip().lower() in ("", AUTO) else check_language(value)


class TranslateBody(Body):
    model_config = shown({"source_lang": "en", "target_lang": "zh-CN", "text_list": ["Hello world!", "Good morning"]})

    source_lang: Annotated[str, AfterValidator(_source)] = Field(
        AUTO, description="A code such as `en` or `zh-CN`, a name of up to 64 characters, or `auto`."
    )
    target_lang: Annotated[str, AfterValidator(check_language)] = Field(
        description="A code, or a name of up to 64 characters."
    )
    text_list: Texts = Field(description="The texts. Each is translated alone.")
    placeholders: list[str] | None = Field(None, description="Without effect: marks are known by their form.")
    password: str | None = Field(None, description="A key, where the server wants one; or send it as a header.")


SCHEMAS = (TranslateBody,)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""


def translate_router(registry: ModelRegistry, max_body: int) -> APIRouter:
    router = APIRouter(tags=[TAG])

    @router.post(
        "/translate/v1/batch-translate",
        response_model=TranslateReply,
        responses=ERRORS,
        openapi_extra=body_of(TranslateBody),
    )
    @in_own_shape
    async def batch_translate(request: Request) -> Response:
        """Translate texts, each by itself. One that fails says why; the others are there."""
        body = await read_fields(request, TranslateBody, max_body)
        model = registry.first
        model.check_ready()
        check_rows(len(body.text_list), model)
        sources = [body.source_lang] * len(body.text_list)
        if body.source_lang == AUTO:
            sources = await asyncio.to_thread(detect_all, body.text_list, body.target_lang)
        jobs = [Job(text, source, body.target_lang) for text, source in zip(body.text_list, sources, strict=True)]
        outcomes = await _translate(request, model, jobs)
        if jobs and all(outcome.failed for outcome in outcomes):
            raise ApiError(500, outcomes[0].error or "", code="generation_failed")
        return JSONResponse({"translations": [_entry(*pair) for pair in zip(jobs, outcomes, strict=True)]})

    return router


def _entry(job: Job, outcome: Outcome) -> dict[str, Any]:
    entry = {"detected_source_lang": job.source, "text": outcome.text.strip()}
    return {**entry, "error": outcome.error} if outcome.error else entry


async def _translate(request: Request, model: ServedModel, jobs: Sequence[Job]) -> list[Outcome]:
    """Raises ApiError: 400 for texts of more pieces than rows may be, and when the client leaves."""

    async def write(prompts: Sequence[str], stops: tuple[str, ...], most_tokens: int) -> list[Written]:
        encoded = await model.encode([(prompt,) for prompt in prompts], "text_list")
        sampling = SamplingParams(temperature=0, max_tokens=most_tokens, stop=stops)
        answer = BatchAnswer(model, len(prompts), identity="")
        await collect(request, model.submit(encoded, 1, sampling), answer.take)
        return [Written(row.flush(), row.finish_reason != "length", row.error) for row in answer.rows]

    try:
        return await Translator(write, most_rows(model)).translate(jobs)
    except TooManyPieces as found:
        raise too_many_rows(found.pieces, model) from None
