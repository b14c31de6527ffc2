"""The fields that say how tokens are drawn, beyond OpenAI's: those of RWKV's own servers, of vLLM and of llama.cpp."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_COUNT = 2**31 - 1


def whole_numbers(value: Any) -> Any:
    """Whole numbers, and lists of them, as integers, however they were written."""
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


Beyond = "Beyond OpenAI. "


class SamplingFields(BaseModel):
    """What a request may say of its draws. Every field is optional; absent ones are off."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    top_k: int | None = Field(None, ge=-1, le=MAX_COUNT, description=Beyond + "0 or -1 is off.")
    min_p: float | None = Field(None, ge=0, le=1, description=Beyond + "0 is off.")
    repetition_penalty: float | None = Field(None, gt=0, le=100, description=Beyond + "1 is off.")
    stop_token_ids: list[int] | None = Field(
        None, max_length=256, description=Beyond + "Token ids that end the answer."
    )
    ignore_eos: bool | None = Field(None, description=Beyond + "Go on after the end of text.")

    @field_validator("top_k", mode="before")
    @classmethod
    def _sampling_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @field_validator("stop_token_ids", mode="before")
    @classmethod
    def _id_lists(cls, value: Any) -> Any:
        return whole_numbers(value)
