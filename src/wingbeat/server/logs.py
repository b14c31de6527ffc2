"""Logging: structlog for ours, and the standard library's loggers (the engine's, uvicorn's) through the same pipe."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

_QUIET = ("uvicorn", "uvicorn.error", "asyncio")
"""Loggers whose information is noise to everyone but a developer."""


def configure_logging(level: str, log_format: Literal["auto", "text", "json"] = "auto") -> None:
    """Log to standard error. `auto` is text, coloured on a terminal; `json` is one object a line."""
    colours = log_format == "auto" and sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if log_format == "json" else "%H:%M:%S"),
    ]
    render: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(number if level == "debug" else max(number, logging.WARNING))
