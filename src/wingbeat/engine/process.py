"""Starting and ending the engine's process, and what to do when it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from wingbeat.engine.bootstrap import Bootstrap, frame_bootstrap

FIRST_PAUSE = 0.25  # seconds before a restart; doubles with each crash that nothing was served before
LONGEST_PAUSE = 10.0
MAX_FAILED_STARTS = 4  # of an engine that never was ready, before giving up
EXIT_SECONDS = 1.0  # how long a process may take to leave before it is killed


class RestartPolicy:
    """How long to wait before the engine is started again.

    An engine that has been ready once is started again for ever: the server it belongs to is in use. One that never was
    is given up, so that a mistake shows at once.
    """

    def __init__(self) -> None:
        self.was_ready = False
        self._served = False
        self._crashes = 0

    def ready(self) -> None:
        self.was_ready = True

    def served(self) -> None:
        """The engine has run a step since it was started: what comes is a new crash, not the last one again."""
        self._served = True

    def after_crash(self) -> float | None:
        """Seconds to wait before the next start; None: give up."""
        self._crashes = 1 if self._served else self._crashes + 1
        self._served = False
        if not self.was_ready and self._crashes >= MAX_FAILED_STARTS:
            return None
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._crashes - 1, 16))


async def start_process(bootstrap: Bootstrap) -> asyncio.subprocess.Process:
    """Start an engine. Raises OSError when that is not possible."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "wingbeat.engine.worker"),
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C and a closed terminal are this process's business
    )
    assert process.stdin is not None
    with contextlib.suppress(RuntimeError, OSError):  # uvloop's and others' way to say that it has died already
        process.stdin.write(frame_bootstrap(bootstrap))
    return process


async def end_process(process: asyncio.subprocess.Process) -> None:
    """Close the process's standard input, which ends it; kill it when that is not enough."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), EXIT_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def describe_exit(code: int) -> str:
    """An exit status in words."""
    if code == -9:
        return "killed by signal 9; if nobody did that, the system ran out of memory"
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
