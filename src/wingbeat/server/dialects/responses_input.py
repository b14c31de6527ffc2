"""`input` of a response: a text, or items of a conversation, those of earlier responses' `output` included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.errors import not_supported
from wingbeat.text.templates import Message
from wingbeat.text.tools import ToolCall

_PARTS = {
    "message": {"input_text": "text", "output_text": "text", "refusal": "refusal"},
    "reasoning": {"reasoning_text": "text"},
    "function_call": {},
    "function_call_output": {"input_text": "text"},
}
"""The parts that an item's content may have, with the field that holds their text."""

Role = Literal["user", "assistant", "system", "developer"]


def _parts_schema(item: str) -> dict[str, Any]:
    parts = [
        {
            "type": "object",
            "properties": {"type": {"const": kind}, field: {"type": "string"}},
            "required": ["type", field],
        }
        for kind, field in _PARTS[item].items()
    ]
    return {"type": "array", "items": {"anyOf": parts}}


_MESSAGE = {
    "type": "object",
    "properties": {
        "type": {"enum": ["message", None]},
        "role": {"enum": get_args(Role)},
        "content": {"anyOf": [{"type": "string"}, _parts_schema("message")]},
    },
    "required": ["role", "content"],
}
_REASONING = {
    "type": "object",
    "properties": {
        "type": {"const": "reasoning"},
        "role": {"type": "null"},
        "content": {"anyOf": [_parts_schema("reasoning"), {"type": "null"}]},
    },
    "required": ["type"],
}
_CALL = {
    "type": "object",
    "properties": {
        "type": {"const": "function_call"},
        "call_id": {"type": "string"},
        "name": {"type": "string"},
        "arguments": {"type": "string"},
    },
    "required": ["type", "name", "arguments"],
}
_OUTPUT = {
    "type": "object",
    "properties": {
        "type": {"const": "function_call_output"},
        "call_id": {"type": "string"},
        "output": {"anyOf": [{"type": "string"}, _parts_schema("function_call_output")]},
    },
    "required": ["type", "output"],
}
_SAID = {"anyOf": [_MESSAGE, _CALL, _OUTPUT]}
_ITEMS = {"type": "array", "items": {"anyOf": [_MESSAGE, _REASONING, _CALL, _OUTPUT]}, "contains": _SAID}


class InputItem(BaseModel):
    """A message of a conversation, what the model thought before the next one, a function that it called, or what came
    of that. `content` and `output` are joined."""

    model_config = ConfigDict(strict=True)

    type: str = "message"
    role: Role | None = Field(None, validate_default=True)
    content: str | None = Field(None, validate_default=True)
    name: str | None = Field(None, validate_default=True)
    arguments: str | None = Field(None, validate_default=True)
    output: str | None = Field(None, validate_default=True)

    @field_validator("type", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value is None:
            return "message"
        if value == "item_reference":
            raise not_supported("there are no stored items to refer to; send the item itself")
        if isinstance(value, str) and value not in _PARTS:
            raise not_supported(f"items of type {value[:40]!r} are not supported, only {', '.join(map(repr, _PARTS))}")
        return value

    @field_validator("role")
    @classmethod
    def _speaks(cls, role: str | None, info: ValidationInfo) -> str | None:
        if role is None and info.data.get("type") == "message":
            raise ValueError("a message needs a role")
        return role

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: Any, info: ValidationInfo) -> str | None:
        kind = info.data.get("type")
        if kind in (None, "function_call", "function_call_output"):  # refused already, or of other fields
            return None
        if isinstance(value, list):
            return "".join(_part(index, part, _PARTS[kind]) for index, part in enumerate(value))
        if isinstance(value, str) or (value is None and kind == "reasoning"):
            return value
        raise ValueError("a text or a list of parts is wanted")

    @field_validator("name", "arguments")
    @classmethod
    def _called(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value and info.data.get("type") == "function_call" and (value is None or info.field_name == "name"):
            raise ValueError("a function_call has a name and arguments, which are a JSON text")
        return value

    @field_validator("output", mode="before")
    @classmethod
    def _resulted(cls, value: Any, info: ValidationInfo) -> str | None:
        if info.data.get("type") != "function_call_output":
            return None
        if isinstance(value, list):
            return "".join(_part(index, part, _PARTS["function_call_output"]) for index, part in enumerate(value))
        if isinstance(value, str):
            return value
        raise ValueError("a text or a list of parts is wanted")


def _part(index: int, part: Any, known: dict[str, str]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"part {index} is not an object with a type")
    if kind not in known:
        names = " and ".join(map(repr, list(known)[:2]))
        raise not_supported(f"part {index}: content of type {kind[:40]!r} is not supported, only {names}")
    text = part.get(known[kind])
    if not isinstance(text, str):
        raise ValueError(f"part {index} has no {known[kind]}")
    return text


def _items(value: Any) -> Any:
    """A text is what the user says."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if value is not None and not isinstance(value, list):
        raise ValueError("a text or a list of items is wanted")
    return value


InputItems = Annotated[
    list[InputItem] | None, BeforeValidator(_items), WithJsonSchema({"anyOf": [{"type": "string"}, _ITEMS]})
]


def conversation(instructions: str | None, items: Sequence[InputItem], *, continue_final: bool) -> list[Message]:
    """The messages of `items`, an answer's with the reasoning before it. First comes what the system says.

    Reasoning at the end belongs to an answer that was not begun: it is one to be continued, or else nothing.
    """
    messages = [Message("system", instructions)] if instructions else []
    reasoning: str | None = None
    answers = False  # whether the last message is of the answer that the item belongs to
    for item in items:
        match item.type:
            case "reasoning":
                reasoning = (reasoning or "") + (item.content or "")
                continue
            case "function_call":
                call = ToolCall(item.name or "", item.arguments or "")
                answer = messages.pop() if answers else Message("assistant", "", reasoning_content=reasoning)
                messages.append(replace(answer, tool_calls=(*answer.tool_calls, call)))
            case "function_call_output":
                messages.append(Message("tool", item.output or ""))
            case _:
                assert item.role is not None
                messages.append(Message(item.role, item.content or "", reasoning_content=reasoning))
        reasoning, answers = None, messages[-1].role == "assistant"
    if reasoning is not None and continue_final:
        messages.append(Message("assistant", "", reasoning_content=reasoning))
    return messages
