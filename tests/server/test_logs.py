from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from wingbeat.server.greeting import example
from wingbeat.server.logs import configure_logging


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_has_one_object_a_line_for_our_logs_and_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    structlog.get_logger("wingbeat.test").info("hello", count=3)
    logging.getLogger("some.library").warning("careful: %s", "x")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger("wingbeat.test").exception("failed")
    ours, theirs, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["count"], ours["level"]) == ("hello", 3, "info")
    assert (theirs["event"], theirs["level"]) == ("careful: x", "warning")
    assert failed["exception"][0]["exc_value"] == "boom"


def test_the_level_and_the_quiet_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    structlog.get_logger("wingbeat.test").debug("hidden")
    logging.getLogger("uvicorn.error").info("hidden")
    structlog.get_logger("wingbeat.test").info("shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert "shown" in line
    assert "\x1b" not in line


def test_the_example_mentions_the_key_only_where_one_is_needed() -> None:
    assert "Authorization" in example("http://x", "m", True)
    assert "Authorization" not in example("http://x", "m", False)
