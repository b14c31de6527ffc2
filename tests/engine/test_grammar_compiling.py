"""What a grammar process keeps of the constraints that it has compiled."""

from __future__ import annotations

import pytest

from wingbeat.engine import grammar_compiling
from wingbeat.engine.grammar_compiling import Compiling
from wingbeat.engine.grammar_messages import Open, Vocabulary
from wingbeat.engine.grammar_rows import Rows
from wingbeat.sampling.constraint import Constraint


class Anything:
    """A matcher that any text fits and that can be used again, and what compiles it."""

    complete = False

    def compile(self, constraint: Constraint) -> Anything:
        return self

    def copy(self) -> Anything:
        return Anything()

    def accept(self, token: int) -> None:
        pass

    def mask(self) -> bytes:
        return b"\xff" * 1000

    def reset(self) -> bool:
        return True


def test_used_matchers_count_for_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_compiling, "_resident", lambda: 0)
    monkeypatch.setattr(grammar_compiling, "MOST_KEPT_BYTES", 100_000)
    compiling = Compiling(Anything(), Vocabulary([b"", b"x"], 0, 250), 60)
    rows = Rows(compiling, lambda event: None)
    constraints = [Constraint("kbnf", name) for name in "ab"]
    for number, constraint in enumerate(constraints):
        rows.open(Open(number, constraint))
    while compiling:
        compiling.settle()
    for number in range(2):
        rows.accept([(number, 1)] * 80)
    rows.close([0])
    for constraint in constraints:
        compiling.ask(constraint, lambda compiled: None)
    assert not compiling  # both are there
    rows.close([1])
    compiling.ask(constraints[1], lambda compiled: None)
    assert not compiling
    compiling.ask(constraints[0], lambda compiled: None)
    assert compiling  # it was dropped
