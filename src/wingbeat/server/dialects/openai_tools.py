"""What an answer may be: a text of some form, calls of tools, or either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wingbeat.calling import in_chat, may_call, must_call
from wingbeat.engine.grammar_schema import prepared
from wingbeat.sampling.constraint import Constraint, ConstraintError
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.openai_constraints import constrained
from wingbeat.server.dialects.openai_forms import Asked, json_text
from wingbeat.server.dialects.openai_tools_schema import FunctionBody, ToolChoice
from wingbeat.server.errors import ApiError, bad_request
from wingbeat.server.registry import ServedModel
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.tool_calls import CallReader
from wingbeat.text.tools import MAX_CALLS, Tool


class OfferedTools(NamedTuple):
    """The tools of a request: what the model is `told` of, and those of them that it `may` call."""

    told: tuple[Tool, ...]
    may: tuple[Tool, ...]
    required: bool
    most: int
    """Calls in one reply."""
    field: str
    """Where the tools came from, and in each of them the place of its schema."""
    path: str
    prompt: str | None = None
    """What the model is told of them, in the place of its template's words."""

    @property
    def legacy(self) -> bool:
        """Whether they came in `functions`, the field that `tools` replaced."""
        return self.field == "functions"

    def param(self, tool: Tool) -> str:
        """Where the schema of the tool came from."""
        return f"{self.field}[{self.told.index(tool)}]{self.path}"


def offered_tools(
    tools: Sequence[FunctionBody] | None,
    choice: ToolChoice | None,
    parallel: bool | None,
    fields: tuple[str, str] = ("tools", "tool_choice"),
    path: str = ".function.parameters",
    prompt: str | None = None,
) -> OfferedTools | None:
    """The tools that a body offers; None where nothing can be called. `fields`: where tools and choice came from.

    Raises ApiError (400) for tools of one name, and a choice that is none of them.
    """
    field, choice_field = fields
    mode, names, named = choice or ToolChoice("auto")
    if not tools:
        if mode == "required" or names:
            raise bad_request(f"{choice_field}: there are no {field} to choose from.", choice_field)
        return None
    told = tuple(function.tool for function in tools)
    _check_names(told, field)
    if mode == "none":
        return None
    known = {tool.name: tool for tool in told}
    for name in names or ():
        if name not in known:
            raise bad_request(f"{choice_field}: {name[:64]!r} is none of the {field}.", choice_field)
    may = told if names is None else tuple(known[name] for name in dict.fromkeys(names))
    most = 1 if named or parallel is False else MAX_CALLS
    return OfferedTools(told, may, mode == "required", most, field, path, prompt)


def _check_names(tools: Sequence[Tool], field: str) -> None:
    seen: set[str] = set()
    for place, tool in enumerate(tools):
        if tool.name in seen:
            raise bad_request(f"{field}[{place}]: there are several {field} of the name {tool.name!r}.", field)
        seen.add(tool.name)


class AnswerForm(NamedTuple):
    """What an answer may be: tools that it may call, or must, and the form of its text."""

    tools: OfferedTools | None = None
    text: Asked | None = None

    @property
    def constrains(self) -> bool:
        """Whether a grammar holds from the beginning of the answer on."""
        return self.text is not None or (self.tools is not None and self.tools.required)

    def reader(self) -> CallReader | None:
        """What tells calls from the text; None where there can be none."""
        return None if self.tools is None else CallReader(at_start=self.constrains)

    def asked(self, answer: ReasoningSplitter) -> Asked | None:
        """The grammar of such an answer of a chat.

        Raises ApiError (400) for a form of the text that cannot be told from a call.
        """
        tools = self.tools
        if tools is None:
            return None if self.text is None else self.text._replace(constraint=in_chat(self.text.constraint, answer))
        schemas = {tool.name: _prepared(json_text(tool.schema), tools.param(tool)) for tool in tools.may}
        if not self.constrains:
            return Asked(may_call(schemas, tools.most, answer), tools.field)
        text = None if self.text is None or tools.required else _schema(self.text, tools)
        return Asked(must_call(schemas, tools.most, answer, text), tools.field)

    async def constrain(
        self, sampling: SamplingParams, model: ServedModel, answer: ReasoningSplitter
    ) -> SamplingParams:
        """`sampling` with this form, for such an answer. Raises ApiError: 400 naming the part that is no good; 503."""
        asked = self.asked(answer)
        try:
            return await constrained(sampling, model, asked)
        except ApiError as error:
            if error.status == 400:
                await self._check_parts(model)
            raise

    async def _check_parts(self, model: ServedModel) -> None:
        """Raises ApiError (400) for the first part that is no good by itself."""
        if self.tools is not None:
            for tool in self.tools.may:
                await model.compile(Constraint("json_schema", json_text(tool.schema)), self.tools.param(tool))
        if self.text is not None:
            await model.compile(self.text.constraint, self.text.param)


FREE = AnswerForm()


def _schema(text: Asked, tools: OfferedTools) -> object:
    if text.constraint.white:
        problem = f"{text.param}: JSON is written without white space where there are {tools.field}."
        raise bad_request(problem, text.param, "unsupported_value")
    if text.constraint.kind == "json_object":
        return {"type": "object"}
    if text.constraint.kind == "json_schema":
        return _prepared(text.constraint.grammar, text.param)
    problem = f"{text.param}: only JSON goes together with {tools.field}; leave one of them out."
    raise bad_request(problem, text.param, "unsupported_value")


def _prepared(schema: str, param: str) -> object:
    """The schema as it is compiled. Raises ApiError (400)."""
    try:
        Constraint("json_schema", schema).check()
        return prepared(schema)
    except ConstraintError as error:
        raise bad_request(f"{param}: {error}.", param) from None
