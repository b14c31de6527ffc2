"""`echo` of completions: the prompt before its answers, with `logprobs` together with its log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from wingbeat.server.body import run_sized
from wingbeat.server.dialects.openai_completions_schema import CompletionBody
from wingbeat.server.dialects.openai_logprobs import Columns, CompletionLogprobs
from wingbeat.server.dialects.openai_prompt_logprobs import ScoredPrompt, check_scored
from wingbeat.server.registry import ServedModel


class EchoedPrompt:
    """A prompt that the answers to it begin with."""

    def __init__(self, text: str, prompt: ScoredPrompt) -> None:
        self.text = text
        self._prompt = prompt
        self._columns: Columns | None = None

    def columns(self, logprobs: CompletionLogprobs) -> Columns:
        """Its tokens as `logprobs` shows them, made once for all answers."""
        if self._columns is None:
            self._columns = logprobs.prompt(self._prompt.ids, self._prompt.scores or ())
        return self._columns


async def echoed_prompts(
    body: CompletionBody, model: ServedModel, prompts: Sequence[ScoredPrompt]
) -> list[EchoedPrompt]:
    """The prompts of `body`, which are `prompts`, in the words of the client; none without `echo`.

    Raises ApiError (400) for more tokens than may have log-probabilities.
    """
    if body.echo and body.logprobs is not None:
        check_scored("echo with logprobs", sum(len(prompt.ids) for prompt in prompts), "prompt")

    def text(prompt: str | list[int], ids: Sequence[int]) -> str:
        # Log-probabilities come with places in the text: of what the tokens say, if the vocabulary cannot say it all.
        if isinstance(prompt, str) and body.logprobs is None and body.truncate_prompt_tokens is None:
            return prompt
        return b"".join(map(model.token_bytes, ids)).decode("utf-8", "replace")

    def echo() -> list[EchoedPrompt]:
        return [EchoedPrompt(text(said, prompt.ids), prompt) for said, prompt in zip(body.prompt, prompts, strict=True)]

    return await run_sized(sum(map(len, body.prompt)), echo) if body.echo else []
