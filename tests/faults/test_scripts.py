"""The scripts of `benchmarks/` that try to break a server, in short. They run side by side: mostly they wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SCRIPTS = {
    "faults.py": ["--kills", "4", "--streams", "16"],
    "fuzz_files.py": ["--seconds", "4"],
    "fuzz.py": ["--requests", "2000", "--seed", "5"],
    "soak.py": ["--streams", "250", "--minutes", "0.1", "--tokens", "40"],
}
HANGS = 250
"""Seconds after which a script hangs, rather than the machine being busy."""


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process for each script; it and its servers are gone at the end."""
    with ExitStack() as stack:
        processes = {}
        for script, arguments in SCRIPTS.items():
            command = [sys.executable, str(BENCHMARKS / script), *arguments]
            processes[script] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
            stack.callback(end, processes[script])
        yield processes


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("script", SCRIPTS)
def test_everything_holds(script: str, running: dict[str, subprocess.Popen[str]]) -> None:
    told, _ = running[script].communicate(timeout=HANGS)
    assert running[script].returncode == 0, told
    assert told.endswith("Everything held.\n")
