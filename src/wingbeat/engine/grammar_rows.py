"""The rows that a grammar process answers for: their matchers, the tokens that they take, the masks that follow."""

from __future__ import annotations

import time
from collections.abc import Callable

from wingbeat.engine.grammar_compiling import Compiled, Compiling, words
from wingbeat.engine.grammar_messages import Check, Checked, Event, Open, Verdict, Verdicts

FLUSH_SECONDS = 0.001  # masks that are ready do not wait longer for those of others


class Row:
    """A row's matcher, and how long its last mask took."""

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled
        self.matcher, self._taken_before = compiled.matcher()
        self.count = 0
        self.seconds = 0.0

    def accept(self, token: int) -> None:
        self.count += 1
        self.matcher.accept(token)

    def close(self) -> bool:
        """Whether its matcher is kept for another row."""
        return self._compiled.give_back(self.matcher, self._taken_before + self.count)


class Rows:
    """What a grammar process does, given a way to ``send``."""

    def __init__(self, compiling: Compiling, send: Callable[[Event], None]) -> None:
        self._compiling, self._send = compiling, send
        self._rows: dict[int, Row] = {}
        self._opening: dict[int, list[int]] = {}  # rows whose constraint is being compiled, and their tokens by then

    def check(self, command: Check) -> None:
        def answer(result: Compiled | str) -> None:
            if isinstance(result, str):
                self._send(Checked(command.id, result))
            else:
                self._send(Checked(command.id, begins_white=result.begins_white))

        self._compiling.ask(command.constraint, answer)

    def open(self, command: Open) -> None:
        number = command.row
        self._opening[number] = command.tokens

        def begin(result: Compiled | str) -> None:
            tokens = self._opening.pop(number, None)
            if tokens is None:  # it has ended by now
                return
            if isinstance(result, str):
                self._send(Verdicts([Verdict(number, 0, error=result)]))
                return
            self._rows[number] = Row(result)
            if tokens:
                self._take([(number, tokens)])
            else:
                first = result.first
                self._send(Verdicts([Verdict(number, 0, first.bits, first.complete)]))

        self._compiling.ask(command.constraint, begin)

    def close(self, rows: list[int]) -> None:
        for number in rows:
            self._opening.pop(number, None)
            row = self._rows.pop(number, None)
            if row is not None and row.close():
                self._compiling.shelf.tidy()

    def accept(self, tokens: list[tuple[int, int]]) -> None:
        """Take tokens of rows."""
        known: list[tuple[int, list[int]]] = []
        for number, token in tokens:
            if number in self._opening:
                self._opening[number].append(token)
            else:
                known.append((number, [token]))
        self._take(known)

    def _take(self, tokens: list[tuple[int, list[int]]]) -> None:
        """Take each row's tokens. Who has ended is told first, then what may follow, the fast ones first."""
        ended: list[Verdict] = []
        going: list[tuple[int, Row]] = []
        for number, drawn in tokens:
            row = self._rows.get(number)
            if row is None:  # it had an error
                continue
            try:
                for token in drawn:
                    row.accept(token)
                complete = row.matcher.complete
            except BaseException as error:  # a panic in Rust is no Exception
                ended.append(self._failed(number, row, error))
                continue
            if complete:
                ended.append(Verdict(number, row.count, complete=True))
            else:
                going.append((number, row))
        if ended:
            self._send(Verdicts(ended))
        if len(going) > 1:
            going.sort(key=lambda entry: entry[1].seconds)
        self._mask(going)

    def _mask(self, rows: list[tuple[int, Row]]) -> None:
        ready: list[Verdict] = []
        start = flushed = time.perf_counter()
        for number, row in rows:
            try:
                ready.append(Verdict(number, row.count, row.matcher.mask()))
            except BaseException as error:
                ready.append(self._failed(number, row, error))
            now = time.perf_counter()
            row.seconds, start = now - start, now
            if now - flushed > FLUSH_SECONDS:
                self._send(Verdicts(ready))
                ready, flushed = [], now
        if ready:
            self._send(Verdicts(ready))

    def _failed(self, number: int, row: Row, error: BaseException) -> Verdict:
        """A library that fails costs the one row alone."""
        del self._rows[number]
        return Verdict(number, row.count, error=words(error))
