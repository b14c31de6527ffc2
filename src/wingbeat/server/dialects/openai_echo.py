"""`echo` of completions: the prompt before its answers, with `logprobs` together with its log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from wingbeat.engine.messages import RowOutput, TokenLogprob
from wingbeat.server.body import run_sized
from wingbeat.server.dialects.openai_completions_schema import CompletionBody
from wingbeat.server.dialects.openai_logprobs import Columns, CompletionLogprobs
from wingbeat.server.errors import bad_request
from wingbeat.server.registry import ServedModel

MAX_SCORED = 100_000
"""Prompt tokens of one request. Their alternatives come in one message, which must not hold up other streams."""


class EchoedPrompt:
    """A prompt that the answers to it begin with."""

    def __init__(self, text: str, ids: Sequence[int]) -> None:
        self.text = text
        self.scores: Sequence[TokenLogprob | None] | None = None
        """Of its tokens, once the engine has told them; only where it was asked to."""
        self._ids = ids
        self._columns: Columns | None = None

    def columns(self, logprobs: CompletionLogprobs) -> Columns:
        """Its tokens as `logprobs` shows them, made once for all answers."""
        if self._columns is None:
            self._columns = logprobs.prompt(self._ids, self.scores or ())
        return self._columns


async def echoed_prompts(body: CompletionBody, model: ServedModel, prompts: Sequence[list[int]]) -> list[EchoedPrompt]:
    """The prompts of `body`, whose token ids are `prompts`, in the words of the client; none without `echo`.

    Raises ApiError (400) for more tokens than may have log-probabilities.
    """
    tokens = sum(map(len, prompts))
    if body.echo and body.logprobs is not None and tokens > MAX_SCORED:
        message = f"echo with logprobs: {tokens} tokens; at most {MAX_SCORED} of one request have log-probabilities."
        raise bad_request(f"{message} Ask in parts.", "prompt")

    def text(prompt: str | list[int], ids: list[int]) -> str:
        # Log-probabilities come with places in the text: of what the tokens say, if the vocabulary cannot say it all.
        if isinstance(prompt, str) and body.logprobs is None:
            return prompt
        return b"".join(map(model.token_bytes, ids)).decode("utf-8", "replace")

    def echo() -> list[EchoedPrompt]:
        return [EchoedPrompt(text(prompt, ids), ids) for prompt, ids in zip(body.prompt, prompts, strict=True)]

    return await run_sized(sum(map(len, body.prompt)), echo) if body.echo else []


class ScoreGate:
    """Lets a row's outputs through once the scores of its prompt are here. They come with the first row of the prompt,
    and others may have ended before that was read, since there was nothing to generate."""

    def __init__(self, prompts: Sequence[EchoedPrompt], per_prompt: int) -> None:
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
