"""POST /v1/completions: prompts to rows, pieces to text choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wingbeat.engine.messages import RowOutput
from wingbeat.server.body import run_sized
from wingbeat.server.dialects.openai_answer import ObjectNames, Piece
from wingbeat.server.dialects.openai_completions_schema import CompletionBody
from wingbeat.server.dialects.openai_tokens import CompletionLogprobs, TokenTexts
from wingbeat.server.errors import bad_request
from wingbeat.server.registry import Prompt, ServedModel

COMPLETION = ObjectNames("cmpl-", "text_completion", "text_completion")


async def completion_prompts(body: CompletionBody, model: ServedModel) -> list[list[int]]:
    """Token ids of each prompt. Raises ApiError (400) for ids and texts that the model cannot take."""
    if body.stop and model.tokenizer is None:
        raise bad_request(f"The model {model.name} has no tokenizer: use stop_token_ids.", "stop")
    prompts: list[Prompt] = [(prompt,) if isinstance(prompt, str) else prompt for prompt in body.prompt]
    return await model.encode(prompts, "prompt", body.n or 1)


async def echoes(body: CompletionBody, model: ServedModel) -> list[str]:
    """The text with which the answers to each prompt begin: itself with `echo`, else nothing."""

    def text(prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        return b"".join(map(model.token_bytes, prompt)).decode("utf-8", "replace")

    if not body.echo:
        return [""] * len(body.prompt)
    return await run_sized(sum(map(len, body.prompt)), lambda: [text(prompt) for prompt in body.prompt])


class CompletionChoice:
    """One continuation of a prompt. `echo` comes before it; `logprobs` is how many alternatives were asked for.

    `stops` says that stop texts may end it.
    """

    def __init__(self, texts: TokenTexts, *, echo: str = "", logprobs: int | None = None, stops: bool = False) -> None:
        self._echo = echo
        self._logprobs = None if logprobs is None else CompletionLogprobs(texts, logprobs, len(echo), hold=stops)

    @property
    def reasoning_tokens(self) -> int:
        return 0

    def push(self, row: RowOutput) -> Piece:
        logprobs = self._logprobs.push(row) if self._logprobs else ()
        return Piece(row.text, "", logprobs, row.finish_reason)

    def opening(self) -> dict[str, Any] | None:
        return {"text": self._echo, "logprobs": None, "finish_reason": None} if self._echo else None

    def chunk(self, piece: Piece) -> dict[str, Any]:
        logprobs = self._logprobs.join([piece.logprobs]) if self._logprobs and piece.logprobs else None
        return {"text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish_reason}

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {
            "text": self._echo + "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs.join(piece.logprobs for piece in pieces) if self._logprobs else None,
            "finish_reason": pieces[-1].finish_reason,
        }
