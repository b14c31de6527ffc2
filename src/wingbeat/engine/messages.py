"""What the API and the engine say to each other: msgspec structs, one msgpack frame each.

API to engine: ``Submit``, ``Cancel``, ``Forget``, ``LoadState``, ``Compile``. Engine to API: ``Loading``, ``Ready``,
``Failed``, ``LogLine``, ``StateLoaded``, ``Compiled``, and one ``StepOutput`` for each step, with the news of all rows
of all requests, be it none. The engine knows token ids, sampling and stops; it knows no dialect.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

import msgspec

from wingbeat.adapter import Adapter
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.sampling.constraint import Constraint
from wingbeat.sampling.params import SamplingParams

FinishReason = Literal["stop", "length", "error", "cancelled"]

MOST_GUESSES = 31
"""The most tokens that may be guessed for a sequence in a step."""

STEP_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper edges, in seconds, of the step durations that ``Stats.step_times`` counts."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to load a model and how much to run at once. ``None`` leaves the choice to the engine."""

    model: str
    dtype: str = "auto"
    quant: str | None = None  # dtype of the matrices of the first quant_layers layers (None: of all)
    quant_layers: int | None = None
    strategy: str | None = None  # in place of these three: the rwkv package's words for them
    backend: str = "auto"
    threads: int | None = None
    cache_packed: bool = False  # keep the packed weights on disk, and map them the next time
    gn_eps: float | None = None  # of the GroupNorms; None: that of every published model
    adapters: tuple[Adapter, ...] = ()  # merged one after the other
    states: dict[str, str] = {}  # files of tuned initial states, by the name that requests use
    default_state: str | None = None  # name of the one for requests that name none; None: the model's own, or none
    models_folder: str | None = None  # where a tokenizer may lie that several models share
    tokenizer: str | None = None  # a name or a file; None: found from the model
    profile: str | None = None  # name of a ModelProfile; None: found from the model
    max_batch: int | None = None  # state slots; None: 64, or what a quarter of the free memory holds
    token_budget: int = 512  # rows a step: every decoding sequence, then prompt chunks
    max_queue: int = 1024  # rows that may wait for a slot
    default_max_tokens: int = 32768  # for requests that set no max_tokens: a runaway must end
    speculative_tokens: int = 15  # guesses checked for a sequence in a step, at most; 0: none
    cache_memory: int | None = None  # bytes for cached states; None: a share of the free memory; 0: none are kept
    cache_dir: str | None = None  # where they are kept on disk, too; None: nowhere
    cache_disk: int = 2 * 2**30  # bytes for them there


class Row(msgspec.Struct, array_like=True):
    """One sequence of a request, by the index of its prompt. ``choice`` sets it apart from others of that prompt."""

    prompt: int
    choice: int = 0


class Embed(msgspec.Struct, frozen=True, array_like=True):
    """The vector that a prompt is to become: "mean" is the mean over its tokens of the hidden vector after ``layer``
    (from 0; the last one's went through the final norm), "shift" what that layer's time mixing keeps of the last token
    for the next one, its LayerNorm'ed input."""

    layer: int
    pooling: Literal["mean", "shift"] = "mean"


class GenerationRequest(msgspec.Struct, kw_only=True):
    """A group of rows, admitted and cancelled as one. Rows of the same prompt share it, and the reading of it.

    ``fingerprint`` is that of the model whose tokenizer made the ids. ``EngineClient.submit`` chooses the ``id``.
    An empty prompt is fed as token 0, the document start, so that there is something to predict from.

    ``initial_state``: the name of a state to begin from (see ``InitialStates``); None: the default one.
    ``prompt_logprobs``: score the prompts, with so many alternatives for each token (0 to 256). ``state``: begin from
    this state instead of a fresh one. An empty prompt then goes on with the answer that the state was kept of: it needs
    the snapshot's ``logits``. ``keep``: what is wanted beside tokens, "prompt" (the state after exactly the prompt),
    "end" (the state when a row ends) and "reply" (its tokens without the stop). See ``RowExtras``. Scores and the state
    after the prompt need the prompt to be read, with ``max_tokens`` 0 too: such a row ends with "length" and no token.

    ``cache``: whether states of these tokens may be taken from the prefix cache, and kept in it. ``state_key`` names
    the content of ``state`` there; without one a request with a ``state`` is not cached. ``session``: a name under
    which the last state of the row is kept, on disk at once, until another takes its place or ``Forget`` comes.
    ``marks``: for each prompt, after how many of its tokens a later one is likely to go another way; 0: nowhere.

    ``kind``: "score" and "embed" read prompts, one row for each, and sample nothing; a row ends with "length". "score"
    gives the ``prompt_logprobs`` of each prompt's tokens from the index ``score_from`` (at least 1) on. What comes
    before them is read once for all prompts that begin alike, and may come from the cache. "embed" makes of each prompt
    the vector that ``embed`` says.

    ``draft``: tokens that the answers will probably consist of. Where they do they come sooner; what comes is the same.
    """

    fingerprint: str
    prompts: list[list[int]]
    rows: list[Row]
    sampling: SamplingParams
    id: int = 0
    kind: Literal["generate", "score", "embed"] = "generate"
    score_from: list[int] = []
    embed: Embed | None = None
    prompt_logprobs: int | None = None
    state: StateSnapshot | None = None
    initial_state: str | None = None
    keep: tuple[Literal["prompt", "end", "reply"], ...] = ()
    cache: bool = True
    state_key: str = ""
    session: str | None = None
    marks: list[int] = []
    draft: list[int] = []


class TokenLogprob(msgspec.Struct, array_like=True, gc=False):
    """A token, its log-softmax over the raw logits, and the most likely tokens with theirs, best first.

    A sampled token's ``logprob`` is finite. A prompt's token may be impossible: -inf. ``rank``, of a prompt's token
    only: how many tokens are at least as likely, itself included.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]
    rank: int = 0


class RowExtras(msgspec.Struct, array_like=True, gc=False):
    """What a request asked for beside tokens, on the outputs of its rows.

    ``prompt_logprobs`` and ``prompt_state`` come with the first output of the first row of each prompt. The former has
    one entry for each token of the prompt; the first is None, since nothing was read that could predict it (nor, of a
    prompt that begins from a given state, is it known what was predicted there). An empty prompt has no entries.
    Of a request to score they are those from ``score_from`` on, none of them None.
    ``prompt_state`` is the state after exactly the prompt. ``embedding``: float32, little-endian.

    ``state`` comes with a row's last output: the state after the prompt and the answer as it is shown, without what
    matched a stop. It has all that going on needs, see ``Continuation``. That of a cancelled row is the one it had by
    then; its ``position`` tells how many tokens that saw. None where there is none: the row failed, or was cancelled
    before its prompt was read.

    ``reply``, with the last output too, of a cancelled row as well: the tokens of the answer without what matched a
    stop. Where a stop began within a token, the rest of that token as the tokenizer writes it.
    """

    prompt_logprobs: list[TokenLogprob | None] | None = None
    prompt_state: StateSnapshot | None = None
    state: StateSnapshot | None = None
    reply: list[int] | None = None
    embedding: bytes | None = None


class RowOutput(msgspec.Struct, array_like=True, gc=False):
    """What one step brought to one row, or several steps merged.

    ``token_ids`` (and ``logprobs``, when asked for) hold every sampled token, the one that ended the row included.
    ``text`` is what may be shown by now: it lags behind while a character or a possible stop string is incomplete, and
    never holds the stop. A row's last output has a ``finish_reason``: "stop" (an end-of-text or stop id, a stop
    string), "length" (max_tokens), "error" or "cancelled". ``stop_reason`` is the stop string or id that matched, None
    for the end of text. The counts are valid on the last output; ``cached_tokens`` of the prompt were not read, because
    a state was there that had seen them.
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
    extras: RowExtras | None = None
    cached_tokens: int = 0


class Stats(msgspec.Struct, array_like=True, gc=False):
    """The engine's load after a step, in rows, and what it has done since it started.

    ``bytes_moved`` over ``step_seconds`` beside ``read_bandwidth`` is the share of the machine's limit that was used.
    """

    waiting: int = 0
    running: int = 0
    slots_in_use: int = 0
    slots: int = 0
    steps: int = 0
    prompt_tokens: int = 0  # fed
    generated_tokens: int = 0  # sampled
    step_seconds: float = 0.0  # spent in steps
    bytes_moved: int = 0  # in each step, the weights once and the states of its sequences read and written
    step_times: list[int] = []  # steps by duration: one count for each of STEP_BUCKETS, then those that took longer
    read_bandwidth: float = 0.0  # bytes a second, measured when the model was loaded; 0: not known
    cached_tokens: int = 0  # of prompts, which were not fed because a cached state had seen them
    cached_states: int = 0  # in memory
    cached_bytes: int = 0
    disk_states: int = 0
    disk_bytes: int = 0
    drafted_tokens: int = 0  # guesses that were checked, see ``Speculation``
    accepted_tokens: int = 0  # those of them that came true


class Submit(msgspec.Struct, tag=True):
    request: GenerationRequest


class Cancel(msgspec.Struct, tag=True):
    ids: list[int]


class Forget(msgspec.Struct, tag=True):
    """Drop the states of these sessions, in memory and on disk."""

    sessions: list[str]


class Stop(msgspec.Struct, tag=True):
    """End the engine's process, once what waits for the disk is written."""


class LoadState(msgspec.Struct, tag=True):
    """Read a file of a tuned initial state and offer it under ``name``; ``StateLoaded`` answers ``id``.

    A ``path`` of None drops the state of that name. ``default``: make it the one for requests that name none.
    """

    id: int
    name: str
    path: str | None
    default: bool = False


class StateLoaded(msgspec.Struct, tag=True):
    """What came of ``LoadState``; ``states`` and ``default`` are what there is now."""

    id: int
    states: list[str]
    default: str
    error: str | None = None


class Compile(msgspec.Struct, tag=True):
    """See whether a constraint can be used, and have it at hand for a request; ``Compiled`` answers ``id``."""

    id: int
    constraint: Constraint


class Compiled(msgspec.Struct, tag=True):
    """What came of ``Compile``. ``error`` says what is wrong with the constraint, with the line where there is one.

    ``away``: the constraint may be good, but what compiles it has failed. ``begins_white``: a text of that form may
    begin with white space.
    """

    id: int
    error: str | None = None
    away: bool = False
    begins_white: bool = False


class Loading(msgspec.Struct, tag=True):
    """Bytes of the checkpoint read, of all."""

    done: int
    total: int


class Ready(msgspec.Struct, tag=True):
    """The model is loaded. ``info`` holds the fields of ``ModelInfo``, ``stats`` how many slots there are.

    ``states`` are the names of its initial states, ``default_state`` is the one for requests that name none.
    """

    info: dict[str, Any]
    stats: Stats
    states: list[str] = []
    default_state: str = "none"


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


Command = Submit | Cancel | Forget | LoadState | Compile | Stop
Event = Loading | Ready | Failed | LogLine | StepOutput | StateLoaded | Compiled


def with_seed(sampling: SamplingParams) -> SamplingParams:
    """The same parameters with a seed drawn where there was none."""
    if sampling.seed is not None:
        return sampling
    return msgspec.structs.replace(sampling, seed=secrets.randbits(62))
