"""What reading tells without generating: how likely texts are after a context, and vectors of texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from wingbeat.engine.messages import Embed, GenerationRequest, Row, RowOutput
from wingbeat.sampling.params import SamplingParams

Vector = NDArray[np.float32]

READ_ONLY = SamplingParams(max_tokens=0, seed=0)


class Score(msgspec.Struct, frozen=True):
    """How likely the tokens of a choice are, one after the other, after its context. Natural logarithms."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token: log-softmax of the model's own prediction, without temperature, bias or penalties."""
    greedy: bool = True
    """Whether each token is the most likely one where it stands."""

    @property
    def logprob(self) -> float:
        """Of the whole choice: the sum."""
        return math.fsum(self.logprobs)

    @property
    def mean(self) -> float:
        """For each token, so that long choices do not lose by their length. -inf for a choice without tokens."""
        return self.logprob / len(self.logprobs) if self.logprobs else -math.inf


def scoring_request(
    fingerprint: str,
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]],
    *,
    initial_state: str | None = None,
    request_id: int = 0,
) -> GenerationRequest:
    """A request for ``score_in``: a row for each pair of a context and a choice, neither of which may be empty."""
    pairs = list(pairs)
    return GenerationRequest(
        fingerprint=fingerprint,
        prompts=[[*context, *choice] for context, choice in pairs],
        rows=[Row(i) for i in range(len(pairs))],
        sampling=READ_ONLY,
        id=request_id,
        kind="score",
        score_from=[len(context) for context, _ in pairs],
        prompt_logprobs=1,
        initial_state=initial_state,
    )


def score_in(output: RowOutput) -> Score:
    """The score that the last output of a row of a ``scoring_request`` brings."""
    assert output.extras is not None
    entries = [entry for entry in output.extras.prompt_logprobs or () if entry is not None]
    greedy = all(entry.token == entry.top[0][0] for entry in entries)
    return Score(tuple(entry.token for entry in entries), tuple(entry.logprob for entry in entries), greedy)


def embedding_request(
    fingerprint: str,
    prompts: Sequence[list[int]],
    embed: Embed,
    *,
    initial_state: str | None = None,
    request_id: int = 0,
) -> GenerationRequest:
    """A request for ``vector_in``."""
    return GenerationRequest(
        fingerprint=fingerprint,
        prompts=list(prompts),
        rows=[Row(i) for i in range(len(prompts))],
        sampling=READ_ONLY,
        id=request_id,
        kind="embed",
        embed=embed,
        initial_state=initial_state,
    )


def vector_in(output: RowOutput) -> Vector:
    """The vector [D] that the last output of a row of an ``embedding_request`` brings."""
    assert output.extras is not None
    return np.frombuffer(output.extras.embedding or b"", "<f4").astype(np.float32)


def shaped(vector: Vector, dimensions: int | None, *, normalize: bool) -> Vector:
    """The first ``dimensions`` values [d] of a vector (None: all), at length 1 if ``normalize``. Zeros stay zeros."""
    vector = vector[:dimensions]
    if not normalize:
        return vector
    length = math.sqrt(float(np.square(vector, dtype=np.float64).sum()))
    return (vector / np.float64(length or 1.0)).astype(np.float32)


def layer_of(layer: int | None, layers: int) -> int:
    """A layer from 0; None is the last one, and negative ones count from there. Raises ValueError."""
    index = layers - 1 if layer is None else layer + layers if layer < 0 else layer
    if not 0 <= index < layers:
        raise ValueError(f"layer must be from {-layers} to {layers - 1}, not {layer}")
    return index
