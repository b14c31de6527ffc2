"""What clients of vLLM, SGLang, llama.cpp and their like send beside OpenAI's fields, and is not done here.

A field that would change the answer is refused, unless its value switches it off. One that would not is checked and
forgotten. Fields that are done, and other names of such, stand with those of their kind.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from wingbeat.server.errors import not_supported


class Off:
    """Of a field that is refused where it is neither absent nor one of the values that switch it off."""

    def __init__(self, what: str, *neutral: Any) -> None:
        self._what, self._neutral = what, neutral

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        off = f" but for {self._told}, which is off" if self._neutral else ""
        return {"enum": [None, *self._neutral], "description": f"Refused{off}: {self._what}."}

    @property
    def _told(self) -> str:
        return " or ".join(map(json.dumps, self._neutral))

    def _check(self, value: Any) -> Any:
        if value is not None and not any(_same(value, neutral) for neutral in self._neutral):
            way_out = f"leave it out, or send {self._told}" if self._neutral else "leave it out"
            raise not_supported(f"{self._what}, which this server does not offer; {way_out}")
        return value


def _same(value: Any, other: Any) -> bool:
    """Whether JSON says the same with both: 1 is 1.0, and neither is true."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


_Nothing = "Without effect."


class OtherFields(BaseModel):
    """Fields of other servers that are refused, or that are without effect."""

    # Other ways to draw, and to penalise.
    dry_multiplier: Annotated[Any, Off("the DRY sampler", 0)] = None
    xtc_probability: Annotated[Any, Off("the XTC sampler", 0)] = None
    top_n_sigma: Annotated[Any, Off("the top-n-sigma sampler", -1, 0)] = None
    top_a: Annotated[Any, Off("the top-a sampler", 0)] = None
    tfs: Annotated[Any, Off("tail-free sampling", 1)] = None
    tfs_z: Annotated[Any, Off("tail-free sampling", 1)] = None
    epsilon_cutoff: Annotated[Any, Off("epsilon sampling", 0)] = None
    eta_cutoff: Annotated[Any, Off("eta sampling", 0)] = None
    smoothing_factor: Annotated[Any, Off("quadratic sampling", 0)] = None
    dynatemp_range: Annotated[Any, Off("dynamic temperature", 0)] = None
    dynamic_temperature: Annotated[Any, Off("dynamic temperature", False)] = None
    min_keep: Annotated[Any, Off("a least number of tokens to draw from", 0, 1)] = None
    samplers: Annotated[Any, Off("a list of samplers; sampler and sampler_order name those that there are")] = None
    temperature_last: Annotated[Any, Off("the order of the samplers; sampler_order names those there are", False)] = (
        None
    )
    penalty_alpha: Annotated[Any, Off("contrastive search", 0)] = None
    guidance_scale: Annotated[Any, Off("classifier-free guidance", 1)] = None
    no_repeat_ngram_size: Annotated[Any, Off("a ban on repeated n-grams", 0)] = None
    encoder_repetition_penalty: Annotated[Any, Off("a penalty on what the prompt lacks", 1)] = None
    use_beam_search: Annotated[Any, Off("beam search", False)] = None
    length_penalty: Annotated[Any, Off("beam search", 1)] = None
    early_stopping: Annotated[Any, Off("beam search", False)] = None
    logits_processors: Annotated[Any, Off("code of the client's", [])] = None
    custom_logit_processor: Annotated[Any, Off("code of the client's", "")] = None
    n_indent: Annotated[Any, Off("a least indentation", 0)] = None
    stop_regex: Annotated[Any, Off("expressions that end the answer", "", [])] = None
    t_max_predict_ms: Annotated[Any, Off("a limit on the time", -1, 0)] = None
    structural_tag: Annotated[Any, Off("a form that begins after a tag", "")] = None

    # Other prompts.
    chat_template: Annotated[Any, Off("another template than the model's", "")] = None
    documents: Annotated[Any, Off("documents beside the messages; say what they hold in a message", [])] = None
    prompt_embeds: Annotated[Any, Off("a prompt of vectors", [])] = None
    input_ids: Annotated[Any, Off("a prompt of token ids in a field of its own", [])] = None
    truncation_side: Annotated[Any, Off("dropping the end of a prompt", "left")] = None
    mm_processor_kwargs: Annotated[Any, Off("images and sound", {})] = None
    lora: Annotated[Any, Off("adapters of a request", [])] = None
    lora_path: Annotated[Any, Off("adapters of a request", "")] = None
    session_params: Annotated[Any, Off("SGLang's sessions; session_id names one of this server", {})] = None

    # Other replies.
    detokenize: Annotated[Any, Off("an answer without text", True)] = None
    return_tokens_as_token_ids: Annotated[Any, Off("ids in the place of texts", False)] = None
    return_token_ids: Annotated[Any, Off("the ids of the tokens; POST /tokenize gives them", False)] = None
    return_tokens: Annotated[Any, Off("the ids of the tokens; POST /tokenize gives them", False)] = None
    return_hidden_states: Annotated[Any, Off("hidden states; POST /v1/embeddings gives some", False)] = None
    post_sampling_probs: Annotated[Any, Off("probabilities after sampling", False)] = None
    include_reasoning: Annotated[Any, Off("an answer without its reasoning", True)] = None
    separate_reasoning: Annotated[Any, Off("reasoning as a part of the content", True)] = None
    reasoning_format: Annotated[Any, Off("reasoning as a part of the content", "auto", "deepseek")] = None

    # What changes no answer.
    add_special_tokens: bool | None = Field(None, description=_Nothing + " RWKV's prompts have no token before them.")
    spaces_between_special_tokens: bool | None = Field(None, description=_Nothing)
    guided_decoding_backend: str | None = Field(None, description=_Nothing)
    n_keep: int | None = Field(None, description=_Nothing + " Nothing is ever dropped: a state has no length.")
    n_discard: int | None = Field(None, description=_Nothing + " Nothing is ever dropped: a state has no length.")
    num_ctx: int | None = Field(None, description=_Nothing + " Models have no limit of their own.")
    id_slot: int | None = Field(None, description=_Nothing)
    priority: int | None = Field(None, description=_Nothing + " First come, first served.")
    request_id: str | None = Field(None, description=_Nothing + " The header `X-Request-Id` is given back.")
    rid: str | None = Field(None, description=_Nothing + " The header `X-Request-Id` is given back.")
    cache_salt: str | None = Field(None, description=_Nothing + " `no_cache` keeps a prompt out of the cache.")
    stream_reasoning: bool | None = Field(None, description=_Nothing + " Reasoning is streamed as it comes.")
    timings_per_token: bool | None = Field(None, description=_Nothing)
    return_progress: bool | None = Field(None, description=_Nothing)
    # Settings of what is refused above, and so of nothing.
    dry_base: float | None = Field(None, description=_Nothing)
    dry_allowed_length: int | None = Field(None, description=_Nothing)
    dry_penalty_last_n: int | None = Field(None, description=_Nothing)
    dry_sequence_breakers: list[str] | None = Field(None, description=_Nothing)
    xtc_threshold: float | None = Field(None, description=_Nothing)
    dynatemp_exponent: float | None = Field(None, description=_Nothing)
