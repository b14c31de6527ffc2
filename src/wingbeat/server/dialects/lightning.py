"""rwkv_lightning's dialect: many prompts in one request, each a row of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from wingbeat.engine.client import Generation
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.lightning_answer import BatchAnswer, BatchStream
from wingbeat.server.dialects.lightning_errors import check_rows, in_own_shape, read_fields
from wingbeat.server.dialects.lightning_replies import ERRORS, BatchChunk, BatchReply, TextError
from wingbeat.server.dialects.lightning_sampling import joint, noisy, ordered, plain
from wingbeat.server.dialects.lightning_schema import BatchBody, BigBatchBody, InfillBody, ReplyBody, SamplingBody
from wingbeat.server.errors import bad_request
from wingbeat.server.openapi import body_of, stream_of
from wingbeat.server.registry import ModelRegistry, Prompts, ServedModel
from wingbeat.server.streaming import EventStream, collect

SCHEMAS = (BatchBody, BigBatchBody, InfillBody, BatchChunk, TextError)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""

TAG = "rwkv_lightning"


def describing(
    body: type[BaseModel], *events: type[BaseModel], errors: Mapping[int | str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """How a route that continues prompts is described. `events` and `errors`: what it has beside those of all."""
    return {
        "response_model": BatchReply,
        "response_model_exclude_none": True,
        "responses": {200: stream_of(BatchChunk, *events, TextError, end="[DONE]"), **ERRORS, **errors},
        "openapi_extra": body_of(body),
    }


class Version(NamedTuple):
    """What tells the batch routes apart."""

    sampling: Callable[[SamplingBody, ServedModel], SamplingParams]
    pads: bool = False
    """Whether `pad_zero` counts."""
    identity: str = "rwkv7-batch"


V1, V2, V3 = Version(noisy), Version(ordered, pads=True), Version(ordered, pads=True, identity="rwkv7-batch-v3")
BIG = Version(plain)


class Batches:
    """Answers requests with `contents`."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    async def answer(
        self, request: Request, body: BigBatchBody, version: Version, *, pad_zero: bool = False
    ) -> Response:
        """`pad_zero`: where the version knows that. Raises ApiError."""
        check_not_empty(body.contents)
        model = self._ready(len(body.contents), body)
        sampling = version.sampling(body, model)
        prompts = await model.encode([(text,) for text in body.contents], "contents")
        if pad_zero and version.pads:
            prompts = padded(prompts, model)
        answer = BatchAnswer(model, len(prompts), identity=version.identity, name=body.model)
        return await reply(request, body, answer, model.submit(prompts, 1, sampling, repeats=True))

    async def infill(self, request: Request, body: InfillBody) -> Response:
        """Text for each gap. Raises ApiError."""
        if len(body.prefix) != len(body.suffix):
            counts = f"prefix has {len(body.prefix)} texts, suffix {len(body.suffix)}"
            raise bad_request(f"{counts}: each gap needs one of both.", "suffix")
        check_not_empty(body.prefix)
        model = self._ready(len(body.prefix), body)
        gaps = zip(body.prefix, body.suffix, strict=True)
        prompts = await model.encode([(infill_prompt(*gap),) for gap in gaps], "prefix")
        answer = BatchAnswer(model, len(prompts), identity="rwkv7-batch", kind="FIM.completion", name=body.model)
        return await reply(request, body, answer, model.submit(prompts, 1, joint(body, model), repeats=True))

    def _ready(self, rows: int, body: ReplyBody) -> ServedModel:
        model = self._registry.first
        model.check_ready()
        check_rows(rows, model, stream=body.stream)
        return model


def lightning_router(batches: Batches, max_body: int) -> APIRouter:
    """The routes that are this dialect's alone."""
    router = APIRouter(tags=[TAG])

    @router.post("/big_batch/completions", **describing(BigBatchBody))
    @in_own_shape
    async def big_batch(request: Request) -> Response:
        """Continue many prompts, with a temperature and nothing else. A stream, if nothing else is asked for."""
        return await batches.answer(request, await read_fields(request, BigBatchBody, max_body), BIG)

    @router.post("/FIM/v1/batch-FIM", **describing(InfillBody))
    @in_own_shape
    async def infill(request: Request) -> Response:
        """Fill the gaps between texts. The model must have been trained for that."""
        return await batches.infill(request, await read_fields(request, InfillBody, max_body))

    return router


async def reply(request: Request, body: ReplyBody, answer: BatchAnswer, generation: Generation) -> Response:
    """The answer to a generation, as a stream if `body` wants one. Raises ApiError."""
    if body.stream:
        return EventStream(generation, BatchStream(answer, body.chunk_size, include_usage=body.include_usage))
    await collect(request, generation, answer.take)
    return Response(answer.whole(), media_type="application/json")


def padded(prompts: Prompts, model: ServedModel) -> Prompts:
    """Each prompt after the document start."""
    return Prompts([[model.start_token, *ids] for ids in prompts], prompts.fingerprint)


def infill_prompt(prefix: str, suffix: str) -> str:
    """What RWKV-7 G1 models were trained to continue with what lies between."""
    return f"✿prefix✿✿suffix✿{suffix}✿middle✿{prefix}"


def check_not_empty(texts: Sequence[str]) -> None:
    """Raises ApiError (400)."""
    if not texts:
        raise bad_request("Empty prompts list", "contents")
