"""`best_of`: more answers than are given, and which of them are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import Field, field_validator

from wingbeat.engine.messages import RowOutput
from wingbeat.server.dialects.openai_prompt_logprobs import PromptLogprobsBody
from wingbeat.server.dialects.openai_sampling_schema import whole_numbers
from wingbeat.server.errors import bad_request


class RankingBody(PromptLogprobsBody):
    """A body that may ask for the best of several answers."""

    best_of: int | None = Field(
        None, ge=1, le=128, description="Answers to generate, of which the likeliest `n` are given. Not with `stream`."
    )

    @field_validator("best_of", mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        return whole_numbers(value)

    @property
    def rows_per_prompt(self) -> int:
        """How many answers to each prompt are generated."""
        return self.best_of or self.n or 1

    @property
    def ranks(self) -> bool:
        """Whether more answers are generated than given."""
        return self.rows_per_prompt > (self.n or 1)

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.session_id is not None and self.rows_per_prompt > 1:
            raise bad_request("best_of: a session goes on with one answer.", "best_of")
        if self.rows_per_prompt < (self.n or 1):
            raise bad_request("best_of: must be at least n, the answers to be given.", "best_of")
        if self.ranks and self.stream:
            raise bad_request("best_of: answers cannot be ranked while they are streamed; leave out stream.", "best_of")


class MeanLogprob:
    """Of the tokens sampled for one answer. They must have been asked of the engine."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def push(self, row: RowOutput) -> None:
        for item in row.logprobs or ():
            self._sum += item.logprob
            self._count += 1

    @property
    def value(self) -> float:
        """0 without any tokens."""
        return self._sum / self._count if self._count else 0.0


class Ranked(Protocol):
    @property
    def mean_logprob(self) -> MeanLogprob: ...


def best_rows(choices: Sequence[Ranked], per_prompt: int, count: int) -> list[int]:
    """The `count` of `per_prompt` answers to each prompt that are likeliest for each token, the best first."""
    rows: list[int] = []
    for first in range(0, len(choices), per_prompt):
        ranked = sorted(range(first, first + per_prompt), key=lambda row: -choices[row].mean_logprob.value)
        rows += ranked[:count]
    return rows
