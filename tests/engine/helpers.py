"""Drives an engine in a test, and a stand-in for a model that says what the test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from wingbeat.engine.engine import Engine
from wingbeat.engine.merging import merge
from wingbeat.engine.messages import EngineConfig, GenerationRequest, Row, RowOutput
from wingbeat.models import Model, ModelInfo
from wingbeat.ops.table import Executable, FloatArray, StateLayout, StepBatch, check_batch
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer


class Speller:
    """Predicts a fixed text: after n tokens of a sequence the next is ``ids[n - 1]``. It counts in the state.

    ``bad_token`` makes the logits of a sequence that is fed it NaN; ``crash_token`` makes the whole step raise.
    """

    def __init__(self, ids: Sequence[int], vocab_size: int, *, bad_token: int = -1, crash_token: int = -1) -> None:
        self.layout = StateLayout()
        self.layout.add("count", 1)
        self.vocab_size = vocab_size
        self.weight_bytes = 1000
        self.batches: list[StepBatch] = []
        self._ids, self._bad, self._crash = [*ids, 0], bad_token, crash_token

    def run(self, batch: StepBatch, pool: FloatArray) -> FloatArray:
        check_batch(batch, self.vocab_size, len(pool))
        self.batches.append(batch)
        if self._crash in batch.tokens:
            raise FloatingPointError("boom")
        logits = np.zeros((len(batch.tokens), self.vocab_size), np.float32)
        for slot, start, stop in zip(batch.slots, batch.seq_starts[:-1], batch.seq_starts[1:], strict=True):
            for row in range(start, stop):
                pool[slot, 0] += 1
                logits[row, self._ids[min(int(pool[slot, 0]), len(self._ids)) - 1]] = 50.0
                if batch.tokens[row] == self._bad:
                    logits[row] = np.nan
        return logits[batch.logit_rows]

    def hidden(self) -> FloatArray:
        """Of each token the token itself; of no use where it is bad."""
        batch = self.batches[-1]
        tokens = batch.tokens[batch.hidden_rows, None]
        return np.where(tokens == self._bad, np.nan, tokens).astype(np.float32)


class Faulty:
    """A model whose steps fail where ``fault`` says so, given the number of the step (from 1) and its batch.

    A step that fails leaves the states that it was to advance in ruins.
    """

    def __init__(self, executable: Executable, fault: Callable[[int, StepBatch], bool]) -> None:
        self.layout, self.vocab_size = executable.layout, executable.vocab_size
        self.weight_bytes = executable.weight_bytes
        self.batches: list[StepBatch] = []
        self.failed: list[StepBatch] = []
        self._executable, self._fault = executable, fault

    def run(self, batch: StepBatch, pool: FloatArray) -> FloatArray:
        self.batches.append(batch)
        if self._fault(len(self.batches), batch):
            self.failed.append(batch)
            pool[batch.slots] = np.nan
            raise FloatingPointError("boom")
        return self._executable.run(batch, pool)

    def hidden(self) -> FloatArray:
        return self._executable.hidden()


def stand_in(executable: Executable) -> Model:
    info = ModelInfo("spell", "7", 1, 1, executable.vocab_size, "float32", "test", "spell", 1, "spell.pth", {})
    return Model(executable, info)


def speller_engine(tokenizer: WorldTokenizer | None, ids: Sequence[int], **config: Any) -> Engine:
    return Engine(stand_in(Speller(ids, 300)), tokenizer, EngineConfig(model="", **config))


def request(
    engine: Engine, request_id: int, prompts: Iterable[Sequence[int]], sampling: SamplingParams
) -> GenerationRequest:
    """Rows of equal prompts are choices 0, 1, ... of it."""
    unique: list[list[int]] = []
    rows: list[Row] = []
    for ids in map(list, prompts):
        if ids not in unique:
            unique.append(ids)
        index = unique.index(ids)
        rows.append(Row(index, choice=sum(row.prompt == index for row in rows)))
    fingerprint = engine.model.info.fingerprint
    return GenerationRequest(id=request_id, fingerprint=fingerprint, prompts=unique, rows=rows, sampling=sampling)


def drain(engine: Engine, steps: int = 10_000) -> list[RowOutput]:
    """Everything the engine says until it has no work."""
    outputs: list[RowOutput] = []
    while engine.has_work:
        steps -= 1
        assert steps > 0, "the engine does not come to an end"
        outputs += engine.step().rows
    return outputs


def answers(outputs: Iterable[RowOutput]) -> dict[tuple[int, int], RowOutput]:
    """All outputs of each (request, row) as one; asserts that each row ended exactly once, with its last output.

    Without what they tell of the cache: an answer is the same with it.
    """
    by_row: dict[tuple[int, int], list[RowOutput]] = {}
    for output in outputs:
        by_row.setdefault((output.request, output.row), []).append(output)
    for parts in by_row.values():
        assert [part.finish_reason is not None for part in parts] == [False] * (len(parts) - 1) + [True]
    whole = {key: merge(parts)[0] for key, parts in by_row.items()}
    return {key: msgspec.structs.replace(output, cached_tokens=0) for key, output in whole.items()}


def complete(engine: Engine, prompt: Sequence[int], sampling: SamplingParams) -> RowOutput:
    """The answer to one prompt, alone."""
    engine.submit(request(engine, 1, [prompt], sampling))
    return answers(drain(engine))[1, 0]


def assert_empty(engine: Engine) -> None:
    """Nothing of any request is left."""
    stats = engine.stats()
    assert (stats.waiting, stats.running, stats.slots_in_use) == (0, 0, 0)
    assert not engine._groups
    assert not engine._speculation.behind
    assert not engine._sampler._wants


def sampling(tokens: int, **more: Any) -> SamplingParams:
    return SamplingParams(seed=3, max_tokens=tokens, ignore_eos=True, logprobs=2, **more)


def run(engine: Engine, *requests: GenerationRequest) -> list[RowOutput]:
    """All that the engine says to these, after which nothing of them is left."""
    for wanted in requests:
        engine.submit(wanted)
    outputs = drain(engine)
    assert_empty(engine)
    return outputs
