"""The grammars of an engine's rows: which tokens may follow, as grammar processes find out while steps run."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from wingbeat.engine.frame_pipe import wait
from wingbeat.engine.grammar_messages import (
    TOO_LONG,
    Accept,
    Check,
    Checked,
    Close,
    Event,
    Library,
    Open,
    Verdict,
    Verdicts,
    Vocabulary,
    library_of,
)
from wingbeat.engine.grammar_process import GrammarProcess, Loss
from wingbeat.engine.messages import Compile, Compiled
from wingbeat.sampling.constraint import Constraint

log = logging.getLogger(__name__)

AGAIN = "; ask again"
MOST_DEATHS = 3
"""How often a process may end while it owes an answer for the same row; once where that has had none at all."""
MOST_REFUSED = 32
"""Constraints that take too long to compile are remembered, so that each costs a process once."""
HANGING = 2  # deaths that a process counts as that had to be ended


class Grammar:
    """What is known of one row's text: after its tokens so far, ``bits`` may follow, or it is complete, or failed."""

    __slots__ = ("begun", "bits", "complete", "constraint", "deaths", "error", "library", "number", "tokens")

    def __init__(self, number: int, constraint: Constraint) -> None:
        self.number = number
        self.constraint = constraint
        self.library: Library = library_of(constraint)
        self.tokens: list[int] = []  # which another process is told of, should this one end
        self.begun = False  # whether there was an answer
        self.deaths = 0  # of processes that owed one, since the last
        self.bits: NDArray[np.uint32] | None = None
        self.complete = False
        self.error: str | None = None

    @property
    def known(self) -> bool:
        return self.bits is not None or self.complete or self.error is not None


class Lane:
    """A process, the rows that it knows of, and what it has been asked."""

    def __init__(self, process: GrammarProcess) -> None:
        self.process = process
        self.rows: dict[int, Grammar] = {}
        self.checks: dict[int, Constraint] = {}
        self.asked_again: set[int] = set()  # checks that a process has died over
        self.accepted: list[tuple[int, int]] = []  # not sent yet
        self.waiting: set[int] = set()  # rows whose next mask is not there

    @property
    def owing(self) -> bool:
        return bool(self.waiting or self.checks)

    def expect(self, grammar: Grammar) -> None:
        """The process is about to owe a mask."""
        if not self.owing:
            self.process.expect()
        self.waiting.add(grammar.number)

    def clear(self) -> tuple[list[Grammar], dict[int, Constraint], set[int]]:
        """Forget everything. Returns the rows that go on, those that waited last, the checks, and the waiting rows."""
        going = [grammar for grammar in self.rows.values() if not grammar.complete and grammar.error is None]
        rows = sorted(going, key=lambda grammar: (grammar.number in self.waiting, not grammar.begun))
        lost = rows, self.checks, self.waiting
        self.rows, self.checks, self.waiting, self.accepted = {}, {}, set(), []
        return lost


class Grammars:
    """Asks the processes. ``vocabulary`` is called once, when the first constraint comes."""

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        self._make_vocabulary = vocabulary
        self._vocabulary: Vocabulary | None = None
        self._lanes: dict[Library, Lane] = {}
        self._numbers = itertools.count(1)
        self._compiled: list[Compiled] = []
        self._too_long: deque[tuple[str, str, str]] = deque(maxlen=MOST_REFUSED)

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [lane.process.pid for lane in self._lanes.values() if lane.process.pid is not None]

    @property
    def checking(self) -> bool:
        """Whether constraints are being compiled that were asked for by ``check``."""
        return bool(self._compiled) or any(lane.checks for lane in self._lanes.values())

    def check(self, command: Compile) -> None:
        """Have a constraint compiled; ``take_compiled`` has the answer in time."""
        if _content(command.constraint) in self._too_long:
            self._compiled.append(Compiled(command.id, TOO_LONG))
        else:
            self._check(self._lane(library_of(command.constraint)), command.id, command.constraint)

    def take_compiled(self) -> list[Compiled]:
        """Answers to ``check`` since the last call."""
        compiled, self._compiled = self._compiled, []
        return compiled

    def open(self, constraint: Constraint) -> Grammar:
        """A text begins under a constraint."""
        grammar = Grammar(next(self._numbers), constraint)
        self._open(self._lane(grammar.library), grammar)
        return grammar

    def accept(self, grammar: Grammar, token: int) -> None:
        """A token has been drawn; ``flush`` tells the process."""
        lane = self._lanes[grammar.library]
        if grammar.number not in lane.rows:  # it has failed
            return
        grammar.tokens.append(token)
        grammar.bits = None
        lane.expect(grammar)
        lane.accepted.append((grammar.number, token))

    def flush(self) -> None:
        """Send what has been accepted."""
        for lane in self._lanes.values():
            if lane.accepted:
                accepted, lane.accepted = lane.accepted, []
                self._send(lane, Accept(accepted))

    def close(self, grammar: Grammar) -> None:
        """The text has ended; again does nothing."""
        lane = self._lanes[grammar.library]
        if lane.rows.pop(grammar.number, None) is None:
            return
        lane.waiting.discard(grammar.number)
        lane.accepted = [(number, token) for number, token in lane.accepted if number != grammar.number]
        if lane.process.pid is not None:
            self._send(lane, Close([grammar.number]))

    def poll(self) -> None:
        """Take what has come, without waiting."""
        for lane in self._lanes.values():
            if not lane.owing:
                continue
            for event in lane.process.receive():
                self._take(lane, event)
            loss = lane.process.lost() if lane.owing else None
            if loss is not None:
                log.error("%s", loss.reason)
                self._lose(lane, loss)

    def wait(self, grammars: Iterable[Grammar], seconds: float) -> None:
        """Until something has come from a process of those that are not known, but no longer."""
        lanes = {grammar.library: self._lanes[grammar.library] for grammar in grammars if not grammar.known}
        pipes = [lane.process.pipe for lane in lanes.values() if lane.process.pipe is not None]
        if pipes:
            wait(pipes, seconds)

    def shut(self) -> None:
        """End the processes."""
        for lane in self._lanes.values():
            lane.process.close()
            self._fail(lane, "the engine was closed")

    def _lane(self, library: Library) -> Lane:
        if library not in self._lanes:
            if self._vocabulary is None:
                self._vocabulary = self._make_vocabulary()
            self._lanes[library] = Lane(GrammarProcess(library, self._vocabulary))
        lane = self._lanes[library]
        if not lane.owing and lane.process.ended:  # nobody was there to notice
            lane.process.close()
            self._lose(lane, Loss("the grammar process ended", hung=False))
        return lane

    def _check(self, lane: Lane, number: int, constraint: Constraint) -> None:
        if not lane.owing:
            lane.process.expect()
        lane.checks[number] = constraint
        self._send(lane, Check(number, constraint))

    def _open(self, lane: Lane, grammar: Grammar) -> None:
        lane.rows[grammar.number] = grammar
        lane.expect(grammar)
        self._send(lane, Open(grammar.number, grammar.constraint, grammar.tokens))

    def _send(self, lane: Lane, command: Check | Open | Accept | Close) -> None:
        try:
            lane.process.send(command)
        except OSError as error:
            self._fail(lane, f"the grammar process cannot be started: {error}")

    def _take(self, lane: Lane, event: Event) -> None:
        if isinstance(event, Verdicts):
            for verdict in event.rows:
                self._judge(lane, verdict)
        elif isinstance(event, Checked):
            constraint = lane.checks.pop(event.id, None)
            if constraint is not None and event.error == TOO_LONG:
                self._too_long.append(_content(constraint))
            lane.asked_again.discard(event.id)
            self._compiled.append(Compiled(event.id, event.error, begins_white=event.begins_white))

    def _judge(self, lane: Lane, verdict: Verdict) -> None:
        grammar = lane.rows.get(verdict.row)
        if grammar is None or (verdict.count != len(grammar.tokens) and verdict.error is None):
            return
        lane.waiting.discard(verdict.row)
        grammar.begun, grammar.deaths = True, 0
        grammar.complete, grammar.error = verdict.complete, verdict.error
        if verdict.bits:
            grammar.bits = np.frombuffer(verdict.bits, np.uint32)

    def _lose(self, lane: Lane, loss: Loss) -> None:
        """The process is gone: tell another one of all that this one knew, but for what may be its end again."""
        rows, checks, waiting = lane.clear()
        asked = len(checks) + sum(not grammar.begun for grammar in rows)
        for grammar in rows:
            if grammar.number in waiting:
                grammar.deaths += HANGING if loss.hung else 1
            if grammar.deaths > (MOST_DEATHS if grammar.begun else 1):
                grammar.error = TOO_LONG if loss.hung and not grammar.begun and asked == 1 else loss.reason + AGAIN
            else:
                self._open(lane, grammar)
        for number, constraint in checks.items():
            if loss.hung and asked == 1:
                self._compiled.append(Compiled(number, TOO_LONG))
            elif loss.hung or number in lane.asked_again:
                self._compiled.append(Compiled(number, loss.reason + AGAIN, away=True))
            else:
                lane.asked_again.add(number)
                self._check(lane, number, constraint)
        lane.asked_again.intersection_update(lane.checks)

    def _fail(self, lane: Lane, error: str) -> None:
        """There is no process, and there will be none for what has been asked."""
        rows, checks, _ = lane.clear()
        for grammar in rows:
            grammar.error = error + AGAIN
        self._compiled += [Compiled(number, error + AGAIN, away=True) for number in checks]


def _content(constraint: Constraint) -> tuple[str, str, str]:
    """What is compiled."""
    return constraint.kind, constraint.white, constraint.grammar
