"""The figures of ``wingbeat bench`` for people to read."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from wingbeat.bench.measure import Figure
from wingbeat.bench.profile import WKV, ProfileRow


def speed_table(figures: Sequence[Figure]) -> Table:
    """A line for each case."""
    first = figures[0]
    kernels = f"{first.level} kernels, {first.threads} threads" if first.level else "NumPy reference"
    table = Table(
        title=f"{first.model}, {first.dtype}, {kernels}",
        caption=f"Shares are of what this machine reached beside each figure: reading, multiplying in {first.dtype}.",
        box=SIMPLE_HEAD,  # with the narrow padding it fits a terminal of 80 columns
        collapse_padding=True,
        pad_edge=False,
    )
    _add_columns(table, "tokens/s", "ms a step", "of bandwidth", "of peak")
    for figure in figures:
        table.add_row(
            figure.what,
            f"{figure.tok_s:,.1f}",
            _ms(figure.seconds),
            _share(figure.bandwidth_share, figure.bandwidth_gb_s, "GB/s"),
            _share(figure.gemm_share, figure.peak_gflop_s, "GFLOP/s"),
        )
    return table


def profile_table(rows: Sequence[ProfileRow]) -> Table:
    """Where a step of one case spends its time: a line for each kind of op."""
    first = rows[0]
    table = Table(
        title=f"{first.what}: {_ms(first.plain_seconds)} ms a step, {_ms(first.step_seconds)} ms with the profile\n"
        f"{first.model}, {first.dtype}, {first.level} kernels, {first.threads} threads",
        caption=_caption(rows),
        box=SIMPLE_HEAD,  # fits a terminal of 80 columns
    )
    _add_columns(table, "share", "ms", "GB/s", "of reads", "GFLOP/s", "of peak")
    for row in rows:
        table.add_row(
            row.op,
            f"{row.share:.1%}",
            f"{row.seconds * 1000:,.3f}",
            _number(row.gb_s),
            _percent(row.bandwidth_share),
            _number(row.gflop_s),
            _percent(row.gemm_share),
        )
    return table


def _caption(rows: Sequence[ProfileRow]) -> str:
    text = f"of reads: memory reads {rows[0].bandwidth_gb_s:,.1f} GB/s; of peak: in each matrix's own format"
    for row in rows:
        if row.op == WKV and row.bandwidth_share and row.what.startswith("decode"):
            text += f"\n{WKV}: {1 / row.bandwidth_share:.2f} times the time that reading their bytes takes"
    return text


def _add_columns(table: Table, *headings: str) -> None:
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _share(share: float | None, limit: float | None, unit: str) -> str:
    return "-" if share is None or limit is None else f"{share:.0%} of {limit:,.0f} {unit}"
