"""The answer to one request of the Responses API, streamed or whole."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from wingbeat.engine.messages import RowOutput
from wingbeat.server.dialects.openai_answer import check_row, encode, ended_early
from wingbeat.server.dialects.openai_chat import ChatChoice
from wingbeat.server.dialects.openai_states import ReturnedStates
from wingbeat.server.dialects.openai_tokens import TokenTexts
from wingbeat.server.dialects.responses_output import (
    CALL,
    MESSAGE,
    REASONING,
    CallItem,
    EventWriter,
    ItemKind,
    OutputItem,
)
from wingbeat.server.dialects.responses_schema import ResponsesBody
from wingbeat.server.errors import ApiError, openai_error
from wingbeat.server.registry import ServedModel
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.tool_calls import WrittenCall

Ending = Literal["completed", "incomplete"]


class _Addition(NamedTuple):
    """What a step adds to an item of this kind; when the current one is of another, a new item begins."""

    kind: ItemKind
    text: str
    logprobs: bytes = b""
    call: WrittenCall | None = None
    """The call that the text belongs to, for a call's item."""


class ResponseAnswer:
    """Turns the one row of a generation into a response. Streamed and whole, it is made of the same additions."""

    def __init__(
        self,
        model: ServedModel,
        body: ResponsesBody,
        splitter: ReasoningSplitter,
        states: ReturnedStates | None = None,
    ) -> None:
        texts = TokenTexts(model.token_bytes, model.end_of_text)
        self._model = model
        self._states = states
        self._choice = ChatChoice(splitter, texts, body.form, logprobs=body.alternatives is not None)
        self._identity = {"id": "resp_" + secrets.token_hex(24), "object": "response", "created_at": int(time.time())}
        self._settings = _settings(model, body)
        self._events = EventWriter()
        self._items: list[OutputItem] = []
        self._last: RowOutput | None = None

    # --- streamed

    def begin(self) -> bytes:
        response = self._response("in_progress", [])
        kinds = ("response.created", "response.in_progress")
        return b"".join(self._events.event(kind, response=response) for kind in kinds)

    def step(self, rows: Sequence[RowOutput]) -> bytes:
        events = bytearray()
        for row in rows:
            for addition in self._additions(row):
                events += self._streamed(addition)
        return bytes(events)

    def text_events(self) -> None:
        """Events are numbered."""
        return

    async def settle(self) -> bytes:
        """Keeps the state that the end of the response tells."""
        if self._states is not None:
            await self._states.give()
        return b""

    def end(self) -> bytes:
        ending = self._ending()
        response = self._finished(ending)
        return self._items[-1].closed(self._events, ending) + self._events.event(
            f"response.{ending}", response=response
        )

    def failure(self, error: ApiError) -> bytes:
        """`response.failed`, and then an `error`, at which OpenAI's own clients raise an exception."""
        details = openai_error(error)["error"]
        # The response's own codes are few; the event's tells more.
        failed = self._response(
            "failed", self._output("incomplete"), error={"code": "server_error", "message": error.message}
        )
        flat = {name: details[name] for name in ("code", "message", "param")}  # as documented
        return self._events.event("response.failed", response=failed) + self._events.event(
            "error", **flat, error=details
        )

    def _streamed(self, addition: _Addition) -> bytes:
        events = b""
        if not self._goes_on(addition):
            if self._items:
                events += self._items[-1].closed(self._events, "completed")
            events += self._new_item(addition).opened(self._events)
        item = self._items[-1]
        item.add(addition.text, addition.logprobs)
        if addition.text or addition.logprobs:
            events += item.grown(self._events, addition.text, addition.logprobs)
        return events

    # --- whole

    def take(self, rows: Sequence[RowOutput]) -> None:
        """Keep the rows of a step for `whole`. Raises ApiError for a row that failed."""
        for row in rows:
            for addition in self._additions(row):
                item = self._items[-1] if self._goes_on(addition) else self._new_item(addition)
                item.add(addition.text, addition.logprobs)

    def whole(self, more: Mapping[str, Any] | None = None) -> bytes:
        """The response as JSON, with the fields in ``more``. Raises ApiError when the generation ended early."""
        return encode({**self._finished(self._ending()), **(more or {})})

    # --- both

    def _additions(self, row: RowOutput) -> list[_Addition]:
        check_row(row, self._model)
        if row.finish_reason is not None:
            self._last = row
        piece = self._choice.push(row)
        if self._states is not None and row.finish_reason is not None:
            self._states.take(row, self._choice.rest_opening)
        additions = [_Addition(REASONING, piece.reasoning)] if piece.reasoning else []
        nothing = not (self._items or additions or piece.calls)
        if piece.text or self._answering or (self._last and nothing):
            logprobs = b"".join(piece.logprobs)
            additions.append(_Addition(MESSAGE, piece.text, logprobs))
        additions += [_Addition(CALL, call.arguments, call=self._choice.calls[call.place]) for call in piece.calls]
        return additions

    @property
    def _answering(self) -> bool:
        return bool(self._items) and self._items[-1].kind is MESSAGE

    def _goes_on(self, addition: _Addition) -> bool:
        last = self._items[-1] if self._items else None
        return last is not None and last.kind is addition.kind and last.call is addition.call

    def _new_item(self, addition: _Addition) -> OutputItem:
        place = len(self._items)
        item = OutputItem(addition.kind, place) if addition.call is None else CallItem(addition.call, place)
        self._items.append(item)
        return item

    def _ending(self) -> Ending:
        if self._last is None:
            raise ended_early()
        return "incomplete" if self._last.finish_reason == "length" else "completed"

    def _finished(self, ending: Ending) -> dict[str, Any]:
        completed = ending == "completed"
        return self._response(
            ending,
            self._output(ending),
            completed_at=int(time.time()) if completed else None,
            incomplete_details=None if completed else {"reason": "max_output_tokens"},
            usage=self._usage(),
            **({} if self._states is None else self._states.field(0)),
        )

    def _output(self, last: Ending) -> list[dict[str, Any]]:
        """All items. Only the last one can be incomplete."""
        return [item.whole("completed") for item in self._items[:-1]] + [item.whole(last) for item in self._items[-1:]]

    def _response(self, status: str, output: list[dict[str, Any]], **known: Any) -> dict[str, Any]:
        unknown = dict.fromkeys(("completed_at", "error", "incomplete_details", "usage"))
        return {**self._identity, "status": status, **unknown, **known, "output": output, **self._settings}

    def _usage(self) -> dict[str, Any]:
        assert self._last is not None
        read, written = self._last.prompt_tokens, self._last.completion_tokens
        return {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": self._last.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": self._choice.reasoning_tokens},
            "total_tokens": read + written,
        }


def _settings(model: ServedModel, body: ResponsesBody) -> dict[str, Any]:
    """What was asked for, given back: values in effect where they differ, such as for absent fields."""
    reasoning, text = body.reasoning, body.text
    form = text.format.given if text and text.format else {"type": "text"}
    return {
        "model": model.name,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "top_logprobs": body.top_logprobs or 0,
        "text": {"format": form, "verbosity": (text and text.verbosity) or "medium"},
        "reasoning": {"effort": body.effort, "summary": reasoning.summary if reasoning else None},
        "tools": [tool.given for tool in body.tools or ()],
        "tool_choice": body.tool_choice.given if body.tool_choice else "auto",
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "max_tool_calls": body.max_tool_calls,
        "truncation": body.truncation or "disabled",
        "metadata": body.metadata or {},
        "user": body.user,
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "prompt_cache_retention": body.prompt_cache_retention,
        "service_tier": "default",
        "store": False,
        "background": False,
        "previous_response_id": None,
        "conversation": None,
        "prompt": None,
    }
