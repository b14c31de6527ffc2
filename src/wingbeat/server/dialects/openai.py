"""The OpenAI dialect: /v1/models, /v1/completions and /v1/chat/completions, for unmodified OpenAI clients."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from wingbeat.server.body import read_model, run_sized
from wingbeat.server.dialects.openai_answer import Answer, encode
from wingbeat.server.dialects.openai_completions import (
    COMPLETION,
    CompletionChoice,
    completion_prompts,
)
from wingbeat.server.dialects.openai_completions_schema import CompletionBody
from wingbeat.server.dialects.openai_constraints import constrained
from wingbeat.server.dialects.openai_echo import echoed_prompts
from wingbeat.server.dialects.openai_prompt_logprobs import ScoredPrompt, ScoreGate, asked_fields
from wingbeat.server.dialects.openai_ranking import best_rows
from wingbeat.server.dialects.openai_replies import (
    ERRORS,
    ChatChunk,
    CompletionChunk,
    CompletionReply,
    ErrorReply,
    ModelCard,
    ModelList,
)
from wingbeat.server.dialects.openai_request import begin, ready_model, settling, start_of
from wingbeat.server.dialects.openai_sampling import sampling_params
from wingbeat.server.dialects.openai_states import returned_states
from wingbeat.server.dialects.openai_tokens import TokenTexts
from wingbeat.server.errors import ApiError
from wingbeat.server.openapi import body_of, stream_of
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.session_turn import session_turn
from wingbeat.server.starts import Starts
from wingbeat.server.streaming import EventStream, collect
from wingbeat.services.embedder import Embedder
from wingbeat.services.sessions import SessionStore
from wingbeat.services.states import StateStore

PREFIXES = ("/v1", "/openai/v1")

SCHEMAS = (ChatChunk, CompletionBody, CompletionChunk)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""


def openai_router(
    registry: ModelRegistry, store: StateStore, starts: Starts, sessions: SessionStore, max_body: int
) -> APIRouter:
    """The routes but those of chats, without their prefix. Bodies over `max_body` bytes are refused."""
    router = APIRouter(tags=["OpenAI"])

    @router.get("/models/", include_in_schema=False)
    @router.get("/models", response_model=ModelList, responses={401: ERRORS[401]})
    async def list_models() -> Response:
        """The models that are served."""
        embedder = [registry.embedder] if registry.embedder else []
        return _json({"object": "list", "data": [_card(model) for model in (*registry.models, *embedder)]})

    @router.get("/models/{model_id:path}", response_model=ModelCard, responses={k: ERRORS[k] for k in (401, 404)})
    async def get_model(model_id: str) -> Response:
        """One model."""
        return _json(_card(registry.exact(model_id)))

    @router.post(
        "/completions",
        response_model=CompletionReply,
        responses={200: stream_of(CompletionChunk, ErrorReply, end="[DONE]"), **ERRORS},
        openapi_extra=body_of(CompletionBody),
    )
    async def complete(request: Request) -> Response:
        """Continue one or several prompts."""
        body = await read_model(request, CompletionBody, max_body)
        body.refuse_unsupported()
        model = ready_model(registry, body)
        alternatives, per_prompt = body.prompt_alternatives, body.rows_per_prompt
        sampling = sampling_params(body, model, body.token_limit, (), body.sampled_logprobs)
        sampling = await constrained(sampling, model, body.form)
        async with session_turn(sessions, request, body.session_id, model) as turn:
            start = await start_of(body, starts, model, turn)
            prompts = await completion_prompts(body, model, start, turn)
            scored = [ScoredPrompt(ids) for ids in prompts]
            echoes = await echoed_prompts(body, model, scored)
            texts, stops = TokenTexts(model.token_bytes, model.end_of_text), bool(sampling.stop)
            fields = asked_fields(scored, texts, body.prompt_logprobs, body.n or 1, "prompt")
            choices = [
                CompletionChoice(texts, echo=echo, logprobs=body.logprobs, stops=stops, prompt_logprobs=field)
                for echo, field in zip(echoes or [None] * len(prompts), fields, strict=True)
                for _ in range(per_prompt)
            ]
            gate = iter if alternatives is None else ScoreGate(scored, per_prompt).admit
            states = await returned_states(body, store, model, len(prompts) * (body.n or 1))
            answer = Answer(
                *(model, COMPLETION, choices),
                per_prompt=per_prompt,
                include_usage=body.include_usage,
                gate=gate,
                states=states,
            )
            generation = begin(
                *(body, model, prompts, sampling, start, turn), choices=per_prompt, prompt_logprobs=alternatives
            )
        if body.stream:
            return EventStream(generation, answer, settling(answer, turn))
        await collect(request, generation, answer.take)
        best = best_rows(choices, per_prompt, body.n or 1) if body.ranks else None
        if states is not None:
            await states.give(best)
        size = 0 if alternatives is None else sum(map(len, prompts))
        more = await turn.report() if turn else None
        return Response(await run_sized(size, answer.whole, best, more), media_type="application/json")

    @router.get("/chat/completions", status_code=404, response_model=ErrorReply, responses={401: ERRORS[401]})
    @router.api_route("/chat/completions/{name}", methods=["GET", "POST", "DELETE"], include_in_schema=False)
    @router.get("/chat/completions/{name}/messages", include_in_schema=False)
    async def stored_chats(request: Request) -> Response:
        """Nothing is stored: the answer is always 404."""
        raise ApiError(404, "There are no stored completions: `store` is without effect here.", code="not_found")

    return router


def _card(model: ServedModel | Embedder) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "wingbeat"}


def _json(value: Any) -> Response:
    return Response(encode(value), media_type="application/json")
