"""The engine: requests in, one ``StepOutput`` a step out. ``Engine.step`` is the architecture of the server."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import numpy as np

from wingbeat.engine.arrivals import Arrivals
from wingbeat.engine.beginnings import Beginnings
from wingbeat.engine.draws import Draws, draws_of, row_masks
from wingbeat.engine.extras import Extras, without_end
from wingbeat.engine.guard import Guards
from wingbeat.engine.guarded import Guarded
from wingbeat.engine.initial_states import InitialStates
from wingbeat.engine.intake import Intake
from wingbeat.engine.merging import merge
from wingbeat.engine.messages import (
    Compile,
    Compiled,
    EngineConfig,
    GenerationRequest,
    RowOutput,
    Stats,
    StepOutput,
)
from wingbeat.engine.meter import Meter
from wingbeat.engine.origin import NOTHING
from wingbeat.engine.prefix_cache import prefix_cache
from wingbeat.engine.recovery import Recovery
from wingbeat.engine.scheduler import Scheduler, StepPlan
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.speculation import MOST_ROWS, Speculation
from wingbeat.engine.state_pool import StatePool, default_slots
from wingbeat.engine.step_costs import StepCosts
from wingbeat.models import Model
from wingbeat.ops.cpu import CpuExecutable
from wingbeat.ops.reference import ReferenceExecutable
from wingbeat.ops.row_costs import row_costs
from wingbeat.ops.table import Executable, FloatArray
from wingbeat.sampling.samplers import Sampler
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.world import END_OF_TEXT

log = logging.getLogger(__name__)

CLOSING_SECONDS = 1.5
"""How long the end of an engine may wait for the disk."""

NOT_FINITE = "the model's logits are not finite numbers: its weights or this prompt overflow the arithmetic"


class Engine:
    """Runs the requests of one model, all together, a step at a time. Not thread-safe; it starts no thread of its own.

    Raises ValueError for a state of ``config`` that cannot be used.

    Without a tokenizer the outputs carry token ids and no text. ``read_bandwidth`` (bytes a second, 0: not known) goes
    into ``Stats`` as it is.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer | None, config: EngineConfig, read_bandwidth: float = 0.0
    ) -> None:
        executable = model.executable
        self.model = model
        self.tokenizer = tokenizer
        self.initial_states = InitialStates(model, config.states, config.default_state)
        self._intake = Intake(model, tokenizer, config, self.initial_states)
        slots = default_slots(executable.layout) if config.max_batch is None else config.max_batch
        self._pool = StatePool(executable.layout, slots)
        self._cache = prefix_cache(model, config)
        self._beginnings = Beginnings(self._pool, self._cache)
        exact = not isinstance(executable, ReferenceExecutable)  # whose rows depend on others in the last bits
        costs = StepCosts(_row_costs(executable), 2 * executable.layout.slot_bytes / max(1, executable.weight_bytes))
        self._speculation = Speculation(self._pool, config.speculative_tokens if exact else 0, costs)
        self._scheduler = Scheduler(self._pool, config.token_budget, self._beginnings, self._speculation)
        self._arrivals = Arrivals(self._cache, self._scheduler)
        self._end_of_text = END_OF_TEXT if tokenizer is None else tokenizer.end_of_text
        self._sampler = Sampler(
            slots,
            executable.vocab_size,
            valid_vocab=min(tokenizer.vocab_size, executable.vocab_size) if tokenizer else None,
            pool=executable.pool if isinstance(executable, CpuExecutable) else None,
            end_of_text=self._end_of_text,
        )
        self._guarded = Guarded(Guards(tokenizer, executable.vocab_size))
        self._extras = Extras(self._pool, model.info.fingerprint)
        self._recovery = Recovery(self._scheduler, self._pool, self._sampler)
        self._groups: dict[int, dict[int, Sequence]] = {}  # request id -> row -> sequence, unfinished ones only
        self._outputs: list[RowOutput] = []  # of the step under way
        self._meter = Meter(executable.weight_bytes, executable.layout.slot_bytes, costs)
        self._read_bandwidth = read_bandwidth
        self._prompt_tokens = self._generated_tokens = self._cached_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has anything to run or to report."""
        return bool(self._groups or self._outputs)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. What is wrong with it is reported by the next step, as an error of each of its rows."""
        sequences: list[Sequence] = []
        try:
            if request.id in self._groups:
                raise ValueError(f"request id {request.id} is in use")
            sequences = self._intake.sequences(request)
            self._guarded.watch(sequences)
        except Exception as error:
            for sequence in sequences:
                self._guarded.leave(sequence)
            if not isinstance(error, ValueError):  # a defect of ours, or no memory: the others go on all the same
                log.exception("a request could not be taken")
            text = str(error) or type(error).__name__
            rows = range(max(1, len(request.rows)))
            self._outputs += [RowOutput(request.id, row, finish_reason="error", error=text) for row in rows]
            return
        group = {sequence.row: sequence for sequence in sequences if sequence.needs_reading}
        self._outputs += [sequence.end("length") for sequence in sequences if not sequence.needs_reading]
        if group:
            self._groups[request.id] = group
            self._arrivals.add(group.values())

    def cancel(self, request_id: int) -> None:
        """End all rows of a request; their slots are free at once. Unknown and finished requests are ignored."""
        for sequence in list(self._groups.get(request_id, {}).values()):
            output = sequence.end("cancelled")
            whole = sequence.slot >= 0 and sequence.whole and sequence.ending is None
            try:
                if whole:
                    self._beginnings.keep_last(sequence)
                else:
                    sequence.scores = None  # there are not all of them
                self._extras.attach(output, sequence, None, state=whole)
            except Exception as error:  # no memory for a copy of its state
                log.exception("the state of a cancelled sequence could not be kept")
                self._fail([sequence], error)
                continue
            self._outputs.append(output)
            self._release(sequence)

    def forget(self, sessions: Iterable[str]) -> None:
        """Drop the states that are kept for these sessions, in memory and on disk."""
        self._cache.forget(sessions)

    def rest(self) -> bool:
        """Do a little of what waits until there is nothing to run; whether there is more of it."""
        self._cache.tidy()
        self._guarded.poll()
        return self._cache.rest() or self._guarded.checking

    def prepare(self) -> None:
        """Make now what the first constraint would make the other rows wait for."""
        self._guarded.prepare()

    def compile(self, command: Compile) -> None:
        """Have a constraint compiled; ``take_compiled`` has the answer once ``rest`` or ``step`` has come by it."""
        self._guarded.compile(command)

    def take_compiled(self) -> list[Compiled]:
        """Answers to ``compile`` since the last call."""
        return self._guarded.take_compiled()

    def close(self) -> None:
        """End the grammar processes; write the cached states that wait for the disk, for a moment at most."""
        self._guarded.shut()
        self._cache.close(CLOSING_SECONDS)

    def step(self) -> StepOutput:
        """One beat: admit, pack, run, sample, check stops and guesses, report."""
        start = time.perf_counter()
        self._arrivals.hand_on()
        self._heed()
        self._admit()
        plan = self._scheduler.plan()
        if plan is not None:
            try:
                self._speculation.keep(plan.drafts, plan.sequences)
                self._advance(plan)
                logits = self.model.executable.run(plan.batch, self._pool.states)
                if plan.reads:
                    self._prompt_tokens += plan.prompt_rows
                    self._score(plan, logits)
                    self._take_hidden(plan)
                    self._keep(plan, logits)
                    self._end_read(plan)
                self._sample(*self._fork(plan, logits))
                if plan.drafts:
                    self._sample_drafts(logits)
                self._scheduler.quarantine.clear(plan.sequences)
            except Exception as error:  # a step that ends half-way leaves its states unusable
                failing = self._recovery.recover(plan)
                log.exception("a step failed: %d of its sequences end, the others are run again alone", len(failing))
                self._fail(failing, error)
            except BaseException as error:  # Ctrl-C in a notebook: the caller's, once the engine is in order
                self._fail(self._scheduler.touched(plan), error)
                raise
            seconds, rows = time.perf_counter() - start, len(plan.batch.tokens)
            self._meter.count(seconds, rows, len(plan.sequences), len(plan.drafts))
        elif self._guarded and not self._outputs:
            self._guarded.wait()
        self._cache.tidy()
        self._cache.rest(busy=True)
        outputs, self._outputs = self._outputs, []
        return StepOutput(outputs, self.stats())

    def stats(self) -> Stats:
        return Stats(
            waiting=self._scheduler.waiting + self._arrivals.waiting,
            running=self._scheduler.running,
            slots_in_use=self._pool.in_use,
            slots=self._pool.slots,
            steps=self._meter.steps,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            step_seconds=self._meter.seconds,
            bytes_moved=self._meter.bytes_moved,
            step_times=self._meter.times.copy(),
            read_bandwidth=self._read_bandwidth,
            cached_tokens=self._cached_tokens,
            cached_states=self._cache.states,
            cached_bytes=self._cache.bytes,
            disk_states=self._cache.disk_states,
            disk_bytes=self._cache.disk_bytes,
            drafted_tokens=self._speculation.drafted,
            accepted_tokens=self._speculation.accepted,
        )

    def _admit(self) -> None:
        """Give free slots to those that wait. One that cannot begin fails alone, with those that would follow it."""
        for sequence in self._scheduler.admit():
            if sequence.slot < 0:  # it failed with the one that it was to follow
                continue
            try:
                sequence.start_sampling(self._sampler)
            except Exception as error:
                log.exception("a sequence could not begin")
                self._fail([sequence, *self._scheduler.twins(sequence)], error)
        if predicted := self._scheduler.predicted:
            self._skip_reading(predicted)

    def _skip_reading(self, sequences: list[Sequence]) -> None:
        """What is to follow all that these were to read is predicted already: go on without a step."""
        try:
            for sequence in [s for s in sequences if s.ending is not None]:
                assert sequence.predicted is not None
                self._settled(sequence, sequence.predicted)
            first = [s for s in sequences if s.ending is None and (s.guard is None or s.guard.ready)]
            self._sample(draws_of(first), np.array([s.predicted for s in first], np.float32))
        except Exception as error:
            log.exception("%d sequences could not go on from their cached states", len(sequences))
            self._fail(
                self._recovery.read_again(s for s in sequences if s.predicted is not None and s.slot >= 0), error
            )

    def _advance(self, plan: StepPlan) -> None:
        """Count what the states are about to see: after the kernels, which fill the caches, it would take longer."""
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            sequence.fed += count

    def _score(self, plan: StepPlan, logits: FloatArray) -> None:
        """Tell the prompts that are to be scored what was predicted for their tokens."""
        for sequence, first, targets in plan.scored:
            scored = self._sampler.score(
                logits[first : first + len(targets)], targets, sequence.wanted.prompt_logprobs or 0
            )
            if np.isnan(scored.logprobs).any():
                self._end([sequence, *self._scheduler.twins(sequence)], NOT_FINITE)
            else:
                sequence.add_scores(targets.tolist(), scored)

    def _take_hidden(self, plan: StepPlan) -> None:
        """Tell the prompts that are to be embedded what the model made of their tokens."""
        if not plan.hidden:
            return
        hidden = self.model.executable.hidden()
        for sequence, first, end in plan.hidden:
            sequence.add_hidden(hidden[first:end])

    def _end_read(self, plan: StepPlan) -> None:
        """Report the sequences that were only to be read, and are."""
        for sequence in plan.sequences[plan.decoding :]:
            if not sequence.only_read or sequence.slot < 0 or not sequence.decoding:
                continue
            output = sequence.end("length")
            try:
                self._extras.attach_reading(output, sequence)
            except FloatingPointError:
                self._end([sequence], NOT_FINITE)
                continue
            self._outputs.append(output)
            self._release(sequence)

    def _keep(self, plan: StepPlan, logits: FloatArray) -> None:
        """Keep states of prompts that are being read, and give them to those that wait to go on from there."""
        last = dict(zip(plan.draws.sequences, plan.drawn_rows, strict=True))
        for sequence in plan.sequences[plan.decoding :]:
            if sequence.slot < 0 or sequence.ending is not None:  # its prompt could not be scored, or it is read again
                continue
            self._beginnings.keep(sequence, logits[last[sequence]] if sequence in last else None)
            for follower in self._scheduler.followers(sequence):
                if follower.follow_to == sequence.fed < len(follower.prompt):
                    self._beginnings.follow(follower, sequence)

    def _fork(self, plan: StepPlan, logits: FloatArray) -> tuple[Draws, FloatArray]:
        """Give the states and logits of prompts that are read to the end to the sequences that have the same.

        Returns the draws, and the logits for each.
        """
        if not plan.reads:
            every = len(plan.drawn_rows) == len(logits)
            return plan.draws, logits if every else rows_of(logits, plan.drawn_rows)
        rows, sequences = [], []
        for row, leader in zip(plan.drawn_rows, plan.draws.sequences, strict=True):
            if leader.slot < 0:  # its prompt could not be scored
                continue
            if leader.ending is not None:
                self._settled(leader, logits[row])
                continue
            rows.append(row)
            sequences.append(leader)
            for follower in () if leader.sampled else self._scheduler.followers(leader):
                if follower.follow_to == leader.fed:
                    self._beginnings.follow(follower, leader)
                    rows.append(row)
                    sequences.append(follower)
        return draws_of(sequences), rows_of(logits, rows)

    def _sample_drafts(self, logits: FloatArray) -> None:
        """Draw on where the tokens drawn so far were those that had been fed as guesses, one more for each row."""
        sequences, rows = self._speculation.agreed()
        while sequences:
            self._sample(draws_of(sequences), rows_of(logits, rows))
            sequences, rows = self._speculation.agreed()
        self._outputs = merge(self._outputs)

    def _heed(self) -> None:
        """End the guarded sequences that have nothing more to say, or whose grammar has failed."""
        if not (self._guarded or self._guarded.checking):
            return
        failed, over = self._guarded.heed()
        self._end_guarded(failed)
        for sequence in over:
            if not sequence.wanted.state:  # else it ends after a step that its state sees the last token in
                self._conclude(sequence, None)

    def _due(self, draws: Draws, logits: FloatArray) -> tuple[Draws, FloatArray]:
        """The draws that can be made now, and their logits.

        One that is over ends. One whose mask is not there keeps its logits until it is; the others do not wait for it.
        """
        sequences = draws.sequences
        found = self._guarded.sort(sequences)
        self._end_guarded([sequences[row] for row in found.failed])
        for row in found.over:
            self._conclude(sequences[row], logits[row])
        for row in found.late:
            sequences[row].predicted, sequences[row].leader = logits[row].copy(), None
        if len(found.due) < len(sequences):
            draws, logits = draws_of([sequences[row] for row in found.due]), logits[found.due]
        return draws, logits

    def _end_guarded(self, failed: Iterable[Sequence]) -> None:
        for sequence in failed:
            assert sequence.guard is not None
            self._end([sequence], f"the constraint: {sequence.guard.error}")

    def _conclude(self, sequence: Sequence, logits: FloatArray | None) -> None:
        """Report the end of a sequence that is over. ``logits`` [V]: after its last token, if they are known."""
        output = sequence.conclude()
        if sequence.wanted is not NOTHING:
            self._extras.attach(output, sequence, logits)
        self._outputs.append(output)
        self._beginnings.keep_last(sequence)
        self._release(sequence)

    def _sample(self, draws: Draws, logits: FloatArray) -> None:
        """Draw a token for each sequence and report it; a row that cannot be sampled fails alone."""
        if self._guarded:
            draws, logits = self._due(draws, logits)
        sequences = draws.sequences
        if not sequences:
            return
        self._sampler.prepare(len(sequences))
        masks = row_masks(draws, self.model.executable.vocab_size, self._end_of_text)
        result = self._sampler.sample(logits, draws.slots, draws.positions, masks)
        tokens = result.tokens.tolist()
        checking = self._speculation.checking
        for row in self._guarded.first(sequences):
            sequence, token = sequences[row], tokens[row]
            if token < 0:
                self._end([sequence], _why_none(sequence, logits[row]))
                continue
            try:
                output = sequence.accept(token, result.details[row])
                if sequence.relieved:
                    sequence.start_sampling(self._sampler)
                ended = output.finish_reason is not None
                undone = checking and self._speculation.undone(sequence, token, ended=ended)
                if ended and not (sequence.settled and not (undone and sequence.wanted.state)):
                    output = self._settle(sequence, output)
                if sequence.wanted is not NOTHING:
                    self._extras.attach(output, sequence, logits[row])
            except Exception as error:  # half an answer cannot go on; nobody else's is touched
                log.exception("a token could not be reported; its sequence ends")
                self._fail([sequence], error)
                continue
            self._generated_tokens += len(output.token_ids)
            self._outputs.append(output)
            if output.finish_reason is not None:
                self._beginnings.keep_last(sequence)
                self._release(sequence)

    def _settle(self, sequence: Sequence, output: RowOutput) -> RowOutput:
        """Have the state, which is wanted, see just what is shown. Returns the output without its end until then."""
        news, end = without_end(output)
        if sequence.settle(end):
            self._beginnings.settle(sequence)
        return news

    def _settled(self, sequence: Sequence, logits: FloatArray) -> None:
        """Report the end of a sequence whose state has seen just what was shown."""
        assert sequence.ending is not None
        self._extras.attach(sequence.ending, sequence, logits)
        self._outputs.append(sequence.ending)
        self._beginnings.keep_last(sequence)
        self._release(sequence)

    def _fail(self, sequences: Iterable[Sequence], error: BaseException) -> None:
        self._end(sequences, f"the step failed: {type(error).__name__}: {error}")

    def _end(self, sequences: Iterable[Sequence], error: str) -> None:
        for sequence in sequences:
            self._outputs.append(sequence.end("error", error))
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Free everything that a sequence holds, wherever it stands."""
        self._guarded.leave(sequence)
        self._speculation.leave(sequence)
        if sequence.slot >= 0:
            self._sampler.finish(sequence.slot)
        self._cached_tokens += sequence.cached
        if not self._arrivals.remove(sequence):
            self._scheduler.remove(sequence)
        group = self._groups[sequence.request]
        del group[sequence.row]
        if not group:
            del self._groups[sequence.request]


def _why_none(sequence: Sequence, logits: FloatArray) -> str:
    """Why no token could be drawn from ``logits`` [V]."""
    if sequence.guard is None or not np.isfinite(logits).any() or np.isnan(logits).any():
        return NOT_FINITE
    return "no token may follow: what the constraint allows, bad_words, logit_bias or other parameters forbid"


def rows_of(logits: FloatArray, rows: list[int]) -> FloatArray:
    """These rows, without a copy where they follow each other."""
    first = rows[0] if rows else 0
    side_by_side = rows == list(range(first, first + len(rows)))
    return logits[first : first + len(rows)] if side_by_side else logits[rows]


def _row_costs(executable: Executable) -> list[float]:
    """What steps cost by their rows, as far as guesses go."""
    if isinstance(executable, CpuExecutable):
        return row_costs(executable.matrix_formats, executable.level, MOST_ROWS)
    return row_costs((), "", MOST_ROWS)
