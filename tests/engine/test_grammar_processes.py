"""Grammar processes that are killed, hang or are lost to a hostile constraint: no answer is another one for it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.engine.helpers import answers, assert_empty, drain, request, speller_engine
from wingbeat.engine import grammar_process
from wingbeat.engine.engine import Engine
from wingbeat.engine.frame_pipe import PIECE, FramePipe, wait
from wingbeat.engine.grammar_trial import TooMuch, attempt
from wingbeat.engine.grammars import MOST_DEATHS
from wingbeat.engine.messages import Compile, Compiled, RowOutput
from wingbeat.sampling.constraint import Constraint
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

LARK = Constraint("lark", 'start: ("a" | "b" | "cd")+ "."')
KBNF = Constraint("kbnf", 'start ::= word start | "."; word ::= #"[a-z]{2,5}" ", ";')
SLOW = Constraint("json_schema", '{"type": "integer", "multipleOf": 9999991}')
SLOW_KBNF = Constraint("kbnf", 'start ::= #"[01]*1[01]{20}" "x";')
TOKENS = 120
STEPS = 1_000_000  # at most, of a model that takes no time


@pytest.fixture
def engine(tokenizer: WorldTokenizer) -> Iterator[Engine]:
    """Its model predicts nothing in particular."""
    engine = speller_engine(tokenizer, [0] * 1000, max_batch=8)
    yield engine
    engine.close()


def submit(engine: Engine, constraint: Constraint) -> None:
    """Two rows that do not end by themselves for long, and a free one."""
    bias = {ord(".") + 1: -100.0}
    for number, wish in enumerate((constraint, None), 1):
        sampling = SamplingParams(constraint=wish, max_tokens=TOKENS, seed=number, logit_bias=bias, ignore_eos=True)
        engine.submit(request(engine, number, [[5, 6]] * (2 if wish else 1), sampling))


def kill(engine: Engine) -> None:
    for pid in engine._guarded.grammars.pids:
        os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether the process runs no more; its owner may not have been told yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def compiled(engine: Engine, *constraints: Constraint) -> list[Compiled]:
    for number, constraint in enumerate(constraints, 1):
        engine.compile(Compile(number, constraint))
    found: list[Compiled] = []
    deadline = time.monotonic() + 60
    while len(found) < len(constraints):
        assert time.monotonic() < deadline, "no answer"
        engine.rest()
        found += engine.take_compiled()
        time.sleep(0.002)
    return sorted(found, key=lambda answer: answer.id)


def ask(engine: Engine, constraint: Constraint) -> RowOutput:
    engine.submit(request(engine, 1, [[5, 6]], SamplingParams(constraint=constraint, max_tokens=40, seed=1)))
    return answers(drain(engine, STEPS))[1, 0]


@pytest.mark.parametrize("constraint", [LARK, KBNF])
def test_a_process_that_is_killed_again_and_again_changes_no_answer(engine: Engine, constraint: Constraint) -> None:
    submit(engine, constraint)
    undisturbed = answers(drain(engine, STEPS))
    assert [undisturbed[1, row].finish_reason for row in range(2)] == ["length"] * 2
    submit(engine, constraint)
    outputs: list[RowOutput] = []
    for kills in range(MOST_DEATHS + 3):  # more than a row survives that gets no answer between them
        told = 0
        while told < 2 * kills + 1:
            step = engine.step().rows
            assert not any(output.request == 1 and output.finish_reason for output in step)
            told += sum(output.request == 1 for output in step)
            outputs += step
        kill(engine)
    assert answers(outputs + drain(engine, STEPS)) == undisturbed
    assert_empty(engine)


def test_a_process_that_was_killed_while_nothing_was_asked_costs_nothing(engine: Engine) -> None:
    for kind, grammar in (("choice", '["ab"]'), ("kbnf", 'start ::= "ab";')):
        constraint = Constraint(kind, grammar)  # type: ignore[arg-type]
        for _ in range(3):
            assert ask(engine, constraint).text == "ab"
            kill(engine)
        assert [answer.error for answer in compiled(engine, constraint)] == [None]


def test_a_constraint_that_takes_too_long_is_refused_and_costs_nobody_else(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(grammar_process.COMPILE_SECONDS, "llguidance", 1.0)
    submit(engine, LARK)
    undisturbed = answers(drain(engine, STEPS))
    submit(engine, LARK)
    outputs = engine.step().rows
    pids = engine._guarded.grammars.pids
    engine.compile(Compile(1, SLOW))
    engine.compile(Compile(2, Constraint("choice", '["ab"]')))
    found: list[Compiled] = []
    deadline = time.monotonic() + 60
    while len(found) < 2:
        assert time.monotonic() < deadline
        outputs += engine.step().rows
        found += engine.take_compiled()
        time.sleep(0.02)  # so that there are rows to the end
    by_id = {answer.id: answer for answer in found}
    assert "takes too long to compile" in (by_id[1].error or "")
    assert (by_id[1].away, by_id[2].error) == (False, None)
    while not gone(pids[0]):
        time.sleep(0.001)
    assert answers(outputs + drain(engine, STEPS)) == undisturbed
    pids = engine._guarded.grammars.pids
    assert compiled(engine, SLOW)[0].error == by_id[1].error  # which is remembered
    assert engine._guarded.grammars.pids == pids
    assert "takes too long to compile" in (ask(engine, SLOW).error or "")
    assert ask(engine, Constraint("choice", '["ab"]')).text == "ab"


def test_another_process_is_not_told_of_a_row_that_has_failed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grammar_process.COMPILE_SECONDS, "llguidance", 0.5)
    grammars = engine._guarded.grammars
    slow, other = grammars.open(SLOW), grammars.open(LARK)
    deadline = time.monotonic() + 60
    while not (slow.known and other.known):
        assert time.monotonic() < deadline
        grammars.poll()
    assert "takes too long to compile" in (slow.error or "")
    first = grammars.pids
    while grammars.pids == first:  # its rows have not been closed by then
        assert time.monotonic() < deadline
        other.bits = None
        grammars.accept(other, ord("a") + 1)
        grammars.flush()
        while not other.known:
            grammars.poll()
    assert not grammars._lanes["llguidance"].owing
    assert other.error is None


def test_a_grammar_that_keeps_kbnf_busy_is_refused_before_it_does(engine: Engine) -> None:
    slow, good = compiled(engine, SLOW_KBNF, KBNF)
    assert "takes too long or too much memory" in (slow.error or "")
    assert good.error is None


def test_what_ends_each_process_that_tries_it_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(engine, LARK)
    undisturbed = answers(drain(engine, STEPS))
    submit(engine, LARK)
    outputs = engine.step().rows
    monkeypatch.setitem(grammar_process.COMPILE_SECONDS, "llguidance", 60.0)
    kill(engine)  # for the new limit
    engine.compile(Compile(1, SLOW))
    ended: set[int] = set()
    found: list[Compiled] = []
    while not found:  # it is never compiled before that
        outputs += engine.step().rows
        found += engine.take_compiled()
        lane = engine._guarded.grammars._lanes["llguidance"]
        if lane.process.pid not in ended and lane.checks and not lane.waiting:
            ended.add(lane.process.pid or 0)
            kill(engine)
    assert found[0].away
    assert "ask again" in (found[0].error or "")
    assert answers(outputs + drain(engine, STEPS)) == undisturbed


def test_work_in_a_copy_of_this_process_ends_with_its_limits() -> None:
    assert attempt(lambda: "é", 10, 1 << 30) == "é"
    assert attempt(lambda: "", 10, 1 << 30) == ""
    for work in (lambda: time.sleep(60), lambda: bytearray(1 << 40), lambda: os.abort(), lambda: 1 / 0):
        with pytest.raises(TooMuch):
            attempt(lambda work=work: str(work()), 0.2, 1 << 30)


def test_frames_of_any_size_arrive_whole_and_what_was_said_last_too() -> None:
    frames = [b"", b"x", b"y" * PIECE, b"z" * (3 * PIECE + 1), b"end"]
    ends = socket.socketpair()
    here, there = FramePipe(ends[0]), FramePipe(ends[1])

    def say() -> None:
        for frame in frames:
            there.send(frame)
        there.flush(60)
        there.close()

    speaker = threading.Thread(target=say)
    speaker.start()
    heard: list[bytes] = []
    while not here.closed:
        wait([here], 60)
        heard += map(bytes, here.receive())
        here.send(b"nobody reads this")
    speaker.join()
    assert heard == frames
    here.close()
