"""What an answer of a chat may be, as a caller says it: a text, JSON that is valid for a schema, calls of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from wingbeat.calling import in_chat, may_call, must_call
from wingbeat.engine.grammar_schema import prepared
from wingbeat.sampling.constraint import Constraint
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.templates import ChatTemplate, Message
from wingbeat.text.tool_calls import CallReader
from wingbeat.text.tools import MAX_CALLS, Tool, ToolCall, is_tool_name

JsonSchema = Mapping[str, Any] | str


class ChatForm:
    """The tools that are offered and the schema of the answer. ``choice`` is "auto", "none", "required" or the name of
    a tool, which is then called once."""

    def __init__(
        self,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        choice: str = "auto",
        schema: JsonSchema | None = None,
        *,
        parallel: bool = True,
    ) -> None:
        """Raises ValueError for tools that are none, of one name, or not those that are chosen."""
        offered = [to_tool(tool) for tool in tools]
        known = {tool.name: tool for tool in offered}
        if len(known) < len(offered):
            raise ValueError("every tool needs a name of its own")
        if choice not in ("auto", "none", "required", *known):
            raise ValueError(
                f"tool_choice must be 'auto', 'none', 'required' or the name of a tool, not {choice!r:.80}"
            )
        if choice == "required" and not known:
            raise ValueError("tool_choice is 'required', and there are no tools to choose from")
        self.told = [] if choice == "none" else offered
        self._may = [known[choice]] if choice in known else self.told
        self._required = choice == "required" or choice in known
        self._most = MAX_CALLS if parallel and choice not in known else 1
        self._schema = schema if schema is None or isinstance(schema, str) else _json(schema)

    @property
    def constrains(self) -> bool:
        """Whether a grammar holds from the beginning of the answer on."""
        return self._schema is not None or self._required

    def tell(self, messages: Sequence[Message], template: ChatTemplate) -> list[Message]:
        """The conversation in which the model is told of the tools."""
        return template.with_tools(messages, template.told_of(self.told)) if self.told else list(messages)

    def constraint(self, answer: ReasoningSplitter) -> Constraint | None:
        """What such an answer is decoded under. Raises ConstraintError, a ValueError, for a schema that is no good."""
        form = None if self._schema is None else Constraint("json_schema", self._schema)
        if not self._may:
            return None if form is None else in_chat(form, answer)
        schemas = {tool.name: _prepared(_json(tool.schema)) for tool in self._may}
        if not self.constrains:
            return may_call(schemas, self._most, answer)
        value = None if self._schema is None or self._required else _prepared(self._schema)
        return must_call(schemas, self._most, answer, value)

    def reader(self) -> CallReader | None:
        """What tells calls from the text; None where there can be none."""
        return CallReader(at_start=self.constrains) if self._may else None


class AnswerReader:
    """Takes an answer apart while it is written: reasoning, text, calls."""

    def __init__(self, splitter: ReasoningSplitter, calls: CallReader | None) -> None:
        self._splitter, self._calls = splitter, calls

    def push(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """The reasoning and the text that this piece adds; the ``last`` one brings all that was held back."""
        reasoning, answer = self._splitter.push(text)
        if last:
            more = self._splitter.flush()
            reasoning, answer = reasoning + more[0], answer + more[1]
        if self._calls is None:
            return reasoning, answer
        answer, _ = self._calls.push(answer)
        return reasoning, answer + (self._calls.flush() if last else "")

    def calls(self) -> list[ToolCall]:
        """What was called so far. The last one may be cut off where the answer is."""
        return [] if self._calls is None else [ToolCall(call.name, call.arguments) for call in self._calls.calls]


def to_tool(tool: Tool | Mapping[str, Any]) -> Tool:
    """A tool of a caller, which may be an object of OpenAI's. Raises ValueError for another."""
    if not isinstance(tool, Tool):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(f"a tool is {{'name': ..., 'description': ..., 'parameters': ...}}, not {tool!r:.100}")
        tool = Tool(function["name"], function.get("description"), function.get("parameters"))
    if not is_tool_name(tool.name):
        raise ValueError(f"a tool's name has 1 to 64 letters, digits, '_' and '-', unlike {tool.name!r:.80}")
    if tool.parameters is not None and not isinstance(tool.parameters, Mapping):
        raise ValueError(f"the parameters of {tool.name} are no JSON schema of an object")
    if tool.schema.get("type", "object") != "object":
        raise ValueError(f"the parameters of {tool.name} must be the schema of an object")
    return tool


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _prepared(schema: str) -> object:
    Constraint("json_schema", schema).check()
    return prepared(schema)
