"""POST /v1/chat/completions: the route, which other dialects share."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from wingbeat.sampling.params import SamplingParams
from wingbeat.server.body import parse_model, read_raw, run_sized
from wingbeat.server.dialects.openai_answer import Answer
from wingbeat.server.dialects.openai_chat import CHAT, ChatChoice, chat_prompt, predict
from wingbeat.server.dialects.openai_chat_schema import ChatBody
from wingbeat.server.dialects.openai_prompt_logprobs import ScoredPrompt, ScoreGate, asked_fields
from wingbeat.server.dialects.openai_ranking import best_rows
from wingbeat.server.dialects.openai_replies import ERRORS, ChatChunk, ChatReply, ErrorReply
from wingbeat.server.dialects.openai_request import begin, ready_model, settling, start_of
from wingbeat.server.dialects.openai_sampling import sampling_params, with_budget
from wingbeat.server.dialects.openai_states import returned_states
from wingbeat.server.dialects.openai_tokens import TokenTexts
from wingbeat.server.errors import ApiError, openai_response
from wingbeat.server.openapi import body_of, stream_of
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.server.session_turn import session_turn
from wingbeat.server.starts import Starts
from wingbeat.server.streaming import EventStream, StreamedReply, collect
from wingbeat.services.sessions import SessionStore
from wingbeat.services.states import StateStore

Body = TypeVar("Body", bound=ChatBody)


class ChatForm(Generic[Body]):
    """How chats are asked for. A dialect that shares the route says here what it has beside OpenAI's fields."""

    described: ClassVar[dict[str, Any]] = {
        "response_model": ChatReply,
        "responses": {200: stream_of(ChatChunk, ErrorReply, end="[DONE]"), **ERRORS},
        "openapi_extra": body_of(ChatBody),
    }

    def __init__(self, body: type[Body]) -> None:
        self.body = body

    async def other(self, request: Request, raw: bytes) -> Response | None:
        """The answer to a body that is no chat at all."""
        return None

    def sampling(self, body: Body, model: ServedModel) -> SamplingParams:
        """How to draw what `body` asks for. Raises ApiError (400)."""
        return sampling_params(body, model, body.token_limit, model.profile.stops, body.sampled_logprobs)

    def streamed(self, body: Body, answer: StreamedReply) -> StreamedReply:
        """`answer` as it is to be streamed."""
        return answer


def chat_router(
    registry: ModelRegistry,
    store: StateStore,
    starts: Starts,
    sessions: SessionStore,
    max_body: int,
    form: ChatForm[Body],
) -> APIRouter:
    """The route of chats, without its prefix. Bodies over `max_body` bytes are refused."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/chat/completions", **form.described)
    async def chat(request: Request) -> Response:
        """Answer a conversation."""
        raw = await read_raw(request, max_body)
        if (reply := await form.other(request, raw)) is not None:
            return reply
        try:
            return await answer_chat(request, await parse_model(raw, form.body))
        except ApiError as error:
            return openai_response(error)

    async def answer_chat(request: Request, body: Body) -> Response:
        body.refuse_unsupported()
        model = ready_model(registry, body)
        sampling = form.sampling(body, model)
        count, answers = body.rows_per_prompt, body.form
        texts = TokenTexts(model.token_bytes, model.end_of_text)
        async with session_turn(sessions, request, body.session_id, model) as turn:
            start = await start_of(body, starts, model, turn)
            prompt = await chat_prompt(body, model, start, turn, answers)
            await predict(body, model, prompt)
            sampling = with_budget(sampling, body.thinking_budget, model, prompt.segments)
            sampling = await answers.constrain(sampling, model, prompt.splitter())
            splitters = [prompt.splitter_of(sampling) for _ in range(count)]
            choices = [ChatChoice(splitter, texts, answers, logprobs=bool(body.logprobs)) for splitter in splitters]
            states = await returned_states(body, store, model, body.n or 1)
            scored, wanted = [ScoredPrompt(prompt.prompts[0])], body.prompt_logprobs
            (prompt_logprobs,) = asked_fields(scored, texts, wanted, 1, "messages")
            answer = Answer(
                *(model, CHAT, choices),
                per_prompt=count,
                include_usage=body.include_usage,
                gate=iter if wanted is None else ScoreGate(scored, count).admit,
                states=states,
            )
            generation = begin(
                *(body, model, prompt.prompts, sampling, start, turn), choices=count, prompt_logprobs=wanted
            )
        if body.stream:
            return EventStream(generation, form.streamed(body, answer), settling(answer, turn))
        await collect(request, generation, answer.take)
        best = best_rows(choices, count, body.n or 1) if body.ranks else None
        if states is not None:
            await states.give(best)
        more = await turn.report() if turn else {}
        if prompt_logprobs is not None:
            more["prompt_logprobs"] = await run_sized(len(prompt.prompts[0]), prompt_logprobs.rendered)
        return Response(answer.whole(best, more), media_type="application/json")

    return router
