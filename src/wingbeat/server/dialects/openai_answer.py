"""The answer to one OpenAI request, streamed or whole: envelopes, counts and order. Choices render themselves."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from wingbeat.engine.messages import RowOutput
from wingbeat.server.dialects.openai_logprobs import Columns
from wingbeat.server.dialects.openai_states import ReturnedStates
from wingbeat.server.errors import ApiError, openai_error, unavailable
from wingbeat.server.registry import ServedModel
from wingbeat.server.step_writer import TextEvents
from wingbeat.text.tool_calls import CallDelta

encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


_ANY_TEXT: Final = "\0text\0"


class Piece(msgspec.Struct, gc=False):
    """What a step adds to a choice."""

    text: str = ""
    reasoning: str = ""
    logprobs: Columns = ()
    finish_reason: str | None = None
    calls: Sequence[CallDelta] = ()


class Choice(Protocol):
    """One row of a request in its dialect. The methods that render give the fields of `choices[i]` without `index`."""

    @property
    def shown(self) -> Callable[[str], str] | None:
        """From an output's text to what is shown of it, where all chunks to come, but the last, differ in that alone.
        It does for those outputs what `push` does. None while chunks may differ in more."""
        ...

    @property
    def reasoning_tokens(self) -> int:
        """How many of the tokens so far were reasoning."""
        ...

    def push(self, row: RowOutput) -> Piece:
        """What this output adds."""
        ...

    def opening(self) -> dict[str, Any] | None:
        """What a stream says before the first token."""
        ...

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """A piece as it is streamed: one chunk, or several in order."""
        ...

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """All pieces as one reply."""
        ...

    @property
    def rest_opening(self) -> str:
        """What to know of the answer, where it was cut off, to go on with it: see `ReasoningSplitter.opening`."""
        ...


Gate = Callable[[Sequence[RowOutput]], Iterator[RowOutput]]


class ObjectNames(NamedTuple):
    """What the two endpoints call their things."""

    prefix: str
    whole: str
    chunk: str


def check_row(row: RowOutput, model: ServedModel) -> None:
    """Raises ApiError for a row that failed or was cancelled."""
    if row.finish_reason == "cancelled":
        raise unavailable("The generation was cancelled: the server is stopping.")
    if row.finish_reason == "error":
        message = row.error or "The engine failed."
        raise unavailable(message) if model.status != "ok" else ApiError(500, message, code="generation_failed")


def ended_early() -> ApiError:
    """A generation is over, and not all of its rows have ended."""
    return unavailable("The engine stopped before the answer was complete.")


class Answer:
    """Turns the rows of one generation into OpenAI's reply; `choices[i]` renders row i.

    Streaming and whole replies are made of the same pieces, so they cannot differ. `per_prompt` rows share a prompt.
    `gate` passes on the outputs that may be shown by now. With `states`, which have to be kept before they are told,
    the rows' last pieces wait for `settle`.
    """

    __slots__ = (
        *("_choices", "_common", "_completion_tokens", "_gate", "_head", "_identity", "_include_usage", "_model"),
        *("_names", "_per_prompt", "_pieces", "_prompt_tokens", "_states", "_tail", "_text_events", "_unfinished"),
        *("_cached_tokens", "_waiting"),
    )

    def __init__(
        self,
        model: ServedModel,
        names: ObjectNames,
        choices: Sequence[Choice],
        *,
        per_prompt: int = 1,
        include_usage: bool = False,
        gate: Gate = iter,
        states: ReturnedStates | None = None,
    ) -> None:
        self._model = model
        self._choices = choices
        self._per_prompt = per_prompt
        self._gate = gate
        self._states = states
        self._waiting: list[tuple[int, Piece]] = []
        self._include_usage = include_usage
        self._names = names
        self._identity = {"id": names.prefix + secrets.token_hex(12)}
        self._common = {
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": f"fp_{model.fingerprint[:12]}",
        }
        self._head = encode({**self._identity, "object": names.chunk, **self._common})[:-1]
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._text_events: list[TextEvents | None] = [None] * len(choices)
        self._pieces: list[list[Piece]] = [[] for _ in choices]
        self._unfinished = set(range(len(choices)))
        self._prompt_tokens = self._cached_tokens = self._completion_tokens = 0

    # --- streamed

    def begin(self) -> bytes:
        openings = ((index, choice.opening()) for index, choice in enumerate(self._choices))
        return b"".join(self._event(index, opening) for index, opening in openings if opening is not None)

    def step(self, rows: Sequence[RowOutput]) -> bytes:
        events: list[bytes] = []
        for row in self._gate(rows):
            if self._states is not None and row.finish_reason is not None:
                self._waiting.append((row.row, self._piece(row)))
                continue
            plain = self._text_events[row.row]
            if plain is None or row.finish_reason is not None:
                events.append(self._any_event(row))
                continue
            shown, before, after = plain
            if text := shown(row.text):
                events.append(b"".join((before, encode(text), after)))
        return b"".join(events)

    def text_events(self) -> TextEvents | None:
        return self._text_events[0] if len(self._choices) == 1 else None

    async def settle(self) -> bytes:
        """The last events of all choices, once their states are kept."""
        if self._states is None:
            return b""
        await self._states.give()
        return b"".join(self._events(row, piece, self._states.field(row)) for row, piece in self._waiting)

    def end(self) -> bytes:
        self._check_complete()
        if not self._include_usage:
            return DONE
        return b"data: " + self._head + b',"choices":[],"usage":' + encode(self._usage()) + b"}\n\n" + DONE

    def failure(self, error: ApiError) -> bytes:
        return b"data: " + encode(openai_error(error)) + b"\n\n"

    # --- whole

    def take(self, rows: Sequence[RowOutput]) -> None:
        """Keep the rows of a step for `whole`. Raises ApiError for a row that failed."""
        for row in self._gate(rows):
            self._pieces[row.row].append(self._piece(row))

    def whole(self, rows: Iterable[int] | None = None, more: Mapping[str, Any] | None = None) -> bytes:
        """The reply as JSON: `rows` and their order, or all, and the fields in `more`.

        Raises ApiError when the generation ended early.
        """
        self._check_complete()
        shown = range(len(self._choices)) if rows is None else rows
        choices = [{"index": index, **self._whole_choice(row)} for index, row in enumerate(shown)]
        reply = {**self._identity, "object": self._names.whole, **self._common, "choices": choices}
        return encode({**reply, "usage": self._usage(), **(more or {})})

    def _whole_choice(self, row: int) -> dict[str, Any]:
        choice = self._choices[row].whole(self._pieces[row])
        return choice if self._states is None else {**choice, **self._states.field(row)}

    # --- both

    def _piece(self, row: RowOutput) -> Piece:
        if row.finish_reason is not None:
            check_row(row, self._model)
            self._unfinished.discard(row.row)
            self._completion_tokens += row.completion_tokens
            if row.row % self._per_prompt == 0:
                self._prompt_tokens += row.prompt_tokens
                self._cached_tokens += row.cached_tokens
        choice = self._choices[row.row]
        piece = choice.push(row)
        if self._states is not None and row.finish_reason is not None:
            self._states.take(row, choice.rest_opening)
        return piece

    def _check_complete(self) -> None:
        if self._unfinished:
            raise ended_early()

    def _any_event(self, row: RowOutput) -> bytes:
        piece, choice = self._piece(row), self._choices[row.row]
        shows = piece.text or piece.reasoning or piece.logprobs or piece.finish_reason or piece.calls
        events = self._events(row.row, piece) if shows else b""
        if (shown := choice.shown) is not None:
            before, _, after = self._events(row.row, Piece(_ANY_TEXT)).partition(encode(_ANY_TEXT))
            self._text_events[row.row] = TextEvents(shown, before, after)
        return events

    def _events(self, row: int, piece: Piece, more: Mapping[str, Any] | None = None) -> bytes:
        """The chunks of a piece, the last of them with the fields in `more`."""
        *chunks, last = self._choices[row].chunks(piece)
        return b"".join(self._event(row, chunk) for chunk in [*chunks, {**last, **(more or {})}])

    def _event(self, index: int, fields: dict[str, Any]) -> bytes:
        return b"data: " + self._head + b',"choices":[' + encode({"index": index, **fields}) + b"]" + self._tail

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": sum(c.reasoning_tokens for c in self._choices)},
        }
