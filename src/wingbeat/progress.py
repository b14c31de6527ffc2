"""How far a long job is, on a terminal's standard error. Loading, measuring and serving all show it this way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Show = Callable[[int, int], None]
"""Takes what is done and how much there is; 0 in all: not known yet."""


@contextmanager
def progress_bar(
    description: str, *, in_bytes: bool = False, plain: bool = False, speed: bool = False
) -> Iterator[Show]:
    """A bar that is gone when the block ends, so that what is printed next stands alone.

    Where standard error is no terminal nothing is drawn; with ``plain`` the description is printed once, as a line.
    ``in_bytes``: the counts are bytes, and are shown. ``speed``: so are bytes a second and the time that is left, in
    place of the time that has passed.
    """
    console = Console(stderr=True)
    if plain and not console.is_terminal:
        print(f"{description} ...", file=sys.stderr, flush=True)
    counts = [DownloadColumn()] if in_bytes else []
    times = [TransferSpeedColumn(), TimeRemainingColumn(compact=True)] if speed else [TimeElapsedColumn()]
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        *times,
        console=console,
        transient=True,
        refresh_per_second=4,  # drawing takes from the cores that work
        redirect_stdout=False,  # redirecting would send stdout, and so lines of JSON, to stderr
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
