"""What the ``bench`` command does with its flags: load or make a model, measure, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console

from wingbeat.bench.measure import Case, Figure, Subject, choose_cases, load_subject, measure
from wingbeat.bench.profile import native_executable, profile
from wingbeat.bench.random_model import SHAPES, save_random_model
from wingbeat.bench.tables import profile_table, speed_table
from wingbeat.config import load_settings, version
from wingbeat.demo import DEMO
from wingbeat.progress import progress_bar


def run(
    model: str | None,
    shape: str | None,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    backend: str = "auto",
    what: Sequence[str] = (),
    seconds: float = 1.5,
    as_json: bool = False,
    profiled: bool = False,
) -> None:
    """Measure the model in a file, a random one at a published shape, or without either the bundled demo.

    ``profiled``: tell for each kind of op its share of a step, instead of the speed.

    Raises ConfigError, ValueError or OSError with a message for the user when a flag or the model is of no use.
    """
    if model and shape:
        raise ValueError("give either a model file or --shape, not both")
    if shape is not None and shape not in SHAPES:
        raise ValueError(f"there is no shape {shape!r}: choose {', '.join(SHAPES)}")
    cases = choose_cases(what)
    subject = _load(model, shape, dtype, threads, backend)
    if profiled:
        _profile(subject, cases, seconds, as_json)
    else:
        _measure(subject, cases, seconds, as_json)


def _measure(subject: Subject, cases: Sequence[Case], seconds: float, as_json: bool) -> None:
    figures: list[Figure] = []
    for number, case in enumerate(cases, 1):
        with progress_bar(f"{case.what} ({number} of {len(cases)})"):
            figure = measure(subject, case, seconds, version())
        if as_json:
            _print_json(figure)
        figures.append(figure)
    if not as_json:
        Console().print(speed_table(figures))


def _profile(subject: Subject, cases: Sequence[Case], seconds: float, as_json: bool) -> None:
    native_executable(subject)
    for number, case in enumerate(cases, 1):
        with progress_bar(f"{case.what} ({number} of {len(cases)})"):
            rows = profile(subject, case, seconds, version())
        if as_json:
            for row in rows:
                _print_json(row)
        else:
            Console().print(profile_table(rows))


def _print_json(line: msgspec.Struct) -> None:
    print(msgspec.json.encode(line).decode(), flush=True)


def _load(model: str | None, shape: str | None, dtype: str, threads: int | None, backend: str) -> Subject:
    with TemporaryDirectory(prefix="wingbeat-bench-", ignore_cleanup_errors=True) as folder:
        if shape is None:
            path = load_settings({"model": model or DEMO}).model_path()
        else:
            path = Path(folder) / f"random-{shape}.safetensors"
            with progress_bar(f"Making a random model of {shape}") as progress:
                save_random_model(SHAPES[shape], path, progress=progress)
        with progress_bar(f"Loading {path.stem}", in_bytes=True) as progress:
            return load_subject(path, dtype=dtype, threads=threads, backend=backend, progress=progress)
