"""Tools in OpenAI's bodies: functions that are offered, the choice among them, and what was called earlier."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.dialects.openai_forms import Name
from wingbeat.server.errors import not_supported
from wingbeat.text.tools import MAX_CALLS, Tool, ToolCall

MAX_TOOLS = 128


def _parameters(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type", "object") != "object":
        raise ValueError("the schema of an object is wanted")
    return value


Parameters = Annotated[
    dict[str, Any] | None,
    BeforeValidator(_parameters),
    WithJsonSchema({"anyOf": [{"type": "object", "properties": {"type": {"const": "object"}}}, {"type": "null"}]}),
]


class FunctionBody(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(strict=True)

    name: Name
    description: str | None = Field(None, description="What it does, for the model.")
    parameters: Parameters = Field(
        None,
        description="The JSON schema of its arguments, an object; absent: it takes none. Arguments are always valid "
        "for it. Without `additionalProperties` they have only the properties that it names.",
    )
    strict: bool | None = Field(None, description="Without effect: arguments always follow the schema.")

    @property
    def tool(self) -> Tool:
        return Tool(self.name, self.description, self.parameters)


def _tool_type(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        raise not_supported(f"tools of type {value[:40]!r} are not supported, only 'function'")
    return value


ToolType = Annotated[str, BeforeValidator(_tool_type), Field(json_schema_extra={"const": "function"})]


class ToolBody(BaseModel):
    model_config = ConfigDict(strict=True)

    type: ToolType
    function: FunctionBody


class Typed(BaseModel):
    type: ToolType


class ResponseTool(FunctionBody, Typed):
    """A function, as the Responses API has it."""

    @property
    def given(self) -> dict[str, Any]:
        """As a response gives it back."""
        told = {"name": self.name, "description": self.description, "parameters": self.tool.schema}
        return {"type": "function", **told, "strict": True}


class ToolChoice(NamedTuple):
    """Whether tools are called, and which may be: `names`, or all."""

    mode: Literal["none", "auto", "required"]
    names: tuple[str, ...] | None = None
    named: bool = False
    """It is one function that was asked for by its name, which is called just once."""

    @property
    def given(self) -> str | dict[str, Any]:
        """As the Responses API says it."""
        if self.names is None:
            return self.mode
        tools = [{"type": "function", "name": name} for name in self.names]
        if self.named:
            return tools[0]
        return {"type": "allowed_tools", "mode": self.mode, "tools": tools}


def _tool_choice(value: Any) -> Any:
    """OpenAI's ways to say it, those of the Responses API included, where the name is one level higher."""
    match value:
        case None:
            return None
        case "none" | "auto" | "required":
            return ToolChoice(value)
        case {"type": "function"}:
            return ToolChoice("required", (_chosen(value),), named=True)
        case {"type": "allowed_tools"}:
            allowed = value.get("allowed_tools", value)
            return _allowed(allowed if isinstance(allowed, dict) else {})
        case {"type": str(kind)}:
            raise not_supported(f"{kind[:40]!r} is not supported, only 'function' and 'allowed_tools'")
        case _:
            raise ValueError("'none', 'auto', 'required', a function or allowed_tools is wanted")


def _chosen(value: dict[str, Any]) -> str:
    function = value.get("function", value)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise ValueError("a function's name is wanted")
    return name


def _allowed(value: dict[str, Any]) -> ToolChoice:
    mode, tools = value.get("mode"), value.get("tools")
    if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
        raise ValueError("allowed_tools has a mode, 'auto' or 'required', and a list of tools")
    if not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("allowed_tools has a list of tools, objects with a type and a name")
    return ToolChoice(mode, tuple(_chosen(tool) for tool in tools))


def _function_call(value: Any) -> Any:
    match value:
        case None:
            return None
        case "none" | "auto":
            return ToolChoice(value)
        case {"name": str(name)}:
            return ToolChoice("required", (name,), named=True)
        case _:
            raise ValueError("'none', 'auto' or an object with a name is wanted")


_MODES = {"enum": ["none", "auto", "required", None]}
_NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_OBJECTS = {"type": "object", "properties": {"type": {"enum": ["function", "allowed_tools"]}}, "required": ["type"]}

ToolChoiceField = Annotated[
    ToolChoice | None, PlainValidator(_tool_choice), WithJsonSchema({"anyOf": [_MODES, _OBJECTS]})
]
FunctionCallField = Annotated[
    ToolChoice | None,
    PlainValidator(_function_call),
    WithJsonSchema({"anyOf": [{"enum": ["none", "auto", None]}, _NAMED]}),
]


Tools: Any = Field(
    None, max_length=MAX_TOOLS, description="Functions that the model may call. Only `function` is a type here."
)
"""The field `tools`, whose items differ between the routes."""


class ToolUseFields(BaseModel):
    """How a request has its tools used."""

    tool_choice: ToolChoiceField = Field(
        None,
        description="`auto` (default with tools): the model chooses; `none`: no call; `required`: at least one; a "
        "function: just that; `allowed_tools`: some of the tools.",
    )
    parallel_tool_calls: bool | None = Field(
        None, description=f"Default true: up to {MAX_CALLS} calls in one answer. False: one."
    )


def _earlier_call(value: Any) -> ToolCall | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("an object with a name and arguments is wanted")
    name, arguments = value.get("name"), value.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise ValueError("a call has a name and arguments, which are a JSON text")
    return ToolCall(name, arguments)


def _earlier_calls(value: Any) -> list[ToolCall] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError("a list of calls is wanted")
    return [_earlier_tool_call(place, call) for place, call in enumerate(value)]


def _earlier_tool_call(place: int, value: Any) -> ToolCall:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict):
        raise ValueError(f"call {place} is not an object with a function")
    if value.get("type", "function") != "function":
        raise not_supported(f"call {place}: only calls of type 'function' are supported")
    call = _earlier_call(function)
    assert call is not None
    return call


_CALL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
    "required": ["name", "arguments"],
}
_TOOL_CALL = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "function": _CALL},
    "required": ["function"],
}
_TOOL_CALLS = {"type": "array", "items": _TOOL_CALL}

EarlierCall = Annotated[
    ToolCall | None, PlainValidator(_earlier_call), WithJsonSchema({"anyOf": [_CALL, {"type": "null"}]})
]
EarlierCalls = Annotated[
    list[ToolCall] | None, PlainValidator(_earlier_calls), WithJsonSchema({"anyOf": [_TOOL_CALLS, {"type": "null"}]})
]
