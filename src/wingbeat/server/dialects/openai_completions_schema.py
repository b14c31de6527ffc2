"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainValidator, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.dialects.openai_forms import Asked, ResponseFormat
from wingbeat.server.dialects.openai_ranking import RankingBody
from wingbeat.server.dialects.openai_schema import IDS, MAX_COUNT, TEXTS, example, or_false, whole_numbers
from wingbeat.server.errors import bad_request

MAX_CHOICES = 4096
"""Prompts times answers to each, of one request."""
DEFAULT_MAX_TOKENS = 16


def prompts_in(value: Any) -> list[str | list[int]]:
    """A text, texts, token ids or lists of token ids, as a list of prompts. Null is the start of a document."""
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        prompts = _listed(value) or _listed(whole_numbers(value))  # ids such as 5.0 are rare, and a prompt may be long
        if prompts:
            return prompts
    raise ValueError("a text, a list of texts, a list of token ids or a list of such lists is wanted")


def _listed(value: list[Any]) -> list[Any] | None:
    """The prompts in a list that is not empty; None when its items are no prompts, or not of one kind."""
    if all(type(item) is int for item in value):
        return [value]
    if all(isinstance(item, str) for item in value):
        return value
    if all(isinstance(item, list) and item and all(type(token) is int for token in item) for item in value):
        return value
    return None


def _some(array: dict[str, Any]) -> dict[str, Any]:
    return {**array, "minItems": 1}


_LISTS = {"type": "array", "items": _some(IDS)}

Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(prompts_in),  # checking a million ids once is enough
    WithJsonSchema({"anyOf": [{"type": "string"}, _some(TEXTS), _some(IDS), _some(_LISTS), {"type": "null"}]}),
]


TokenLimit = Annotated[int | None, Field(ge=-1, le=MAX_COUNT), BeforeValidator(whole_numbers)]


class CompletionBody(RankingBody):
    """Continue one or several prompts."""

    model_config = example({"prompt": "English: Save the file\n\nChinese:", "max_tokens": 12, "stop": "\n"})

    prompt: Prompts = Field(
        [""],
        description="One or several prompts; `choices` holds `n` answers to each, in order. With a kept `state`, an "
        "empty or absent one goes on with the answer that it was kept of.",
    )
    same: ClassVar[dict[str, str]] = {
        **RankingBody.same,
        **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens"), "max_tokens"),
        "n_probs": "logprobs",
    }

    max_tokens: TokenLimit = Field(None, description="Default 16. -1: until the model stops.")
    n_predict: TokenLimit = Field(None, description="As `max_tokens`, by llama.cpp's name.")
    num_predict: TokenLimit = Field(None, description="As `max_tokens`, by Ollama's name.")
    max_new_tokens: TokenLimit = Field(None, description="As `max_tokens`, by SGLang's and others' name.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Log-probabilities of so many tokens at each place. False is none.",
        json_schema_extra=or_false,
    )
    echo: bool | None = Field(None, description="Begin the answer with the prompt, in `logprobs` too.")
    response_format: ResponseFormat | None = Field(None, description="Beyond OpenAI here. The form of the answer.")
    suffix: str | None = Field(None, description="Refused: the models do not fill in the middle.")

    @field_validator("logprobs", mode="before")
    @classmethod
    def _more_numbers(cls, value: Any) -> Any:
        return None if value is False else whole_numbers(value)

    @property
    def token_limit(self) -> int | None:
        if self.max_tokens is None:
            return DEFAULT_MAX_TOKENS
        return None if self.max_tokens == -1 else self.max_tokens

    @property
    def form(self) -> Asked | None:
        """The form of the answers. Raises ApiError (400) for several."""
        return self.asked_form(self.response_format and self.response_format.asked())

    @property
    def sampled_logprobs(self) -> int | None:
        """How many alternatives the engine is asked for; ranking needs the log-probabilities of the tokens at least."""
        return 0 if self.ranks and self.logprobs is None else self.logprobs

    @property
    def prompt_alternatives(self) -> int | None:
        """How many alternatives to the prompts' tokens the engine is asked for; None: their scores are not wanted."""
        wanted = (self.prompt_logprobs, self.logprobs if self.echo else None)
        return max((count for count in wanted if count is not None), default=None)

    def _refuse_in_session(self) -> None:
        if len(self.prompt) > 1:
            raise bad_request("prompt: a session goes on with one prompt.", "prompt")
        if self.echo:
            raise bad_request("echo: not with session_id; the prompt alone is not what is read.", "echo")

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        self.refuse_contradictions(self.token_limit)
        if self.state is None and "prompt" not in self.model_fields_set:
            raise bad_request("prompt: this field is required.", "prompt", "missing_required_parameter")
        if self.session_id is not None:
            self._refuse_in_session()
        if self.suffix:
            raise bad_request("suffix: RWKV models continue text, they do not fill in the middle.", "suffix")
        if len(self.prompt) * self.rows_per_prompt > MAX_CHOICES:
            message = f"prompt: prompts times n (or best_of) may be {MAX_CHOICES} at most; send several requests."
            raise bad_request(message, "prompt")
