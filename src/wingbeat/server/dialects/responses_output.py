"""The items of a response's output, and the events by which they come into being."""

from __future__ import annotations

import secrets
from typing import Any, Literal, NamedTuple

import msgspec

from wingbeat.server.dialects.openai_answer import encode
from wingbeat.text.tool_calls import WrittenCall

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class EventWriter:
    """Writes the events of one stream, numbered from 0."""

    def __init__(self) -> None:
        self._number = 0

    def event(self, kind: str, **fields: Any) -> bytes:
        return self.finish(begin_event(kind, **fields))

    def finish(self, begun: bytes) -> bytes:
        """An event that lacks nothing but its number."""
        number, self._number = self._number, self._number + 1
        return begun + b',"sequence_number":%d}\n\n' % number


def begin_event(kind: str, **fields: Any) -> bytes:
    """The event without its number and its end, so that further fields may follow."""
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind, **fields})[:-1]


class ItemKind(NamedTuple):
    """What sets the kinds of item apart. Each has one part, of text."""

    prefix: str
    """Of its ids."""
    event: str
    """What the names of its text's events begin with."""
    item: dict[str, Any]
    part: dict[str, Any]
    """The fields that are the same in all items, and in all of their parts."""
    has_logprobs: bool


REASONING = ItemKind(
    prefix="rs_",
    event="response.reasoning_text",
    item={"type": "reasoning", "summary": [], "encrypted_content": None},
    part={"type": "reasoning_text"},
    has_logprobs=False,
)
MESSAGE = ItemKind(
    prefix="msg_",
    event="response.output_text",
    item={"type": "message", "role": "assistant"},
    part={"type": "output_text", "annotations": []},
    has_logprobs=True,
)


CALL = ItemKind(
    prefix="fc_",
    event="response.function_call_arguments",
    item={"type": "function_call"},
    part={},
    has_logprobs=False,
)


class OutputItem:
    """One item, whose text grows. Log-probabilities are given and kept as they stand inside a JSON array."""

    call: WrittenCall | None = None

    def __init__(self, kind: ItemKind, index: int) -> None:
        self.kind = kind
        self._id = kind.prefix + secrets.token_hex(24)
        self._index = index
        self._place = self._where(index)
        self._delta = begin_event(f"{kind.event}.delta", **self._place) + b',"delta":'
        self._texts: list[str] = []
        self._logprobs: list[bytes] = []

    def _where(self, index: int) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": index, "content_index": 0}

    def add(self, text: str, logprobs: bytes) -> None:
        self._texts.append(text)
        if logprobs:
            self._logprobs.append(logprobs)

    def whole(self, status: ItemStatus) -> dict[str, Any]:
        """The item with all of its text."""
        return self._item(status, [{**self.kind.part, **self._text()}])

    def opened(self, events: EventWriter) -> bytes:
        """What a stream says before its text."""
        item, part = self._item("in_progress", []), {**self.kind.part, **self._fields("", [])}
        return events.event("response.output_item.added", output_index=self._index, item=item) + events.event(
            "response.content_part.added", **self._place, part=part
        )

    def grown(self, events: EventWriter, text: str, logprobs: bytes) -> bytes:
        """What a stream says of more text."""
        end = b',"logprobs":[' + logprobs + b"]" if self.kind.has_logprobs else b""
        return events.finish(self._delta + encode(text) + end)

    def closed(self, events: EventWriter, status: ItemStatus) -> bytes:
        """What a stream says after its text."""
        text = self._text()
        part = {**self.kind.part, **text}
        item = self._item(status, [part])
        return b"".join(
            (
                events.event(f"{self.kind.event}.done", **self._place, **text),
                events.event("response.content_part.done", **self._place, part=part),
                events.event("response.output_item.done", output_index=self._index, item=item),
            )
        )

    def _item(self, status: ItemStatus, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, **self.kind.item, "status": status, "content": content}

    def _text(self) -> dict[str, Any]:
        return self._fields("".join(self._texts), self._logprobs)

    def _fields(self, text: str, logprobs: list[bytes]) -> dict[str, Any]:
        if not self.kind.has_logprobs:
            return {"text": text}
        return {"text": text, "logprobs": msgspec.Raw(b"[" + b",".join(logprobs) + b"]")}


class CallItem(OutputItem):
    """One call, whose arguments grow. It has no parts."""

    def __init__(self, call: WrittenCall, index: int) -> None:
        super().__init__(CALL, index)
        self.call = self._call = call

    def _where(self, index: int) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": index}

    def whole(self, status: ItemStatus) -> dict[str, Any]:
        return self._called(status, "".join(self._texts))

    def opened(self, events: EventWriter) -> bytes:
        item = self._called("in_progress", "")
        return events.event("response.output_item.added", output_index=self._index, item=item)

    def closed(self, events: EventWriter, status: ItemStatus) -> bytes:
        item = self.whole(status)
        done = {"name": self._call.name, "arguments": item["arguments"]}
        return events.event(f"{CALL.event}.done", **self._place, **done) + events.event(
            "response.output_item.done", output_index=self._index, item=item
        )

    def _called(self, status: ItemStatus, arguments: str) -> dict[str, Any]:
        called = {"call_id": self._call.id, "name": self._call.name, "arguments": arguments}
        return {"id": self._id, **CALL.item, "status": status, **called}
