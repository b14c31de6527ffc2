"""The engine: requests in, one ``StepOutput`` a step out. ``Engine.step`` is the architecture of the server."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from wingbeat.engine.messages import (
    EngineConfig,
    FinishReason,
    GenerationRequest,
    RowOutput,
    Stats,
    StepOutput,
    with_seed,
)
from wingbeat.engine.scheduler import Scheduler, StepPlan
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.state_pool import StatePool, default_slots
from wingbeat.models import Model
from wingbeat.ops.cpu import default_threads
from wingbeat.ops.table import FloatArray
from wingbeat.sampling.samplers import Sampler
from wingbeat.text.world import END_OF_TEXT, WorldTokenizer

log = logging.getLogger(__name__)

NOT_FINITE = "the model's logits are not finite numbers: its weights or this prompt overflow the arithmetic"


class Engine:
    """Runs the requests of one model, all together, a step at a time. Not thread-safe; it starts no thread of its own.

    Without a tokenizer the outputs carry token ids and no text.
    """

    def __init__(self, model: Model, tokenizer: WorldTokenizer | None, config: EngineConfig) -> None:
        executable = model.executable
        self.model = model
        self.tokenizer = tokenizer
        self._default_max_tokens = config.default_max_tokens
        slots = default_slots(executable.layout) if config.max_batch is None else config.max_batch
        self._pool = StatePool(executable.layout, slots)
        self._scheduler = Scheduler(self._pool, config.token_budget)
        self._sampler = Sampler(
            slots,
            executable.vocab_size,
            valid_vocab=min(tokenizer.vocab_size, executable.vocab_size) if tokenizer else None,
            threads=config.threads or default_threads(),
        )
        self._groups: dict[int, dict[int, Sequence]] = {}  # request id -> row -> sequence, unfinished ones only
        self._outputs: list[RowOutput] = []  # of the step under way
        self._steps = self._prompt_tokens = self._generated_tokens = 0

    @property
    def slots(self) -> int:
        return self._pool.slots

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has anything to run or to report."""
        return bool(self._groups or self._outputs)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. What is wrong with it is reported by the next step, as an error of each of its rows."""
        try:
            self._check(request)
        except ValueError as error:
            rows = range(max(1, len(request.rows)))
            self._outputs += [RowOutput(request.id, row, finish_reason="error", error=str(error)) for row in rows]
            return
        group = self._sequences(request)
        if request.sampling.max_tokens == 0:
            self._outputs += [sequence.end("length") for sequence in group]
            return
        self._groups[request.id] = {sequence.row: sequence for sequence in group}
        self._scheduler.add(group)

    def cancel(self, request_id: int) -> None:
        """End all rows of a request; their slots are free at once. Unknown and finished requests are ignored."""
        self._end(list(self._groups.get(request_id, {}).values()), "cancelled")

    def step(self) -> StepOutput:
        """One beat: admit, pack, run, sample, check stops, report."""
        for sequence in self._scheduler.admit():
            sampling = sequence.sampling
            self._sampler.start(sequence.slot, sampling, sequence.prompt, sampling.seed or 0, sequence.choice)
        plan = self._scheduler.plan()
        if plan is not None:
            try:
                logits = self.model.executable.run(plan.batch, self._pool.states)
                self._advance(plan)
                self._sample(*self._fork(plan.sampled, logits))
            except BaseException as error:  # a step that ends half-way leaves its states unusable; others are whole
                self._fail(plan, error)
                if not isinstance(error, Exception):  # Ctrl-C in a notebook: the caller's, once the engine is in order
                    raise
                log.exception("a step failed; its requests end, the engine goes on")
        outputs, self._outputs = self._outputs, []
        return StepOutput(outputs, self.stats())

    def stats(self) -> Stats:
        return Stats(
            waiting=self._scheduler.waiting,
            running=self._scheduler.running,
            slots_in_use=self._pool.in_use,
            slots=self._pool.slots,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
        )

    def _check(self, request: GenerationRequest) -> None:
        """Raises ValueError naming what is wrong."""
        vocab_size = self.model.executable.vocab_size
        if request.id in self._groups:
            raise ValueError(f"request id {request.id} is in use")
        if request.fingerprint != self.model.info.fingerprint:
            raise ValueError("the request was tokenized for another model; tokenize it again for the one loaded now")
        if not request.rows:
            raise ValueError("the request has no rows")
        request.sampling.validate(vocab_size)
        if request.sampling.stop and self.tokenizer is None:
            raise ValueError("stop strings need a tokenizer, and this model has none: use stop_token_ids")
        for ids in request.prompts:
            if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
                bad = next(token for token in ids if not 0 <= token < vocab_size)
                raise ValueError(f"token id {bad} is outside the model's vocabulary of {vocab_size}")
        for row in request.rows:
            if not 0 <= row.prompt < len(request.prompts):
                raise ValueError(f"prompt {row.prompt} is not one of the request's {len(request.prompts)}")
            if not 0 <= row.choice < 2**32:
                raise ValueError(f"choice must be from 0 to 2^32 - 1, not {row.choice}")

    def _sequences(self, request: GenerationRequest) -> list[Sequence]:
        """The request's rows; those of one prompt share one array, which makes them twins for the scheduler."""
        sampling = with_seed(request.sampling)
        prompts = [np.array(ids or (END_OF_TEXT,), np.int32) for ids in request.prompts]
        return [
            Sequence(
                request.id, index, row.choice, prompts[row.prompt], sampling, self.tokenizer, self._default_max_tokens
            )
            for index, row in enumerate(request.rows)
        ]

    def _advance(self, plan: StepPlan) -> None:
        self._steps += 1
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            if not sequence.decoding:
                self._prompt_tokens += count
            sequence.fed += count

    def _fork(self, sampled: list[Sequence], logits: FloatArray) -> tuple[list[Sequence], FloatArray]:
        """Give the states and logits of prompts that are read to the end to the sequences that follow them."""
        rows, sequences = list(range(len(sampled))), list(sampled)
        for row, leader in enumerate(sampled):
            for follower in () if leader.generated else self._scheduler.followers(leader):
                self._pool.copy(leader.slot, follower.slot)
                follower.fed = leader.fed
                rows.append(row)
                sequences.append(follower)
        return sequences, logits[rows] if len(rows) > len(sampled) else logits

    def _sample(self, sequences: list[Sequence], logits: FloatArray) -> None:
        """Draw a token for each sequence and report it; a row that cannot be sampled fails alone."""
        if not sequences:
            return
        slots = np.array([s.slot for s in sequences], np.int32)
        positions = np.array([s.fed for s in sequences], np.int64)
        result = self._sampler.sample(logits, slots, positions)
        tokens, logprobs = result.tokens.tolist(), result.logprobs.tolist()
        for sequence, token, logprob, top in zip(sequences, tokens, logprobs, result.top, strict=True):
            if token < 0:
                self._end([sequence], "error", NOT_FINITE)
                continue
            self._generated_tokens += 1
            output = sequence.accept(token, logprob, top)
            self._outputs.append(output)
            if output.finish_reason is not None:
                self._release(sequence)

    def _fail(self, plan: StepPlan, error: BaseException) -> None:
        broken = self._scheduler.touched(plan)
        self._end(broken, "error", f"the step failed: {type(error).__name__}: {error}")

    def _end(self, sequences: Iterable[Sequence], reason: FinishReason, error: str | None = None) -> None:
        for sequence in sequences:
            self._outputs.append(sequence.end(reason, error))
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Free everything that a sequence holds, wherever it stands."""
        if sequence.slot >= 0:
            self._sampler.finish(sequence.slot)
        self._scheduler.remove(sequence)
        group = self._groups[sequence.request]
        del group[sequence.row]
        if not group:
            del self._groups[sequence.request]
