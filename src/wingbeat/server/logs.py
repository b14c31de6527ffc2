"""Logging: structlog for ours, and the standard library's loggers (the engine's, uvicorn's) through the same pipe.

Lines are rendered and written by a thread of their own. Whoever logs only leaves a record in a bounded queue, so that
a standard error that nobody reads stops the log, and never the server.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import select
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_QUIET = ("uvicorn", "uvicorn.error", "asyncio")
"""Loggers whose information is noise to everyone but a developer."""

STANDARD_ERROR = 2

_TRACEBACK = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Without the variables: they hold what people wrote."""

QUEUED_LINES = 10_000
"""Lines that may wait to be written. What comes on top is dropped, counted, and reported when there is room again."""


class LogThread(logging.handlers.QueueHandler):
    """Takes records from any thread; its own thread renders and writes them to the descriptor `fd`."""

    def __init__(
        self, formatter: logging.Formatter, fd: int = STANDARD_ERROR, queued_lines: int = QUEUED_LINES
    ) -> None:
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(queued_lines)
        super().__init__(self._records)
        self.dropped = 0
        """Lines that were lost so far."""
        self._reported = 0
        self._render = formatter.format
        self._fd = fd
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Fix what belongs to this moment and this thread. Ours has it already; see `configure_logging`."""
        if not isinstance(record.msg, dict):
            record.msg, record.args = record.getMessage(), ()
            record.request = structlog.contextvars.get_contextvars()
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def stop(self, seconds: float) -> None:
        """Write what waits, for so long at most: a blocked standard error must not hold up the end."""
        with contextlib.suppress(queue.Full):
            self._records.put(None, timeout=seconds)
            self._thread.join(seconds)

    def _run(self) -> None:
        while (record := self._records.get()) is not None:
            self._write(record)
            if self._records.empty():
                self._report_losses()
        self._report_losses()

    def _report_losses(self) -> None:
        lost = self.dropped - self._reported
        if lost:
            self._reported += lost
            text = f"{lost} lines of the log were lost: standard error was not read fast enough"
            self._write(logging.LogRecord("wingbeat", logging.WARNING, __file__, 0, text, (), None))

    def _write(self, record: logging.LogRecord) -> None:
        try:
            line = self._render(record) + "\n"
        except Exception as error:  # a value that cannot be rendered costs its own line only
            line = f"a line of the log could not be rendered: {error!r}\n"
        with contextlib.suppress(OSError):  # the terminal or the reader is gone: there is nobody to tell
            _write_all(self._fd, line.encode(errors="backslashreplace"))


def _write_all(fd: int, data: bytes) -> None:
    """Past Python's own streams: one that is blocked in a thread would make the interpreter crash when it ends."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # another program set the terminal so
            select.select([], [fd], [])


def configure_logging(
    level: str,
    log_format: Literal["auto", "text", "json"] = "auto",
    fd: int = STANDARD_ERROR,
    queued_lines: int = QUEUED_LINES,
) -> LogThread:
    """Log to `fd` from a thread. `auto` is text, coloured on a terminal; `json` is one object a line.

    Call `stop` of what is returned at the end, so that the last lines are written.
    """
    common: list[Processor] = [structlog.stdlib.add_log_level, _timestamp(log_format)]
    ours: list[Processor] = [structlog.contextvars.merge_contextvars, *common, _fix_exception]
    theirs: list[Processor] = [_merge_fixed_context, *common]
    render: list[Processor] = (
        [structlog.processors.ExceptionRenderer(_TRACEBACK), structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=log_format == "auto" and os.isatty(fd), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*ours, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=theirs,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = LogThread(formatter, fd, queued_lines)
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(number if level == "debug" else max(number, logging.WARNING))
    return handler


def dropped_lines() -> int:
    """Lines of the log that were lost so far, because they came faster than they were read."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, LogThread))


def _timestamp(log_format: str) -> Processor:
    """When it was said, which may be long before it is written: UTC for programs, local time for people."""

    def stamp(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        said = event["_record"].created if "_record" in event else time.time()
        event["timestamp"] = (
            datetime.fromtimestamp(said, UTC).isoformat().replace("+00:00", "Z")
            if log_format == "json"
            else time.strftime("%H:%M:%S", time.localtime(said))
        )
        return event

    return stamp


def _merge_fixed_context(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    return {**getattr(record, "request", {}), **event}


def _fix_exception(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """`exc_info=True` means the exception of this thread, which is not the one that renders."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event
