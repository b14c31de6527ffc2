"""How many files and connections the process may have open. Each client is one."""

from __future__ import annotations

import contextlib
import sys

import structlog

log = structlog.get_logger("wingbeat")

ENOUGH = 4096
"""For two thousand streams with room to spare."""


def raise_open_files() -> None:
    """Raise the soft limit as far as the hard one lets; warn where that is low. Does nothing where there are none."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    for wanted in (hard, 65536, 10240):  # macOS says that there is no hard limit, and refuses more than the kernel's
        if soft != unlimited and (wanted == unlimited or wanted > soft):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                soft = wanted
    if soft != unlimited and soft < ENOUGH:
        log.warning(
            "few files may be open, so few clients can be connected: raise the limit (ulimit -n, LimitNOFILE)",
            limit=soft,
        )
