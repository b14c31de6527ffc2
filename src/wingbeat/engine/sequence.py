"""One row of a request while the engine works on it: what was fed, what was sampled, when it ends."""

from __future__ import annotations

from typing import NamedTuple

from wingbeat.engine.messages import FinishReason, RowOutput, TokenLogprob
from wingbeat.ops.table import IntArray
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.stream import StopMatcher, StreamDecoder
from wingbeat.text.world import END_OF_TEXT, WorldTokenizer


class Finish(NamedTuple):
    reason: FinishReason
    detail: str | int | None = None  # the stop string or id that matched


class Sequence:
    """A prompt, a cursor through it, then sampled tokens, whose bytes become text without the stops.

    ``fed`` counts the tokens that the state has seen. It is also the position of the next draw, so that a sequence
    draws the same numbers whatever runs beside it. Sequences of one request with the same prompt share the array.
    """

    __slots__ = (
        "_decoder",
        "_max_tokens",
        "_stop_ids",
        "_stops",
        "_tokenizer",
        "choice",
        "fed",
        "generated",
        "last_token",
        "leader",
        "prompt",
        "request",
        "row",
        "sampling",
        "slot",
    )

    def __init__(
        self,
        request: int,
        row: int,
        choice: int,
        prompt: IntArray,
        sampling: SamplingParams,
        tokenizer: WorldTokenizer | None,
        default_max_tokens: int,
    ) -> None:
        self.request, self.row, self.choice = request, row, choice
        self.prompt = prompt  # int32 [T], T >= 1
        self.sampling = sampling
        self.slot = -1
        self.leader: Sequence | None = None  # the twin whose state this one takes over instead of reading its prompt
        self.fed = 0
        self.generated = 0
        self.last_token = -1
        self._max_tokens = default_max_tokens if sampling.max_tokens is None else sampling.max_tokens
        self._stop_ids = frozenset(sampling.stop_token_ids)
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder()
        self._stops = StopMatcher(sampling.stop) if sampling.stop else None

    @property
    def decoding(self) -> bool:
        return self.fed >= len(self.prompt)

    def accept(self, token: int, logprob: float, top: list[tuple[int, float]] | None) -> RowOutput:
        """Take the token sampled for this sequence; the output says whether it was the last one."""
        self.last_token = token
        self.leader = None  # from the first token on there is nothing to follow; the leader's memory may go
        self.generated += 1
        output = RowOutput(self.request, self.row, token_ids=[token])
        if self.sampling.logprobs is not None:
            output.logprobs = [TokenLogprob(token, logprob, top or [])]
        finish = self._stop_token(token)
        if finish is None:
            output.text, matched = self._push(token)
            if matched is not None:
                return self._close(output, Finish("stop", matched))
            if self.generated >= self._max_tokens:
                finish = Finish("length")
        if finish is None:
            return output
        output.text += self._flush()
        return self._close(output, finish)

    def end(self, reason: FinishReason, error: str | None = None) -> RowOutput:
        """The last output of a sequence that ends without another token."""
        return self._close(RowOutput(self.request, self.row, error=error), Finish(reason))

    def _stop_token(self, token: int) -> Finish | None:
        if token == END_OF_TEXT and not self.sampling.ignore_eos:
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
        output.prompt_tokens, output.completion_tokens = len(self.prompt), self.generated
        return output
