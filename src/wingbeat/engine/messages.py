"""What the API and the engine say to each other: msgspec structs, one msgpack frame each.

API to engine: ``Submit``, ``Cancel``. Engine to API: ``Loading``, ``Ready``, ``Failed``, ``LogLine``, and one
``StepOutput`` for each step, with all rows of all requests. The engine knows token ids, sampling and stops; it knows
no dialect.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

import msgspec

from wingbeat.sampling.params import SamplingParams

FinishReason = Literal["stop", "length", "error", "cancelled"]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to load a model and how much to run at once. ``None`` leaves the choice to the engine."""

    model: str
    dtype: str = "auto"
    backend: str = "auto"
    threads: int | None = None
    tokenizer: str | None = None  # a World vocabulary file; None: found from the model
    profile: str | None = None  # name of a ModelProfile; None: found from the model
    max_batch: int | None = None  # state slots; None: 64, or what a quarter of the free memory holds
    token_budget: int = 512  # rows a step: every decoding sequence, then prompt chunks
    max_queue: int = 1024  # rows that may wait for a slot
    default_max_tokens: int = 32768  # for requests that set no max_tokens: a runaway must end


class Row(msgspec.Struct, array_like=True):
    """One sequence of a request, by the index of its prompt. ``choice`` sets it apart from others of that prompt."""

    prompt: int
    choice: int = 0


class GenerationRequest(msgspec.Struct, kw_only=True):
    """A group of rows, admitted and cancelled as one. Rows of the same prompt share it, and the reading of it.

    ``fingerprint`` is that of the model whose tokenizer made the ids. ``EngineClient.submit`` chooses the ``id``.
    An empty prompt is fed as token 0, the document start, so that there is something to predict from.
    """

    fingerprint: str
    prompts: list[list[int]]
    rows: list[Row]
    sampling: SamplingParams
    id: int = 0
    kind: Literal["generate"] = "generate"


class TokenLogprob(msgspec.Struct, array_like=True, gc=False):
    """A sampled token, its log-softmax over the raw logits, and the most likely tokens with theirs, best first."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


class RowOutput(msgspec.Struct, array_like=True, gc=False):
    """What one step brought to one row, or several steps merged.

    ``token_ids`` (and ``logprobs``, when asked for) hold every sampled token, the one that ended the row included.
    ``text`` is what may be shown by now: it lags behind while a character or a possible stop string is incomplete, and
    never holds the stop. A row's last output has a ``finish_reason``: "stop" (an end-of-text or stop id, a stop
    string), "length" (max_tokens), "error" or "cancelled". ``stop_reason`` is the stop string or id that matched, None
    for the end of text. The counts are valid on the last output.
    """

    request: int
    row: int
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Stats(msgspec.Struct, array_like=True, gc=False):
    """The engine's load after a step, in rows, and what it has done since it started."""

    waiting: int = 0
    running: int = 0
    slots_in_use: int = 0
    slots: int = 0
    steps: int = 0
    prompt_tokens: int = 0  # fed
    generated_tokens: int = 0  # sampled


class Submit(msgspec.Struct, tag=True):
    request: GenerationRequest


class Cancel(msgspec.Struct, tag=True):
    ids: list[int]


class Loading(msgspec.Struct, tag=True):
    """Bytes of the checkpoint read, of all."""

    done: int
    total: int


class Ready(msgspec.Struct, tag=True):
    """The model is loaded. ``info`` holds the fields of ``ModelInfo``."""

    info: dict[str, Any]
    slots: int


class Failed(msgspec.Struct, tag=True):
    """The model cannot be loaded; trying again would not help."""

    error: str


class LogLine(msgspec.Struct, tag=True):
    """What the engine's process has to say to the log: it appears there as if said by the API's process."""

    logger: str
    level: int
    text: str


class StepOutput(msgspec.Struct, tag=True, gc=False):
    rows: list[RowOutput]
    stats: Stats


Command = Submit | Cancel
Event = Loading | Ready | Failed | LogLine | StepOutput


def with_seed(sampling: SamplingParams) -> SamplingParams:
    """The same parameters with a seed drawn where there was none."""
    if sampling.seed is not None:
        return sampling
    return msgspec.structs.replace(sampling, seed=secrets.randbits(62))
