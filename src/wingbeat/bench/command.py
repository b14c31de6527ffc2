"""What the ``bench`` command does with its flags: load or make a model, measure, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console
from rich.table import Table

from wingbeat.bench.measure import Figure, Subject, choose_cases, load_subject, measure
from wingbeat.bench.random_model import SHAPES, save_random_model
from wingbeat.config import version
from wingbeat.demo import demo_model_path
from wingbeat.progress import progress_bar


def run(
    model: Path | None,
    shape: str | None,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    backend: str = "auto",
    what: Sequence[str] = (),
    seconds: float = 1.5,
    as_json: bool = False,
) -> None:
    """Measure the model in a file, a random one at a published shape, or without either the bundled demo.

    Raises ValueError or OSError with a message for the user when a flag or the model is of no use.
    """
    if model and shape:
        raise ValueError("give either a model file or --shape, not both")
    if shape is not None and shape not in SHAPES:
        raise ValueError(f"there is no shape {shape!r}: choose {', '.join(SHAPES)}")
    cases = choose_cases(what)
    subject = _load(model, shape, dtype, threads, backend)
    figures: list[Figure] = []
    for number, case in enumerate(cases, 1):
        with progress_bar(f"{case.what} ({number} of {len(cases)})"):
            figure = measure(subject, case, seconds, version())
        if as_json:
            print(msgspec.json.encode(figure).decode(), flush=True)
        figures.append(figure)
    if not as_json:
        Console().print(_table(figures))


def _load(model: Path | None, shape: str | None, dtype: str, threads: int | None, backend: str) -> Subject:
    with TemporaryDirectory(prefix="wingbeat-bench-", ignore_cleanup_errors=True) as folder:
        if shape is None:
            path = model or demo_model_path()
        else:
            path = Path(folder) / f"random-{shape}.safetensors"
            with progress_bar(f"Making a random model of {shape}") as progress:
                save_random_model(SHAPES[shape], path, progress=progress)
        with progress_bar(f"Loading {path.stem}", in_bytes=True) as progress:
            return load_subject(path, dtype=dtype, threads=threads, backend=backend, progress=progress)


def _table(figures: Sequence[Figure]) -> Table:
    first = figures[0]
    kernels = f"{first.level} kernels, {first.threads} threads" if first.level else "NumPy reference"
    table = Table(
        title=f"{first.model}, {first.dtype}, {kernels}",
        caption=f"Shares of what this machine reached beside each figure: reading, multiplying in {first.dtype}.",
    )
    table.add_column("", no_wrap=True)
    for heading in ("tokens/s", "ms a step", "share of bandwidth", "share of peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(
            figure.what,
            f"{figure.tok_s:,.1f}",
            f"{figure.seconds * 1000:,.2f}",
            _share(figure.bandwidth_share, figure.bandwidth_gb_s, "GB/s"),
            _share(figure.gemm_share, figure.peak_gflop_s, "GFLOP/s"),
        )
    return table


def _share(share: float | None, limit: float | None, unit: str) -> str:
    return "-" if share is None or limit is None else f"{share:.0%} of {limit:,.0f} {unit}"
