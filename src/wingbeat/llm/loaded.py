"""A model in this process with its tokenizer and its engine, and what every use of it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wingbeat.engine.engine import Engine
from wingbeat.engine.intake import origin_of
from wingbeat.engine.messages import EngineConfig
from wingbeat.engine.shared import SharedEngine
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.models import Model, ModelInfo
from wingbeat.ops.table import FloatArray, StepBatch
from wingbeat.text.choose import advice, kind_of
from wingbeat.text.profile import ModelProfile, choose_profile
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.world import END_OF_TEXT

TokenIds = Sequence[int] | NDArray[np.integer]
Prompt = str | TokenIds


class LoadedModel:
    """What the parts of ``LLM`` share. May be used from several threads: their requests share the engine's steps."""

    def _start(self, model: Model, tokenizer: Tokenizer | None, config: EngineConfig) -> None:
        self._tokenizer = tokenizer
        kind = kind_of(model.info.vocab_size) if tokenizer is None else tokenizer.kind
        self._profile = choose_profile(model.info.path, model.info.metadata, config.profile, kind)
        self._shared = SharedEngine(Engine(model, tokenizer, config))
        self._chunk = config.token_budget
        self._scratch: FloatArray | None = None  # a pool of one state, for logits()

    @property
    def info(self) -> ModelInfo:
        return self._loaded().info

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ValueError when no tokenizer fits the model: it takes token ids only."""
        if self._tokenizer is None:
            raise ValueError(f"this model has no tokenizer: {advice(self.info.vocab_size)}")
        return self._tokenizer

    @property
    def profile(self) -> ModelProfile:
        """The model's chat format, its stops and its sampling defaults."""
        return self._profile

    def check_state(self, state: StateSnapshot) -> None:
        """Raises ValueError, saying why, for a state that is not of this model."""
        origin_of(state, self._loaded())

    def _check_initial(self, name: str | None) -> None:
        """Raises ValueError for the name of no initial state."""
        self._shared.engine.initial_states.origin(name)

    @property
    def _start_token(self) -> int:
        return END_OF_TEXT if self._tokenizer is None else self._tokenizer.start

    def logits(self, tokens: TokenIds, chunk: int | None = None) -> FloatArray:
        """What the model predicts after each of ``tokens``, from a fresh state: float32 [T, V], the caller's own.

        The tokens are fed ``chunk`` at a time (None: a step's worth); with the native kernels the result is the same
        to the last bit. Raises ValueError for an id out of range or a chunk below 1.
        """
        ids = self._token_ids(tokens)
        size = self._chunk if chunk is None else chunk
        if size < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        with self._shared.lock:
            executable = self._loaded().executable
            if self._scratch is None:
                self._scratch = executable.layout.allocate(1)
            executable.layout.reset(self._scratch, 0)
            out = np.empty((len(ids), executable.vocab_size), np.float32)
            for start in range(0, len(ids), size):
                piece = np.array(ids[start : start + size], np.int32)
                rows = len(piece)
                slots, bounds = np.zeros(1, np.int32), np.array([0, rows], np.int32)
                batch = StepBatch(piece, slots, bounds, np.arange(rows, dtype=np.int32))
                out[start : start + rows] = executable.run(batch, self._scratch)
            return out

    def close(self) -> None:
        """Free the model's memory; again does nothing. Running streams and further calls raise ValueError."""
        self._shared.close()
        self._scratch = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _loaded(self) -> Model:
        return self._shared.engine.model

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode_segments([prompt]) if isinstance(prompt, str) else self._token_ids(prompt)

    def _token_ids(self, tokens: TokenIds) -> list[int]:
        vocab_size = self.info.vocab_size
        ids = list(tokens) if isinstance(tokens, Iterable) else []
        if not isinstance(tokens, Iterable) or not all(isinstance(token, int | np.integer) for token in ids):
            raise ValueError(f"a prompt is a text or a list of token ids (whole numbers), not {tokens!r:.100}")
        for token in ids:
            if not 0 <= token < vocab_size:
                raise ValueError(f"token id {token} is outside the model's vocabulary of {vocab_size}")
        return [int(token) for token in ids]


def many_of(prompts: Prompt | Iterable[Prompt]) -> tuple[list[Any], bool]:
    """The prompts as a list, and whether it was a single one: a text, ids in an array, or what begins with an id."""
    if isinstance(prompts, str) or (isinstance(prompts, np.ndarray) and prompts.ndim == 1):
        return [prompts], True
    if not isinstance(prompts, Iterable):
        raise ValueError(f"prompts are texts or lists of token ids, not {prompts!r:.100}")
    many = list(prompts)
    return ([many], True) if many and isinstance(many[0], int | np.integer) else (many, False)
