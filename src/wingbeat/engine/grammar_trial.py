"""Runs what may take too long, or too much memory, in a copy of this process that can be ended."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn

MOST_WORDS = 1 << 16  # bytes: what fits into a pipe
MOST_FILES = 4096  # descriptors to close in the copy


class TooMuch(Exception):  # noqa: N818 - of time or memory, which is no mistake of ours
    """It was not done within the limits."""


def attempt(work: Callable[[], str], seconds: float, memory: int) -> str:
    """What ``work`` says in a copy of this process, which may take so many seconds and further bytes.

    ``work`` must wait for no other thread: the copy has none. Raises TooMuch when it does not come to an end.
    """
    answer, theirs = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            _run(work, theirs, seconds, memory)
        os.close(theirs)
        theirs = -1
        return _await(child, answer, seconds)
    finally:
        os.close(answer)
        if theirs >= 0:
            os.close(theirs)


def _await(child: int, answer: int, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    said = b""
    poll = select.poll()
    poll.register(answer, select.POLLIN)
    try:
        while poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            piece = os.read(answer, MOST_WORDS)
            if not piece:
                break
            said += piece
        else:
            os.kill(child, signal.SIGKILL)
    finally:
        _, status = os.waitpid(child, 0)
    if status != 0:
        raise TooMuch
    return said.decode("utf-8", "replace")


def _run(work: Callable[[], str], answer: int, seconds: float, memory: int) -> NoReturn:
    """In the copy. Its limits end it by themselves where nobody is left to end it."""
    status = 1
    try:
        os.closerange(0, answer)  # what tells others that this process is alive
        os.closerange(answer + 1, MOST_FILES)
        with contextlib.suppress(ValueError, OSError):  # lower limits are there already
            _limit(resource.RLIMIT_CORE, 0)
            _limit(resource.RLIMIT_CPU, math.ceil(seconds) + 1)
            _limit(resource.RLIMIT_AS, _address_space() + memory)
        os.write(answer, work().encode()[:MOST_WORDS])
        status = 0
    finally:
        os._exit(status)


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


def _address_space() -> int:
    """Bytes that this process has mapped; where the system does not tell, what it may have."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 2 << 30
