"""From a checked body to what the engine is asked: which model, from which state on, for whom."""

from __future__ import annotations

from typing import Literal, Protocol

from wingbeat.engine.client import Generation
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.openai_schema import GenerationBody
from wingbeat.server.errors import bad_request
from wingbeat.server.registry import ModelRegistry, Prompts, ServedModel, Start
from wingbeat.server.session_turn import Turn
from wingbeat.server.starts import Starts
from wingbeat.server.streaming import Settle


class Settling(Protocol):
    async def settle(self) -> bytes:
        """The events of what has to be done before the end."""
        ...


def ready_model(registry: ModelRegistry, body: GenerationBody) -> ServedModel:
    """The model that the request names. Raises ApiError: 404 when there is none, 503 while it cannot be asked."""
    model = registry.find(body.model)
    model.check_ready()
    return model


async def start_of(body: GenerationBody, starts: Starts, model: ServedModel, turn: Turn | None) -> Start:
    """Where the request begins; a session's turns all begin where its first one did.

    Raises ApiError: 400 for a kept state in a session, or for another state than its own, and as `Starts.find`.
    """
    if turn is None:
        return await starts.find(body.state, model)
    start = await starts.find(turn.check_state(body.state), model)
    if start.state is not None:
        problem = "state: a session begins from an initial state. With return_state and state the client keeps its own."
        raise bad_request(problem, "state", "state_refused")
    if turn.state is None:
        turn.state = body.state or starts.default_name(model)
    return start


def begin(
    body: GenerationBody,
    model: ServedModel,
    prompts: Prompts,
    sampling: SamplingParams,
    start: Start,
    turn: Turn | None,
    *,
    choices: int = 1,
    prompt_logprobs: int | None = None,
) -> Generation:
    """`ServedModel.submit` with what the body says of states and the cache. The session of `turn` keeps the answer.

    Raises ApiError.
    """
    end: tuple[Literal["end"], ...] = ("end",) if body.return_state else ()
    generation = model.submit(
        prompts,
        choices,
        sampling,
        prompt_logprobs=prompt_logprobs,
        start=start,
        keep=end if turn is None else (*end, "reply"),
        session=None if turn is None else turn.name,
        cache=not body.no_cache,
    )
    if turn is not None:
        turn.follow(generation)
    return generation


def settling(answer: Settling, turn: Turn | None) -> Settle:
    """What a stream waits for before it ends: the answer's own part, and that its session has it."""

    async def settle() -> bytes:
        events = await answer.settle()
        if turn is not None:
            await turn.settle()
        return events

    return settle
