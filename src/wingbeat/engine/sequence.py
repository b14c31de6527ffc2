"""One row of a request while the engine works on it: what was fed, what was sampled, when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from wingbeat.engine.messages import FinishReason, RowOutput, TokenLogprob
from wingbeat.ops.table import FloatArray, IntArray
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.samplers import Sampler
from wingbeat.text.stream import StopMatcher, StreamDecoder
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.world import END_OF_TEXT


class Finish(NamedTuple):
    reason: FinishReason
    detail: str | int | None = None  # the stop string or id that matched


class Origin(NamedTuple):
    """The state that a sequence begins from: how many tokens that has seen, and its fields. None: a fresh one."""

    position: int = 0
    arrays: Mapping[str, FloatArray] | None = None


class Wanted(NamedTuple):
    """What goes out beside a sequence's tokens; see ``RowExtras``."""

    prompt_logprobs: int | None = None  # alternatives to list for each token of the prompt
    prompt_state: bool = False
    state: bool = False


FRESH = Origin()
NOTHING = Wanted()
"""The only value of those that want nothing: it is told by identity, for every token."""


class Sequence:
    """A prompt, a cursor through it, then sampled tokens, whose bytes become text without the stops.

    ``fed`` counts the tokens that the state has seen since the sequence began. With those before that it is the
    position of the next draw, so that a sequence draws the same numbers whatever runs beside it, and wherever it was
    stopped and resumed. Sequences of one request with the same prompt share the array.
    """

    __slots__ = (
        "_decoder",
        "_end_of_text",
        "_max_tokens",
        "_stop_ids",
        "_stops",
        "_tokenizer",
        "choice",
        "fed",
        "leader",
        "origin",
        "prompt",
        "request",
        "row",
        "sampled",
        "sampling",
        "scores",
        "slot",
        "strikes",
        "to_read",
        "wanted",
    )

    def __init__(
        self,
        request: int,
        row: int,
        choice: int,
        prompt: IntArray,
        sampling: SamplingParams,
        tokenizer: Tokenizer | None,
        default_max_tokens: int,
        origin: Origin = FRESH,
        wanted: Wanted = NOTHING,
    ) -> None:
        self.request, self.row, self.choice = request, row, choice
        self.prompt = prompt  # int32 [T], T >= 1
        self.sampling = sampling
        self.origin = origin
        self.wanted = wanted
        self.slot = -1
        self.leader: Sequence | None = None  # the twin whose state this one takes over instead of reading its prompt
        self.to_read = prompt  # the prompt; after ``restart``, also what was sampled by then
        self.fed = 0
        self.sampled: list[int] = []
        self.strikes = 0  # steps with this sequence that threw, though none of its sequences did when alone
        # Of the prompt's tokens so far, the first of which nothing predicts; None when they are not wanted (any more).
        self.scores: list[TokenLogprob | None] | None = None if wanted.prompt_logprobs is None else [None]
        self._max_tokens = default_max_tokens if sampling.max_tokens is None else sampling.max_tokens
        self._stop_ids = frozenset(sampling.stop_token_ids)
        self._tokenizer = tokenizer
        self._end_of_text = END_OF_TEXT if tokenizer is None else tokenizer.end_of_text
        self._decoder = StreamDecoder()
        self._stops = StopMatcher(sampling.stop) if sampling.stop else None

    @property
    def decoding(self) -> bool:
        return self.fed >= len(self.to_read)

    @property
    def position(self) -> int:
        """Tokens that the state has seen, before this sequence too."""
        return self.origin.position + self.fed

    @property
    def whole(self) -> bool:
        """Whether the state is that after the prompt and all sampled tokens but the last one."""
        return self.fed == len(self.prompt) + max(0, len(self.sampled) - 1)

    @property
    def needs_reading(self) -> bool:
        """Whether its prompt must be read at all: there are tokens to sample, or other things to find out."""
        return self._max_tokens > 0 or self.wanted is not NOTHING

    def start_sampling(self, sampler: Sampler) -> None:
        """Tell the sampler of this sequence, and of the tokens sampled so far."""
        sampler.start(self.slot, self.sampling, self.prompt, self.sampling.seed or 0, self.choice, self.sampled)

    def restart(self) -> None:
        """Go back to the origin: the prompt, and what was sampled after it, must be read again."""
        self.fed = 0
        if self.sampled:
            self.to_read = np.concatenate([self.prompt, np.array(self.sampled, np.int32)])
        if self.scores is not None:
            del self.scores[1:]

    def add_scores(self, tokens: list[int], logprobs: list[float], top: list[list[tuple[int, float]]]) -> None:
        """Take what was predicted for the next ``tokens`` of the prompt."""
        assert self.scores is not None
        self.scores += map(TokenLogprob, tokens, logprobs, top)

    def accept(self, token: int, logprob: float, top: list[tuple[int, float]] | None) -> RowOutput:
        """Take the token sampled for this sequence; the output says whether it was the last one."""
        if self._max_tokens == 0:
            return self.end("length")
        self.sampled.append(token)
        self.leader = None  # from the first token on there is nothing to follow; the leader's memory may go
        output = RowOutput(self.request, self.row, token_ids=[token])
        if self.sampling.logprobs is not None:
            output.logprobs = [TokenLogprob(token, logprob, top or [])]
        finish = self._stop_token(token)
        if finish is None:
            output.text, matched = self._push(token)
            if matched is not None:
                return self._close(output, Finish("stop", matched))
            if len(self.sampled) >= self._max_tokens:
                finish = Finish("length")
        if finish is None:
            return output
        output.text += self._flush()
        return self._close(output, finish)

    def end(self, reason: FinishReason, error: str | None = None) -> RowOutput:
        """The last output of a sequence that ends without another token."""
        return self._close(RowOutput(self.request, self.row, error=error), Finish(reason))

    def _stop_token(self, token: int) -> Finish | None:
        if token == self._end_of_text and not self.sampling.ignore_eos:
            return Finish("stop")
        if token in self._stop_ids:
            return Finish("stop", token)
        return None

    def _push(self, token: int) -> tuple[str, str | None]:
        """The text that ``token`` brings to light, and the stop string it completes."""
        if self._tokenizer is None:
            return "", None
        text = self._decoder.push(self._tokenizer.token_bytes(token))
        return (text, None) if self._stops is None else self._stops.push(text)

    def _flush(self) -> str:
        """The text held back so far. What was half a character or half a stop will not be completed any more."""
        text = self._decoder.flush()
        if self._stops is None:
            return text
        shown, matched = self._stops.push(text)
        return shown if matched is not None else shown + self._stops.flush()

    def _close(self, output: RowOutput, finish: Finish) -> RowOutput:
        output.finish_reason, output.stop_reason = finish
        output.prompt_tokens, output.completion_tokens = len(self.prompt), len(self.sampled)
        return output
