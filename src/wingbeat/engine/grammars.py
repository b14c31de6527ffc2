"""The grammars of an engine's rows: which tokens may follow, as grammar processes find out while steps run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from wingbeat.engine.grammar_messages import (
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
from wingbeat.engine.grammar_process import GrammarProcess
from wingbeat.engine.messages import Compile, Compiled
from wingbeat.sampling.constraint import Constraint

log = logging.getLogger(__name__)

AGAIN = "; ask again"


class Grammar:
    """What is known of one row's text: after its tokens so far, ``bits`` may follow, or it is complete, or failed."""

    __slots__ = ("bits", "complete", "count", "error", "library", "number")

    def __init__(self, number: int, library: Library) -> None:
        self.number = number
        self.library: Library = library
        self.count = 0  # tokens taken
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
        self.checks: set[int] = set()
        self.accepted: list[tuple[int, int]] = []  # not sent yet
        self.waiting: set[int] = set()  # rows whose next mask is not there

    @property
    def owing(self) -> bool:
        return bool(self.waiting or self.checks)

    def ask(self, asked: set[int], number: int) -> None:
        """The process is about to owe an answer."""
        if not self.owing:
            self.process.expect()
        asked.add(number)


class Grammars:
    """Asks the processes. ``vocabulary`` is called once, when the first constraint comes."""

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        self._make_vocabulary = vocabulary
        self._vocabulary: Vocabulary | None = None
        self._lanes: dict[Library, Lane] = {}
        self._numbers = itertools.count(1)
        self._compiled: list[Compiled] = []

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
        lane = self._lane(library_of(command.constraint))
        lane.ask(lane.checks, command.id)
        self._send(lane, Check(command.id, command.constraint))

    def take_compiled(self) -> list[Compiled]:
        """Answers to ``check`` since the last call."""
        compiled, self._compiled = self._compiled, []
        return compiled

    def open(self, constraint: Constraint) -> Grammar:
        """A text begins under a constraint."""
        library = library_of(constraint)
        grammar = Grammar(next(self._numbers), library)
        lane = self._lane(library)
        lane.rows[grammar.number] = grammar
        lane.ask(lane.waiting, grammar.number)
        self._send(lane, Open(grammar.number, constraint))
        return grammar

    def accept(self, grammar: Grammar, token: int) -> None:
        """A token has been drawn; ``flush`` tells the process."""
        lane = self._lanes[grammar.library]
        if grammar.number not in lane.rows:  # its process is gone
            return
        grammar.count += 1
        grammar.bits = None
        lane.ask(lane.waiting, grammar.number)
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
            if lane.process.pid is None:
                continue
            for event in lane.process.receive():
                self._take(lane, event)
            error = lane.process.lost(owing=lane.owing)
            if error is not None:
                log.error("%s", error)
                self._lose(lane, error)

    def wait(self, grammars: Iterable[Grammar], seconds: float) -> None:
        """Until something has come from the process of the first that is not known, but no longer."""
        for grammar in grammars:
            if not grammar.known:
                self._lanes[grammar.library].process.wait(seconds)
                return

    def shut(self) -> None:
        """End the processes."""
        for lane in self._lanes.values():
            lane.process.close()
            self._lose(lane, "the engine was closed")

    def _lane(self, library: Library) -> Lane:
        if library not in self._lanes:
            if self._vocabulary is None:
                self._vocabulary = self._make_vocabulary()
            self._lanes[library] = Lane(GrammarProcess(library, self._vocabulary))
        return self._lanes[library]

    def _send(self, lane: Lane, command: Check | Open | Accept | Close) -> None:
        try:
            lane.process.send(command)
        except OSError as error:
            self._lose(lane, f"the grammar process cannot be started: {error}")

    def _take(self, lane: Lane, event: Event) -> None:
        if isinstance(event, Checked):
            lane.checks.discard(event.id)
            self._compiled.append(Compiled(event.id, event.error, begins_white=event.begins_white))
        elif isinstance(event, Verdicts):
            for verdict in event.rows:
                self._judge(lane, verdict)

    def _judge(self, lane: Lane, verdict: Verdict) -> None:
        grammar = lane.rows.get(verdict.row)
        if grammar is None or (verdict.count != grammar.count and verdict.error is None):
            return
        lane.waiting.discard(verdict.row)
        grammar.complete, grammar.error = verdict.complete, verdict.error
        if verdict.bits:
            grammar.bits = np.frombuffer(verdict.bits, np.uint32)

    def _lose(self, lane: Lane, error: str) -> None:
        """The process is gone: its rows fail, since nobody knows any more what may follow."""
        for grammar in lane.rows.values():
            grammar.error = error + AGAIN
        self._compiled += [Compiled(number, error + AGAIN, away=True) for number in lane.checks]
        lane.rows.clear()
        lane.waiting.clear()
        lane.checks.clear()
        lane.accepted.clear()
