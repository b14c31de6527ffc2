"""The fields that say how tokens are drawn, beyond OpenAI's: those of RWKV's own servers, of vLLM and of llama.cpp."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.sampling.params import MAX_BAD_WORD_LENGTH, MAX_BAD_WORDS_LENGTH
from wingbeat.server.errors import bad_request

MAX_COUNT = 2**31 - 1
MAX_LISTED_IDS = 4096
MAX_ALLOWED_IDS = 2**17
MAX_BAD_WORDS = 64


def whole_numbers(value: Any) -> Any:
    """Whole numbers, and lists of them, as integers, however they were written."""
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bad_words(value: Any) -> Any:
    if value is None:
        return None
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("a list of texts is wanted")
    words = [word for word in words if word]
    if len(words) > MAX_BAD_WORDS:
        raise ValueError(f"at most {MAX_BAD_WORDS} texts are possible")
    if any(len(word) > MAX_BAD_WORD_LENGTH for word in words):
        raise ValueError(f"a text may have {MAX_BAD_WORD_LENGTH} characters at most")
    if sum(map(len, words)) > MAX_BAD_WORDS_LENGTH:
        raise ValueError(f"all texts together may have {MAX_BAD_WORDS_LENGTH} characters at most")
    return words


_WORD = {"type": "string", "maxLength": MAX_BAD_WORD_LENGTH}
_WORDS = {"anyOf": [{"type": "array", "items": _WORD, "maxItems": MAX_BAD_WORDS}, _WORD, {"type": "null"}]}
BadWords = Annotated[list[str] | None, BeforeValidator(_bad_words), WithJsonSchema(_WORDS)]

Beyond = "Beyond OpenAI. "


class SamplingFields(BaseModel):
    """What a request may say of its draws. Every field is optional; absent ones are off."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Default 0. Over generated tokens.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="Default 0. Over generated tokens.")
    top_k: int | None = Field(None, ge=-1, le=MAX_COUNT, description=Beyond + "0 or -1 is off.")
    min_p: float | None = Field(None, ge=0, le=1, description=Beyond + "0 is off.")
    repetition_penalty: float | None = Field(None, gt=0, le=100, description=Beyond + "1 is off.")
    repetition_over: Literal["all", "answer"] | None = Field(
        None, description=Beyond + "What `repetition_penalty` counts: prompt and answer (the default) or the answer."
    )

    sampler: Literal["nucleus", "typical", "mirostat", "mirostat_full", "noise"] | None = Field(
        None, description=Beyond + "How a token is drawn. Default `nucleus`: top_k, top_p and min_p."
    )
    sampler_order: Literal["standard", "rwkv", "ai00", "joint"] | None = Field(
        None, description=Beyond + "In which order nucleus filters. Default `standard`: temperature comes first."
    )
    tau: float | None = Field(
        None, ge=0, le=100, description=Beyond + "Of typical (a share, default 0.5) and mirostat (bits, default 3)."
    )
    rate: float | None = Field(None, ge=0, le=1, description=Beyond + "How fast mirostat learns. Default 0.1.")
    noise: float | None = Field(
        None, ge=0, le=1000, description=Beyond + "Of `noise`: the range of what is added to each logit. Default 1.5."
    )
    typical_p: float | None = Field(
        None, ge=0, le=1, description=Beyond + "Below 1 the same as sampler `typical` with this `tau`."
    )
    mirostat: Literal[0, 1, 2] | None = Field(
        None, description=Beyond + "2 is the same as sampler `mirostat`, 0 is off; 1, its first version, is refused."
    )
    mirostat_tau: float | None = Field(None, ge=0, le=100, description=Beyond + "With `mirostat`: `tau`.")
    mirostat_eta: float | None = Field(None, ge=0, le=1, description=Beyond + "With `mirostat`: `rate`.")

    penalty_decay: float | None = Field(
        None, gt=0, le=1, description=Beyond + "What is left of each penalty after one more token. Default 1."
    )
    half_life: float | None = Field(
        None, ge=0.01, le=1e9, description=Beyond + "The same as a penalty_decay of 0.5^(1/half_life), in tokens."
    )
    penalty_mode: Literal["counts", "counts_decay_first", "values"] | None = Field(
        None, description=Beyond + "What decays: the counts of frequency_penalty (default), or presence too (`values`)."
    )
    penalty_free_ids: list[int] | None = Field(
        None, max_length=MAX_LISTED_IDS, description=Beyond + "Token ids that frequency_penalty does not count."
    )
    global_penalty: bool | None = Field(
        None, description=Beyond + "Count the prompt's tokens for the penalties too, but for marks, digits and spaces."
    )
    repeat_last_n: int | None = Field(
        None,
        ge=-1,
        le=MAX_COUNT,
        description=Beyond + "Penalties count all tokens, which is -1; another number is refused where there are any.",
    )
    no_repeat_ids: list[int] | None = Field(
        None, max_length=MAX_LISTED_IDS, description=Beyond + "Token ids that never come twice in a row."
    )

    stop_token_ids: list[int] | None = Field(
        None, max_length=256, description=Beyond + "Token ids that end the answer."
    )
    ignore_eos: bool | None = Field(None, description=Beyond + "Go on after the end of text.")
    include_stop_str_in_output: bool | None = Field(
        None, description=Beyond + "Leave the `stop` or the token of `stop_token_ids` that ends the answer in its text."
    )
    min_tokens: int | None = Field(
        None, ge=0, le=MAX_COUNT, description=Beyond + "So many tokens come before anything may end the answer."
    )
    allowed_token_ids: list[int] | None = Field(
        None,
        min_length=1,
        max_length=MAX_ALLOWED_IDS,
        description=Beyond + "The answer is of these tokens only. Without the end of text it does not end by itself.",
    )
    bad_words: BadWords = Field(None, description=Beyond + "Texts that the answer will not contain.")
    skip_special_tokens: bool | None = Field(
        None, description=Beyond + "False: with ignore_eos, show the end of text as `<|endoftext|>`."
    )

    @field_validator("top_k", "min_tokens", "mirostat", "repeat_last_n", mode="before")
    @classmethod
    def _sampling_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @field_validator("mirostat", mode="before")
    @classmethod
    def _version(cls, value: Any) -> Any:
        if isinstance(value, bool):  # which is equal to a number
            raise ValueError("must be 0 or 2")
        return value

    @field_validator("stop_token_ids", "penalty_free_ids", "no_repeat_ids", "allowed_token_ids", mode="before")
    @classmethod
    def _id_lists(cls, value: Any) -> Any:
        return whole_numbers(value)

    def refuse_contradictions(self, max_tokens: int | None) -> None:
        """Raises ApiError for fields that exclude each other."""
        if self.mirostat == 1:
            raise bad_request("mirostat: its first version is not offered; use 2.", "mirostat")
        named = [
            name
            for name, given in (
                ("typical_p", self.typical_p is not None and self.typical_p < 1),
                ("mirostat", self.mirostat == 2),
            )
            if given
        ]
        if named and (len(named) > 1 or self.sampler not in (None, named[0].removesuffix("_p"))):
            raise bad_request(f"{named[0]}: only one sampler draws; leave out the others.", named[0])
        if self.sampler == "typical" and self.tau is not None and self.tau > 1:
            raise bad_request("tau: of typical it is a share of the probability, 1 at most.", "tau")
        if self.allowed_token_ids is not None and self.bad_words:
            raise bad_request("allowed_token_ids: not together with bad_words.", "allowed_token_ids")
        self._refuse_window()
        if self.min_tokens and max_tokens is not None and self.min_tokens > max_tokens:
            raise bad_request(f"min_tokens: more than the {max_tokens} tokens that there may be.", "min_tokens")

    def _refuse_window(self) -> None:
        if self.repeat_last_n in (None, -1):
            return
        if (self.repetition_penalty or 1) != 1 or self.presence_penalty or self.frequency_penalty:
            problem = "penalties count all tokens here; leave it out, or send -1. half_life lets them forget"
            raise bad_request(f"repeat_last_n: {problem}.", "repeat_last_n", "unsupported_value")
