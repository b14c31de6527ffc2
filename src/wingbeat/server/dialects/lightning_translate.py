"""rwkv_lightning's translation, as the browser extension Immersive Translate asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.lightning import TAG
from wingbeat.server.dialects.lightning_answer import BatchAnswer
from wingbeat.server.dialects.lightning_errors import check_rows, in_own_shape, read_fields
from wingbeat.server.dialects.lightning_replies import ERRORS, TranslateReply
from wingbeat.server.dialects.lightning_schema import Body, Texts, shown
from wingbeat.server.errors import ApiError
from wingbeat.server.openapi import body_of
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.streaming import collect
from wingbeat.services.languages import AUTO, detect_all, same_language
from wingbeat.services.translation import CutText, cut_at_marks, keeps_marks, marks_in, one_line, prompt, stops

MAX_TOKENS = 2_048
"""Of a piece's translation."""


class TranslateBody(Body):
    model_config = shown({"source_lang": "en", "target_lang": "zh-CN", "text_list": ["Hello world!", "Good morning"]})

    source_lang: str = Field(AUTO, max_length=100, description="A code such as `en` or `zh-CN`, a name, or `auto`.")
    target_lang: str = Field(min_length=1, max_length=100, description="A code or a name.")
    text_list: Texts = Field(description="The texts. Each is translated alone.")
    placeholders: list[str] | None = Field(None, description="Without effect: marks are known by their form.")
    password: str | None = Field(None, description="A key, where the server wants one; or send it as a header.")


SCHEMAS = (TranslateBody,)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""


class Job(NamedTuple):
    """A piece to translate."""

    text: str
    source: str
    target: str


class Outcome(NamedTuple):
    text: str
    error: str | None = None


def translate_router(registry: ModelRegistry, max_body: int) -> APIRouter:
    router = APIRouter(tags=[TAG])

    @router.post(
        "/translate/v1/batch-translate",
        response_model=TranslateReply,
        responses=ERRORS,
        openapi_extra=body_of(TranslateBody),
    )
    @in_own_shape
    async def translate(request: Request) -> Response:
        """Translate texts, each by itself. One that fails says why; the others are there."""
        body = await read_fields(request, TranslateBody, max_body)
        model = registry.first
        model.check_ready()
        check_rows(len(body.text_list), model)
        sources = [body.source_lang] * len(body.text_list)
        if body.source_lang.strip().lower() in ("", AUTO):
            sources = await asyncio.to_thread(detect_all, body.text_list)
        texts = [Job(text, source, body.target_lang) for text, source in zip(body.text_list, sources, strict=True)]
        outcomes = await _texts_in(request, model, texts)
        if texts and all(outcome.error for outcome in outcomes):
            raise ApiError(500, outcomes[0].error or "", code="generation_failed")
        return JSONResponse({"translations": [_entry(*pair) for pair in zip(texts, outcomes, strict=True)]})

    return router


def _entry(job: Job, outcome: Outcome) -> dict[str, Any]:
    entry = {"detected_source_lang": job.source, "text": outcome.text.strip()}
    return {**entry, "error": outcome.error} if outcome.error else entry


async def _texts_in(request: Request, model: ServedModel, texts: Sequence[Job]) -> list[Outcome]:
    """The translation of each text. Raises ApiError when they have too many lines, or the engine is gone."""
    cut = [CutText(text.text) for text in texts]
    jobs = [text._replace(text=piece.text) for text, whole in zip(texts, cut, strict=True) for piece in whole.wanted]
    check_rows(len(jobs), model)
    found = iter(await _marked(request, model, jobs))
    return [_join(whole, [next(found) for _ in whole.wanted]) for whole in cut]


async def _marked(request: Request, model: ServedModel, jobs: Sequence[Job]) -> list[Outcome]:
    """The translation of each piece, with all of its marks."""
    outcomes = await _generate(request, model, jobs)
    lost = [
        row
        for row, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True))
        if marks_in(job.text) and outcome.error is None and not keeps_marks(job.text, outcome.text)
    ]
    cut = [cut_at_marks(jobs[row].text) for row in lost]
    parts = [
        jobs[row]._replace(text=piece.text) for row, whole in zip(lost, cut, strict=True) for piece in whole.wanted
    ]
    found = iter(await _generate(request, model, parts))
    for row, whole in zip(lost, cut, strict=True):
        outcomes[row] = _join(whole, [next(found) for _ in whole.wanted])
    return outcomes


def _join(whole: CutText, outcomes: Sequence[Outcome]) -> Outcome:
    error = next((outcome.error for outcome in outcomes if outcome.error), None)
    return Outcome("", error) if error else Outcome(whole.joined([outcome.text for outcome in outcomes]))


async def _generate(request: Request, model: ServedModel, jobs: Sequence[Job]) -> list[Outcome]:
    """What the model writes for each piece; one in the target's language stays as it is."""
    outcomes = [Outcome(job.text) for job in jobs]
    rows = [row for row, job in enumerate(jobs) if not same_language(job.source, job.target)]
    if not rows:
        return outcomes
    prompts = await model.encode([(prompt(*jobs[row]),) for row in rows], "text_list")
    answer = BatchAnswer(model, len(rows), identity="")
    ends = stops(code for row in rows for code in jobs[row][1:])
    sampling = SamplingParams(temperature=0, max_tokens=_limit(map(len, prompts)), stop=ends)
    await collect(request, model.submit(prompts, 1, sampling), answer.take)
    for row, written in zip(rows, answer.rows, strict=True):
        outcomes[row] = Outcome(one_line(written.flush()), written.error)
    return outcomes


def _limit(prompts: Iterable[int]) -> int:
    """The most tokens of an answer: a model that repeats itself must not go on for ever."""
    return min(MAX_TOKENS, 64 + 4 * max(prompts))
