"""Tools in a conversation: what a model is told of them, how a call is written, and the grammar that calls follow.

A call is fenced JSON, the form that G1 models were trained on; several are a list:

    ```json
    {"name": "get_weather", "arguments": {"city":"Paris"}}
    ```

Calls are written with just this white space, so that a call which comes back in a conversation has the tokens that it
was generated with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FENCE = "```json"
"""Where a call begins. In a reply to a request with tools nothing else is written so."""
END = "\n```"
MAX_CALLS = 16
"""Calls in one reply."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_DECIDES_TYPE = ("type", "$ref", "allOf", "anyOf", "oneOf", "enum", "const")


class Tool(NamedTuple):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    """The JSON schema of its arguments, an object. None: it takes none."""

    @property
    def schema(self) -> Mapping[str, Any]:
        """What arguments are valid for: an object's schema."""
        if self.parameters is None:
            return _NO_ARGUMENTS
        if any(word in self.parameters for word in _DECIDES_TYPE):
            return self.parameters
        return {"type": "object", **self.parameters}


class ToolCall(NamedTuple):
    """A call of a tool. `arguments` is a JSON text, as the model wrote it."""

    name: str
    arguments: str

    @property
    def parsed(self) -> dict[str, Any]:
        """The arguments by their names. Raises ValueError for a call that was cut off."""
        return json.loads(self.arguments)

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end."""
        try:
            return isinstance(self.parsed, dict)
        except ValueError:
            return False


def is_tool_name(name: str) -> bool:
    """Whether a tool may be called so: 1 to 64 letters, digits, `_` and `-`."""
    return _NAME.fullmatch(name) is not None


def tool_list(tools: Sequence[Tool]) -> str:
    """The tools as a model is told of them: a JSON list, without blank lines."""
    return json.dumps([_told(tool) for tool in tools], ensure_ascii=False)


def _told(tool: Tool) -> dict[str, Any]:
    described: dict[str, Any] = {"name": tool.name}
    if tool.description:
        described["description"] = tool.description
    return {**described, "parameters": tool.parameters or {}}


def written_calls(calls: Sequence[ToolCall]) -> str:
    """The calls as a model writes them."""
    texts = [f"{_head(call.name)}{call.arguments.strip() or '{}'}}}" for call in calls]
    return f"{FENCE}\n{texts[0] if len(texts) == 1 else '[' + ', '.join(texts) + ']'}{END}"


def _head(name: str) -> str:
    return f'{{"name": {_quoted(name)}, "arguments": '


CALL_HEAD = re.compile(r'\{"name": "([^"]*)", "arguments": ')
"""What comes before the arguments of a call, with the tool's name."""


def calls_grammar(
    schemas: Mapping[str, object], most: int = MAX_CALLS, *, fenced: bool = True, answer: object = None
) -> str:
    """The Lark grammar (llguidance's) of a reply with 1 to `most` calls. `schemas`: of the arguments of tools, by their
    names.

    Without `fenced` it begins after the fence. With `answer`, a schema too, the reply may be a value of it instead.
    """
    fence = _quoted(FENCE) if fenced else ""
    rules = ["start: calls | answer", f"answer: %json {_json(answer)}"] if answer is not None else ["start: calls"]
    several = f' | "[" call (", " call){{1,{most - 1}}} "]"' if most > 1 else ""
    rules.append(f"calls: {fence} {_quoted(chr(10))} (call{several}) {_quoted(END)}")
    rules.append("call: " + " | ".join(f"call{place}" for place in range(len(schemas))))
    for place, (name, schema) in enumerate(schemas.items()):
        rules.append(f'call{place}: {_quoted(_head(name))} arguments{place} "}}"')
        rules.append(f"arguments{place}: %json {_json(schema)}")
    return "\n".join(rules) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: object) -> str:
    compact = {**schema, "x-guidance": {"whitespace_flexible": False}} if isinstance(schema, Mapping) else schema
    return json.dumps(compact, ensure_ascii=False)
