"""The body of POST /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from wingbeat.server.dialects.openai_chat_schema import (
    Effort,
    Metadata,
    PromptCacheOptions,
    TemplateSettings,
    wants_thinking,
)
from wingbeat.server.dialects.openai_forms import TextFormat
from wingbeat.server.dialects.openai_other_names import AnswerLimit
from wingbeat.server.dialects.openai_other_schema import Off
from wingbeat.server.dialects.openai_schema import MAX_COUNT, GenerationBody, Ignored, NotYet, example, whole_numbers
from wingbeat.server.dialects.openai_tools import AnswerForm, offered_tools
from wingbeat.server.dialects.openai_tools_schema import ResponseTool, Tools, ToolUseFields
from wingbeat.server.dialects.responses_input import InputItem, InputItems
from wingbeat.server.errors import ApiError, bad_request, unsupported

LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (
    *(LOGPROBS, "reasoning.encrypted_content", "message.input_image.image_url", "code_interpreter_call.outputs"),
    *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
    "computer_call_output.output.image_url",
)
"""What `include` may ask for. Except for log-probabilities, nothing of it ever occurs in these replies."""

RENAMED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": f'include: ["{LOGPROBS}"]',
    "functions": "tools",
    "function_call": "tool_choice",
}
"""Fields of chat completions, by what the Responses API has instead. Ignoring them would be a silent fault."""

NOT_STORED = "responses are not stored here"

Renamed: Any = Field(
    None,
    description="Refused when not empty: a field of chat completions.",
    json_schema_extra={"enum": [None, False, 0, "", [], {}]},
)
NotStored: Any = Field(None, description="Refused: nothing is stored.", json_schema_extra={"type": "null"})
GivenBack = "Given back, without effect."


class TextSettings(BaseModel):
    model_config = ConfigDict(strict=True)

    format: TextFormat | None = Field(None, description="The form of the answer.")
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description=Ignored)


class ReasoningSettings(BaseModel):
    model_config = ConfigDict(strict=True)

    effort: Effort | None = Field(
        None, description="`none` and `minimal`: no reasoning; others: reasoning, with models that can."
    )
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description="Without effect: reasoning is given in full, never summarised."
    )
    context: Literal["auto", "current_turn", "all_turns"] | None = Field(
        None,
        description="`all_turns` is refused: the prompt format has no place for the reasoning of earlier turns.",
        json_schema_extra={"enum": ["auto", "current_turn", None]},
    )
    mode: str | None = Field(
        None, description="Only `standard` is supported.", json_schema_extra={"enum": ["standard", None]}
    )


class CacheOptions(PromptCacheOptions):
    prewarm: bool | None = Field(None, description="Refused when true.", json_schema_extra={"enum": [False, None]})


class ResponsesBody(GenerationBody, ToolUseFields):
    """Answer a conversation, given as items."""

    model_config = example({"input": "What is RWKV?", "max_output_tokens": 100}, required=["input"])

    input: InputItems = Field(None, description="A text, or the items of a conversation. Required.")
    instructions: str | None = Field(None, description="What the system says before `input`.")
    same: ClassVar[dict[str, str]] = {
        **GenerationBody.same,
        **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens"), "max_output_tokens"),
        "n_probs": "top_logprobs",
        "thinking_token_budget": "thinking_budget",
    }

    max_output_tokens: AnswerLimit = Field(
        None, description="Reasoning included. Default, and -1: until the model stops."
    )
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20, description="So many alternatives to each token.")
    include: list[str] | None = Field(
        None,
        description=f"`{LOGPROBS}` gives each token's log-probability.",
        json_schema_extra={"anyOf": [{"type": "array", "items": {"enum": [*INCLUDABLE]}}, {"type": "null"}]},
    )
    n: int | None = Field(None, ge=1, le=1, description="Beyond OpenAI. A response has one answer.")
    best_of: int | None = Field(None, ge=1, le=1, description="Beyond OpenAI. A response has one answer.")

    metadata: Metadata = Field(None, description="Up to 16 texts by their names. " + GivenBack)
    user: str | None = Field(None, description=GivenBack)
    safety_identifier: str | None = Field(None, description=GivenBack)
    prompt_cache_key: str | None = Field(None, description=GivenBack)
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = Field(None, description=GivenBack)
    prompt_cache_options: CacheOptions | None = Field(None, description=Ignored)
    service_tier: str | None = Field(None, description="Without effect: it is always `default`.")
    store: bool | None = Field(None, description="Without effect: responses are not stored.")
    truncation: Literal["auto", "disabled"] | None = Field(None, description="Given back. Nothing is ever truncated.")
    max_tool_calls: int | None = Field(None, ge=0, le=MAX_COUNT, description=GivenBack)
    background: bool | None = Field(
        None, description="Refused when true: not supported yet.", json_schema_extra={"enum": [False, None]}
    )

    tools: list[ResponseTool] | None = Tools
    previous_response_id: Any = NotStored
    conversation: Any = NotStored
    prompt: Any = NotStored
    context_management: Any = NotYet
    moderation: Any = NotYet
    prompt_logprobs: Annotated[Any, Off("log-probabilities of the prompt in a response", False)] = None

    enable_thinking: bool | None = Field(None, description="Beyond OpenAI. Reason before answering, where possible.")
    chat_template_kwargs: TemplateSettings | None = Field(None, description="Beyond OpenAI. `enable_thinking` in here.")
    thinking_budget: int | None = Field(
        None,
        ge=0,
        le=MAX_COUNT,
        description="Beyond OpenAI. After so many tokens of reasoning the answer begins, with models that reason; 0: "
        "no reasoning.",
    )
    thinking_token_budget: int | None = Field(
        None, ge=0, le=MAX_COUNT, description="As `thinking_budget`, by vLLM's name."
    )
    continue_final_message: bool | None = Field(
        None, description="Beyond OpenAI. Go on with the last item, an assistant's message or reasoning."
    )

    messages: Any = Renamed
    max_tokens: Any = Renamed
    max_completion_tokens: Any = Renamed
    response_format: Any = Renamed
    reasoning_effort: Any = Renamed
    logprobs: Any = Renamed
    functions: Any = Renamed
    function_call: Any = Renamed

    @field_validator(
        *("max_tool_calls", "top_logprobs", "thinking_budget", "thinking_token_budget", "best_of"), mode="before"
    )
    @classmethod
    def _more_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @field_validator("include")
    @classmethod
    def _includable(cls, value: list[str] | None) -> list[str] | None:
        for name in value or ():
            if name not in INCLUDABLE:
                raise ValueError(f"{name[:60]!r} is none of {', '.join(map(repr, INCLUDABLE))}")
        return value

    @property
    def items(self) -> list[InputItem]:
        """`input`, which must be there."""
        return self.input or []

    @property
    def effort(self) -> Effort | None:
        return self.reasoning.effort if self.reasoning else None

    @property
    def thinking(self) -> bool | None:
        """Whether to reason before the answer; None leaves it to the model's template."""
        return wants_thinking(self.enable_thinking, self.chat_template_kwargs, self.effort, self.thinking_budget)

    @property
    def alternatives(self) -> int | None:
        """How many alternatives to each token are wanted; None when no log-probabilities are."""
        wanted = bool(self.top_logprobs) or LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if wanted else None

    @property
    def form(self) -> AnswerForm:
        """What an answer may be. Raises ApiError (400) for tools and forms that make no sense."""
        text = self.asked_form(self.text and self.text.format and self.text.format.asked("text.format"))
        prompt = self.chat_template_kwargs.tool_prompt if self.chat_template_kwargs else None
        tools = offered_tools(self.tools, self.tool_choice, self.parallel_tool_calls, path=".parameters", prompt=prompt)
        return AnswerForm(tools, text)

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        self.refuse_contradictions(self.max_output_tokens)
        for name, here in RENAMED.items():
            if getattr(self, name):
                raise bad_request(f"{name}: the Responses API has {here} instead.", name)
        self._refuse_what_is_stored()
        self._refuse_settings()
        self._check_input()

    def _refuse_what_is_stored(self) -> None:
        if self.previous_response_id is not None:
            message = f"previous_response_id: {NOT_STORED}. Send the conversation's items in input instead: those of "
            message += "the earlier input and of the earlier output, then the new message."
            raise bad_request(message, "previous_response_id", "unsupported_value")
        if self.conversation is not None:
            message = "conversation: conversations are not stored here. Send its items in input instead."
            raise bad_request(message, "conversation", "unsupported_value")
        if self.prompt is not None:
            message = "prompt: prompts are not stored here. Send the text in instructions and input instead."
            raise bad_request(message, "prompt", "unsupported_value")

    def _refuse_settings(self) -> None:
        if self.background:
            raise unsupported("background: true", "background")
        if self.reasoning and self.reasoning.context == "all_turns":
            raise unsupported("reasoning.context: 'all_turns'", "reasoning.context")
        if self.reasoning and self.reasoning.mode not in (None, "standard"):
            raise unsupported(f"reasoning.mode: {self.reasoning.mode[:40]!r}", "reasoning.mode")
        if self.prompt_cache_options and self.prompt_cache_options.prewarm:
            raise unsupported("prompt_cache_options.prewarm", "prompt_cache_options.prewarm")
        for name in ("context_management", "moderation"):
            if getattr(self, name):
                raise unsupported(name, name)

    def _check_input(self) -> None:
        if self.input is None:
            message = "input: this field is required."
            raise ApiError(400, message, param="input", code="missing_required_parameter")
        if all(item.type == "reasoning" for item in self.input) and not (self.input and self.continue_final_message):
            raise bad_request("input: must have at least one message.", "input")
        last = self.input[-1]
        if self.continue_final_message and not (last.type == "reasoning" or last.role == "assistant"):
            message = "continue_final_message: the last item must be an assistant's message or reasoning."
            raise bad_request(message, "continue_final_message")
