"""`prompt_logprobs`: what the model thinks of the prompt's own tokens, in vLLM's shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from pydantic import Field, field_validator

from wingbeat.engine.messages import RowOutput, TokenLogprob
from wingbeat.server.dialects.openai_schema import GenerationBody, or_false, whole_numbers
from wingbeat.server.dialects.openai_tokens import TokenTexts, number
from wingbeat.server.errors import bad_request

MAX_SCORED = 100_000
"""Prompt tokens of one request. Their alternatives come in one message, which must not hold up other streams."""


class PromptLogprobsBody(GenerationBody):
    """A body whose prompts may be scored."""

    prompt_logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Beyond OpenAI. Log-probability and rank of each token of the prompt, and of so many alternatives. "
        "False is none. Not with `stream`.",
        json_schema_extra=or_false,
    )

    @field_validator("prompt_logprobs", mode="before")
    @classmethod
    def _or_none(cls, value: object) -> object:
        return None if value is False else whole_numbers(value)

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.prompt_logprobs is None:
            return
        if self.stream:
            raise bad_request("prompt_logprobs: not with stream; they come with the whole reply.", "prompt_logprobs")
        if self.session_id is not None:
            message = "prompt_logprobs: not with session_id; the prompt alone is not what is read."
            raise bad_request(message, "prompt_logprobs")


class ScoredPrompt:
    """A prompt and, once the engine has told them, the scores of its tokens; only where it was asked to."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids
        self.scores: Sequence[TokenLogprob | None] | None = None


class PromptLogprobs:
    """The field `prompt_logprobs` of a prompt, with so many alternatives for each token."""

    def __init__(self, prompt: ScoredPrompt, texts: TokenTexts, alternatives: int) -> None:
        self._prompt, self._texts, self._alternatives = prompt, texts, alternatives
        self._rendered: msgspec.Raw | None = None

    def rendered(self) -> msgspec.Raw:
        """An array: null for what nothing predicted, the first token; then an object of tokens by their ids, the
        prompt's own one first. Made once for all answers."""
        if self._rendered is None:
            entries = ("null" if score is None else self._entry(score) for score in self._prompt.scores or ())
            self._rendered = msgspec.Raw(f"[{','.join(entries)}]".encode())
        return self._rendered

    def _entry(self, score: TokenLogprob) -> str:
        likely = enumerate(score.top[: self._alternatives], start=1)
        others = [self._token(token, logprob, rank) for rank, (token, logprob) in likely if token != score.token]
        return "{" + ",".join([self._token(score.token, score.logprob, score.rank), *others]) + "}"

    def _token(self, token: int, logprob: float, rank: int) -> str:
        text = self._texts.text(token)
        return f'"{token}":{{"logprob":{number(logprob)},"rank":{rank},"decoded_token":{text}}}'


def asked_fields(
    prompts: Sequence[ScoredPrompt], texts: TokenTexts, alternatives: int | None, answers: int, param: str
) -> list[PromptLogprobs | None]:
    """The field of each prompt, which came in the request's field `param`; None without `alternatives`.

    Raises ApiError (400) for more tokens than may have log-probabilities, counted for each of the `answers` to a prompt
    that will show them.
    """
    if alternatives is None:
        return [None] * len(prompts)
    check_scored("prompt_logprobs", answers * sum(len(prompt.ids) for prompt in prompts), param)
    return [PromptLogprobs(prompt, texts, alternatives) for prompt in prompts]


def check_scored(what: str, tokens: int, param: str) -> None:
    """Raises ApiError (400) for more tokens than may have log-probabilities, which `what` asks for."""
    if tokens > MAX_SCORED:
        message = f"{what}: {tokens} tokens; at most {MAX_SCORED} of one request have log-probabilities. Ask in parts."
        raise bad_request(message, param)


class ScoreGate:
    """Lets a row's outputs through once the scores of its prompt are here. They come with the first row of the prompt,
    and others may have ended before that was read, since there was nothing to generate."""

    def __init__(self, prompts: Sequence[ScoredPrompt], per_prompt: int) -> None:
        self._prompts = prompts
        self._per_prompt = per_prompt
        self._held: dict[int, list[RowOutput]] = {}

    def admit(self, rows: Iterable[RowOutput]) -> Iterator[RowOutput]:
        """The outputs that may be shown, in order. A failure always may."""
        for row in rows:
            place = row.row // self._per_prompt
            prompt = self._prompts[place]
            if row.extras is not None and row.extras.prompt_logprobs is not None:
                prompt.scores = row.extras.prompt_logprobs
                yield row
                yield from self._held.pop(place, ())
            elif prompt.scores is None and row.finish_reason not in ("error", "cancelled"):
                self._held.setdefault(place, []).append(row)
            else:
                yield row
