"""POST /v1/completions: prompts to rows, pieces to text choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wingbeat.engine.messages import RowOutput
from wingbeat.server.dialects.openai_answer import ObjectNames, Piece
from wingbeat.server.dialects.openai_completions_schema import CompletionBody
from wingbeat.server.dialects.openai_echo import EchoedPrompt
from wingbeat.server.dialects.openai_logprobs import CompletionLogprobs
from wingbeat.server.dialects.openai_prompt_logprobs import PromptLogprobs
from wingbeat.server.dialects.openai_ranking import MeanLogprob
from wingbeat.server.dialects.openai_states import check_goes_on
from wingbeat.server.dialects.openai_tokens import TokenTexts
from wingbeat.server.errors import bad_request
from wingbeat.server.registry import Prompt, Prompts, ServedModel, Start
from wingbeat.server.session_turn import Turn

COMPLETION = ObjectNames("cmpl-", "text_completion", "text_completion")


async def completion_prompts(body: CompletionBody, model: ServedModel, start: Start, turn: Turn | None) -> Prompts:
    """Token ids of each prompt; the one of a session's turn follows its log.

    Raises ApiError (400) for ids and texts that the model cannot take.
    """
    if start.state is not None and not all(body.prompt):
        check_goes_on(start)
    if body.stop and model.tokenizer is None:
        raise bad_request(f"The model {model.name} has no tokenizer: use stop_token_ids.", "stop")
    prompts: list[Prompt] = [(prompt,) if isinstance(prompt, str) else prompt for prompt in body.prompt]
    encoded = await model.encode(prompts, "prompt", body.rows_per_prompt, body.truncate_prompt_tokens)
    return encoded if turn is None else turn.prompts(encoded)


class CompletionChoice:
    """One continuation of a prompt. `echo` comes before it; `logprobs` is how many alternatives were asked for.

    `stops` says that stop texts may end it. A whole reply has `prompt_logprobs` too.
    """

    def __init__(
        self,
        texts: TokenTexts,
        *,
        echo: EchoedPrompt | None = None,
        logprobs: int | None = None,
        stops: bool = False,
        prompt_logprobs: PromptLogprobs | None = None,
    ) -> None:
        self._echo = echo
        self._prompt_logprobs = prompt_logprobs
        offset = len(echo.text) if echo else 0
        self._logprobs = None if logprobs is None else CompletionLogprobs(texts, logprobs, offset, hold=stops)
        self._begun = False  # whether the echo was streamed
        self.mean_logprob = MeanLogprob()

    @property
    def shown(self) -> Callable[[str], str] | None:
        echoed = self._echo is None or self._begun
        return str if echoed and self._logprobs is None else None

    @property
    def reasoning_tokens(self) -> int:
        return 0

    @property
    def rest_opening(self) -> str:
        return ""

    def push(self, row: RowOutput) -> Piece:
        self.mean_logprob.push(row)
        logprobs = self._logprobs.push(row) if self._logprobs else ()
        return Piece(row.text, "", logprobs, row.finish_reason)

    def opening(self) -> dict[str, Any] | None:
        if self._echo is None or self._logprobs is not None:  # the prompt's log-probabilities are not here yet
            return None
        self._begun = True
        return {"text": self._echo.text, "logprobs": None, "finish_reason": None} if self._echo.text else None

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        text, columns = piece.text, [piece.logprobs]
        if self._echo is not None and not self._begun:
            self._begun = True
            text, columns = self._echo.text + text, [self._echo_columns(), *columns]
        logprobs = self._logprobs.join(columns) if self._logprobs and any(columns) else None
        return [{"text": text, "logprobs": logprobs, "finish_reason": piece.finish_reason}]

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        columns = [self._echo_columns(), *(piece.logprobs for piece in pieces)]
        choice = {
            "text": (self._echo.text if self._echo else "") + "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs.join(columns) if self._logprobs else None,
            "finish_reason": pieces[-1].finish_reason,
        }
        if self._prompt_logprobs is not None:
            choice["prompt_logprobs"] = self._prompt_logprobs.rendered()
        return choice

    def _echo_columns(self) -> tuple[bytes, ...]:
        return self._echo.columns(self._logprobs) if self._echo and self._logprobs else ()
