from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator

import pytest
import structlog

from wingbeat.server.greeting import example
from wingbeat.server.logs import LogThread, configure_logging, dropped_lines


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


class Pipe:
    """A pipe to log to. It holds what nobody reads, as far as it has room."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        self._file = os.fdopen(self._reader)

    def close(self) -> None:
        os.close(self.writer)

    def lines(self) -> list[str]:
        """All that was written, once everybody who writes has closed."""
        return self._file.read().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe._file.close()


def written(log: LogThread, pipe: Pipe) -> list[str]:
    log.stop(5)
    pipe.close()
    return pipe.lines()


def test_json_has_one_object_a_line_for_our_logs_and_the_libraries(pipe: Pipe) -> None:
    log = configure_logging("info", "json", pipe.writer)
    structlog.get_logger("wingbeat.test").info("hello", count=3)
    logging.getLogger("some.library").warning("careful: %s", "x")
    secret = "what somebody wrote"
    try:
        raise ValueError("boom" if secret else "")
    except ValueError:
        structlog.get_logger("wingbeat.test").exception("failed")
    lines = written(log, pipe)
    ours, theirs, failed = map(json.loads, lines)
    assert (ours["event"], ours["count"], ours["level"]) == ("hello", 3, "info")
    assert (theirs["event"], theirs["level"]) == ("careful: x", "warning")
    assert failed["exception"][0]["exc_value"] == "boom"
    assert secret not in lines[-1]
    assert ours["timestamp"].endswith("Z")
    assert ours["timestamp"] <= theirs["timestamp"] <= failed["timestamp"]


def test_lines_said_within_a_request_carry_its_id(pipe: Pipe) -> None:
    log = configure_logging("info", "json", pipe.writer)
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("wingbeat.test").info("ours")
    logging.getLogger("some.library").warning("theirs")
    structlog.contextvars.clear_contextvars()
    logging.getLogger("some.library").warning("later")
    assert [json.loads(line).get("request_id") for line in written(log, pipe)] == ["r1", "r1", None]


def test_the_level_and_the_quiet_libraries(pipe: Pipe) -> None:
    log = configure_logging("info", "text", pipe.writer)
    structlog.get_logger("wingbeat.test").debug("hidden")
    logging.getLogger("uvicorn.error").info("hidden")
    structlog.get_logger("wingbeat.test").info("shown")
    (line,) = written(log, pipe)
    assert "shown" in line
    assert "\x1b" not in line


def test_a_line_that_cannot_be_rendered_costs_itself_only(pipe: Pipe) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    log = configure_logging("info", "text", pipe.writer)
    structlog.get_logger("wingbeat.test").info("broken", value=Broken())
    structlog.get_logger("wingbeat.test").info("after")
    broken, after = written(log, pipe)
    assert "could not be rendered" in broken
    assert "after" in after


def test_a_log_that_nobody_reads_blocks_nobody_and_says_what_was_lost(pipe: Pipe) -> None:
    log = configure_logging("info", "json", pipe.writer, queued_lines=50)
    text, count = "x" * 1000, 400  # four times what a pipe holds on Linux
    for _ in range(count):
        structlog.get_logger("wingbeat.test").info(text)
    lost = log.dropped
    assert lost > 0
    assert dropped_lines() == lost
    log.stop(0.01)  # nor does it hold up the end
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe._file))
    reader.start()
    log.stop(5)
    pipe.close()
    reader.join()
    events = [json.loads(line)["event"] for line in lines]
    assert events.count(text) == count - lost
    assert [event for event in events if event != text] == [
        f"{lost} lines of the log were lost: standard error was not read fast enough"
    ]


def test_the_example_mentions_the_key_only_where_one_is_needed() -> None:
    assert "Authorization" in example("http://x", "m", True)
    assert "Authorization" not in example("http://x", "m", False)
