"""The OpenAI dialect: /v1/models, /v1/completions and /v1/chat/completions, for unmodified OpenAI clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from wingbeat.sampling.params import SamplingParams
from wingbeat.server.body import read_model
from wingbeat.server.dialects.openai_answer import Answer, encode
from wingbeat.server.dialects.openai_chat import CHAT, ChatChoice, chat_prompt
from wingbeat.server.dialects.openai_completions import (
    COMPLETION,
    CompletionChoice,
    completion_prompts,
    echoes,
)
from wingbeat.server.dialects.openai_replies import (
    ChatChunk,
    ChatReply,
    CompletionChunk,
    CompletionReply,
    ErrorReply,
    ModelCard,
    ModelList,
)
from wingbeat.server.dialects.openai_schema import ChatBody, CompletionBody, GenerationBody
from wingbeat.server.dialects.openai_tokens import TokenTexts
from wingbeat.server.openapi import body_of, stream_of
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.streaming import EventStream, collect

T = TypeVar("T")

PREFIXES = ("/v1", "/openai/v1")

SCHEMAS = (ChatBody, ChatChunk, CompletionBody, CompletionChunk)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "A field is wrong or not supported; `param` names it."},
    401: {"model": ErrorReply, "description": "An API key is wanted."},
    404: {"model": ErrorReply, "description": "No such model."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    429: {"model": ErrorReply, "description": "The queue is full; try again after `Retry-After` seconds."},
    500: {"model": ErrorReply, "description": "The generation failed."},
    503: {"model": ErrorReply, "description": "The model is loading or restarting."},
}


def openai_router(registry: ModelRegistry, max_body: int) -> APIRouter:
    """The routes, without their prefix. Bodies over `max_body` bytes are refused."""
    router = APIRouter(tags=["OpenAI"])

    @router.get("/models/", include_in_schema=False)
    @router.get("/models", response_model=ModelList, responses={401: _ERRORS[401]})
    async def list_models() -> Response:
        """The models that are served."""
        return _json({"object": "list", "data": [_card(model) for model in registry.models]})

    @router.get("/models/{model_id:path}", response_model=ModelCard, responses={k: _ERRORS[k] for k in (401, 404)})
    async def get_model(model_id: str) -> Response:
        """One model."""
        return _json(_card(registry.exact(model_id)))

    @router.post(
        "/completions",
        response_model=CompletionReply,
        responses={200: stream_of(CompletionChunk), **_ERRORS},
        openapi_extra=body_of(CompletionBody),
    )
    async def complete(request: Request) -> Response:
        """Continue one or several prompts."""
        body = await read_model(request, CompletionBody, max_body)
        body.refuse_unsupported()
        model = _ready(registry, body)
        prompts = await completion_prompts(body, model)
        sampling = _sampling(body, model, body.token_limit, (), body.logprobs)
        count = body.n or 1
        texts, stops = TokenTexts(model.token_bytes), bool(sampling.stop)
        choices = [
            CompletionChoice(texts, echo=echo, logprobs=body.logprobs, stops=stops)
            for echo in await echoes(body, model)
            for _ in range(count)
        ]
        answer = Answer(model, COMPLETION, choices, per_prompt=count, include_usage=body.include_usage)
        return await _answer(request, model, body, prompts, sampling, answer)

    @router.post(
        "/chat/completions",
        response_model=ChatReply,
        responses={200: stream_of(ChatChunk), **_ERRORS},
        openapi_extra=body_of(ChatBody),
    )
    async def chat(request: Request) -> Response:
        """Answer a conversation."""
        body = await read_model(request, ChatBody, max_body)
        body.refuse_unsupported()
        model = _ready(registry, body)
        prompt = await chat_prompt(body, model)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        sampling = _sampling(body, model, body.token_limit, model.profile.stops, logprobs)
        count = body.n or 1
        texts = TokenTexts(model.token_bytes)
        choices = [
            ChatChoice(model.profile.splitter(prompt.segments), texts, logprobs=logprobs is not None)
            for _ in range(count)
        ]
        answer = Answer(model, CHAT, choices, per_prompt=count, include_usage=body.include_usage)
        return await _answer(request, model, body, [prompt.ids], sampling, answer)

    return router


def _ready(registry: ModelRegistry, body: GenerationBody) -> ServedModel:
    model = registry.find(body.model)
    model.check_ready()
    return model


async def _answer(
    request: Request,
    model: ServedModel,
    body: GenerationBody,
    prompts: Sequence[list[int]],
    sampling: SamplingParams,
    answer: Answer,
) -> Response:
    """Generate `n` rows for each prompt; reply as the client asked."""
    generation = model.submit(prompts, body.n or 1, sampling)
    if body.stream:
        return EventStream(generation, answer)
    await collect(request, generation, answer.take)
    return Response(answer.whole(), media_type="application/json")


def _sampling(
    body: GenerationBody, model: ServedModel, max_tokens: int | None, stops: Sequence[str], logprobs: int | None
) -> SamplingParams:
    """OpenAI's defaults for what is absent. Raises ApiError (400) for token ids outside the vocabulary."""
    bias, stop_ids = body.logit_bias or {}, body.stop_token_ids or []
    model.check_tokens(bias, "logit_bias")
    model.check_tokens(stop_ids, "stop_token_ids")
    return SamplingParams(
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=_or(body.top_k, 0),
        min_p=_or(body.min_p, 0.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        logit_bias=bias,
        seed=body.seed,
        max_tokens=max_tokens,
        stop=tuple(dict.fromkeys((*stops, *(body.stop or ())))),
        stop_token_ids=model.profile.stop_ids(stop_ids, ignore_eos=bool(body.ignore_eos)),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _card(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "wingbeat"}


def _json(value: Any) -> Response:
    return Response(encode(value), media_type="application/json")
