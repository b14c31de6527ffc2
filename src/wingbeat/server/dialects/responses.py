"""OpenAI's Responses API: POST /v1/responses, for unmodified OpenAI clients. Nothing is stored."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from wingbeat.server.body import read_model
from wingbeat.server.dialects.openai_answer import encode
from wingbeat.server.dialects.openai_chat import ChatPrompt, conversation_prompt
from wingbeat.server.dialects.openai_replies import ERRORS
from wingbeat.server.dialects.openai_request import begin, ready_model, settling, start_of
from wingbeat.server.dialects.openai_sampling import sampling_params, with_budget
from wingbeat.server.dialects.openai_states import returned_states
from wingbeat.server.dialects.responses_answer import ResponseAnswer
from wingbeat.server.dialects.responses_input import conversation
from wingbeat.server.dialects.responses_replies import InputTokens, ResponseEvent, ResponseReply
from wingbeat.server.dialects.responses_schema import NOT_STORED, ResponsesBody
from wingbeat.server.errors import ApiError, unsupported
from wingbeat.server.openapi import body_of, stream_of
from wingbeat.server.registry import ModelRegistry, ServedModel, Start
from wingbeat.server.session_turn import Turn, session_turn
from wingbeat.server.starts import Starts
from wingbeat.server.streaming import EventStream, collect
from wingbeat.services.sessions import SessionStore
from wingbeat.services.states import StateStore

SCHEMAS = (ResponsesBody, ResponseEvent)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""


def responses_router(
    registry: ModelRegistry, store: StateStore, starts: Starts, sessions: SessionStore, max_body: int
) -> APIRouter:
    """The routes, without their prefix. Bodies over `max_body` bytes are refused."""
    router = APIRouter(prefix="/responses", tags=["OpenAI"])

    @router.post(
        "",
        response_model=ResponseReply,
        responses={200: stream_of(ResponseEvent), **ERRORS},
        openapi_extra=body_of(ResponsesBody),
    )
    async def create(request: Request) -> Response:
        """Answer a conversation, in the form of the Responses API."""
        body, model = await _asked(request)
        sampling = sampling_params(body, model, body.max_output_tokens, model.profile.stops, body.alternatives)
        async with session_turn(sessions, request, body.session_id, model) as turn:
            start = await start_of(body, starts, model, turn)
            prompt = await _prompt(body, model, start, turn)
            sampling = with_budget(sampling, body.thinking_budget, model, prompt.segments)
            sampling = await body.form.constrain(sampling, model, prompt.splitter())
            states = await returned_states(body, store, model, 1)
            answer = ResponseAnswer(model, body, prompt.splitter_of(sampling), states)
            generation = begin(body, model, prompt.prompts, sampling, start, turn)
        if body.stream:
            return EventStream(generation, answer, settling(answer, turn))
        await collect(request, generation, answer.take)
        await answer.settle()
        return Response(answer.whole(await turn.report() if turn else None), media_type="application/json")

    @router.post(
        "/input_tokens",
        response_model=InputTokens,
        responses={code: ERRORS[code] for code in (400, 401, 404, 413, 503)},
        openapi_extra=body_of(ResponsesBody),
    )
    async def count_input_tokens(request: Request) -> Response:
        """How many tokens the prompt of such a request has. Generates nothing."""
        body, model = await _asked(request)
        async with session_turn(sessions, request, body.session_id, model) as turn:
            prompt = await _prompt(body, model, await start_of(body, starts, model, turn), turn)
        counted = {"object": "response.input_tokens", "input_tokens": len(prompt.prompts[0])}
        return Response(encode(counted), media_type="application/json")

    @router.post("/compact", include_in_schema=False)
    async def compact() -> Response:
        raise unsupported("Compacting a conversation", "input")

    @router.get("/{response_id}", include_in_schema=False)
    @router.delete("/{response_id}", include_in_schema=False)
    @router.post("/{response_id}/cancel", include_in_schema=False)
    @router.get("/{response_id}/input_items", include_in_schema=False)
    async def stored(response_id: str) -> Response:
        message = f"There is no response {response_id[:100]!r}: {NOT_STORED}. Keep what POST /v1/responses replied."
        raise ApiError(404, message, param="response_id", code="response_not_found")

    async def _asked(request: Request) -> tuple[ResponsesBody, ServedModel]:
        body = await read_model(request, ResponsesBody, max_body)
        body.refuse_unsupported()
        return body, ready_model(registry, body)

    return router


async def _prompt(body: ResponsesBody, model: ServedModel, start: Start, turn: Turn | None) -> ChatPrompt:
    goes_on = bool(body.continue_final_message)
    messages = conversation(body.instructions, body.items, continue_final=goes_on)
    return await conversation_prompt(
        *(messages, model, "input"),
        thinking=body.thinking,
        effort=body.effort,
        continue_final=goes_on,
        last=body.truncate_prompt_tokens,
        follows=start.state is not None,
        turn=turn,
        form=body.form,
    )
