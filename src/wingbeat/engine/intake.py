"""From a request to its sequences: what may be wrong with it, and which of its rows carry what it asks for."""

from __future__ import annotations

import numpy as np

from wingbeat.engine.global_penalty import with_prompt_counted
from wingbeat.engine.initial_states import InitialStates
from wingbeat.engine.messages import EngineConfig, GenerationRequest, with_seed
from wingbeat.engine.origin import NOTHING, Origin, Wanted
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.models import Model
from wingbeat.ops.table import StateLayout
from wingbeat.sampling.params import MAX_LOGPROBS
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.world import END_OF_TEXT

NOT_SAMPLED = ("score", "embed")
MAX_POSITION = 2**62  # of a state: draws are counted in 64 bits
KEPT = ("prompt", "end", "reply")


class Intake:
    """Takes requests for one model."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer | None, config: EngineConfig, initial_states: InitialStates
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._default_max_tokens = config.default_max_tokens
        self._initial_states = initial_states

    def sequences(self, request: GenerationRequest) -> list[Sequence]:
        """The request's rows. Raises ValueError naming what is wrong with it.

        Rows of one prompt share one array, which makes them twins for the scheduler; the first of them carries what is
        asked of the prompt.
        """
        self._check(request)
        origin = self._origin(request)
        sampling = with_seed(request.sampling)
        start = END_OF_TEXT if self._tokenizer is None else self._tokenizer.start
        first = () if request.state is not None else (start,)
        prompts = [np.array(ids or first, np.int32) for ids in request.prompts]
        seen: set[int] = set()
        sequences = []
        for index, row in enumerate(request.rows):
            wanted = _wanted(request, first=row.prompt not in seen)
            seen.add(row.prompt)
            prompt = prompts[row.prompt]
            sequence = Sequence(
                *(request, index, prompt, with_prompt_counted(sampling, prompt, self._tokenizer)),
                *(self._tokenizer, self._default_max_tokens, origin, wanted),
            )
            if request.kind == "generate" and sequence.scores is not None and not request.prompts[row.prompt]:
                sequence.scores = []  # the document start is not the caller's
            sequences.append(sequence)
        return sequences

    def _origin(self, request: GenerationRequest) -> Origin:
        if request.state is None:
            return self._initial_states.origin(request.initial_state)
        if request.initial_state is not None:
            raise ValueError("a request begins from a state or from an initial state, not from both")
        return origin_of(request.state, self._model)._replace(key=request.state_key or None)

    def _check(self, request: GenerationRequest) -> None:
        vocab_size = self._model.executable.vocab_size
        if request.fingerprint != self._model.info.fingerprint:
            raise ValueError("the request was tokenized for another model; tokenize it again for the one loaded now")
        if not request.rows:
            raise ValueError("the request has no rows")
        request.sampling.validate(vocab_size)
        if request.sampling.stop and self._tokenizer is None:
            raise ValueError("stop strings need a tokenizer, and this model has none: use stop_token_ids")
        if (request.sampling.constraint or request.sampling.bad_words) and self._tokenizer is None:
            raise ValueError("a constraint and bad_words need a tokenizer, and this model has none")
        for ids in request.prompts:
            if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
                bad = next(token for token in ids if not 0 <= token < vocab_size)
                raise ValueError(f"token id {bad} is outside the model's vocabulary of {vocab_size}")
            if not ids and request.state is not None and request.state.logits is None:
                raise ValueError("this state has no logits: going on from it needs a prompt of at least one token")
        for token in request.draft:
            if not 0 <= token < vocab_size:
                raise ValueError(f"token id {token} of the draft is outside the model's vocabulary of {vocab_size}")
        if request.marks and len(request.marks) != len(request.prompts):
            raise ValueError(f"{len(request.marks)} marks for {len(request.prompts)} prompts: give one for each")
        for row in request.rows:
            if not 0 <= row.prompt < len(request.prompts):
                raise ValueError(f"prompt {row.prompt} is not one of the request's {len(request.prompts)}")
            if not 0 <= row.choice < 2**32:
                raise ValueError(f"choice must be from 0 to 2^32 - 1, not {row.choice}")
        if request.prompt_logprobs is not None and not 0 <= request.prompt_logprobs <= MAX_LOGPROBS:
            raise ValueError(f"prompt_logprobs must be from 0 to {MAX_LOGPROBS}, not {request.prompt_logprobs}")
        if request.kind in NOT_SAMPLED:
            self._check_reading(request)
        for kept in request.keep:
            if kept not in KEPT:
                raise ValueError(f"keep must hold {', '.join(map(repr, KEPT))}, not {kept!r}")

    def _check_reading(self, request: GenerationRequest) -> None:
        """What requests of the other kinds may be."""
        if len({row.prompt for row in request.rows}) < len(request.rows):
            raise ValueError(f"a prompt to {request.kind} has one row")
        if request.keep or request.session is not None:
            raise ValueError(f"a request to {request.kind} keeps no states")
        if request.kind == "score":
            if len(request.score_from) != len(request.prompts):
                raise ValueError(f"{len(request.score_from)} score_from for {len(request.prompts)} prompts")
            for ids, first in zip(request.prompts, request.score_from, strict=True):
                if not 1 <= first < len(ids):
                    raise ValueError(
                        f"score_from must be from 1 to {len(ids) - 1}, the prompt's last token, not {first}"
                    )
            return
        layers = self._model.info.layers
        if request.embed is None or not 0 <= request.embed.layer < layers:
            raise ValueError(f"the layer to embed with must be from 0 to {layers - 1}")


def origin_of(state: StateSnapshot, model: Model) -> Origin:
    """Where a sequence of ``model`` begins that goes on from ``state``. Raises ValueError when it does not fit."""
    if state.fingerprint != model.info.fingerprint:
        raise ValueError("the state was made by another model: a state fits only the model that made it")
    if not 0 <= state.position < MAX_POSITION:
        raise ValueError(f"a state's position must be from 0 to 2^62, not {state.position}")
    arrays = state.to_arrays()
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != _shapes(model.executable.layout):
        raise ValueError("the state's fields are not those of this model: it was made by another version of wingbeat")
    logits = None if state.logits is None else state.logits.to_array("logits")
    if logits is not None and logits.shape != (model.executable.vocab_size,):
        raise ValueError(f"the state's logits are {logits.shape}, this model has {model.executable.vocab_size} tokens")
    if state.continuation is not None and not state.continuation.possible(model.executable.vocab_size):
        raise ValueError("what the state says of its answer cannot be: use another copy, or save it again")
    return Origin(state.position, arrays, None, logits, state.continuation)


def _wanted(request: GenerationRequest, *, first: bool) -> Wanted:
    scores = request.prompt_logprobs or 0 if request.kind == "score" else request.prompt_logprobs
    wanted = Wanted(
        prompt_logprobs=scores if first else None,
        prompt_state=first and "prompt" in request.keep,
        state="end" in request.keep,
        reply="reply" in request.keep,
        embed=request.embed if request.kind == "embed" else None,
    )
    return NOTHING if wanted == NOTHING else wanted


def _shapes(layout: StateLayout) -> dict[str, tuple[int, ...]]:
    return {name: field.shape for name, field in layout.fields.items()}
