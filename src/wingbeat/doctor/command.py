"""What the ``doctor`` command does: look at everything, print it, say whether the server could run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wingbeat.config import version
from wingbeat.doctor.finding import Finding, Status
from wingbeat.doctor.installation import look_at_installation
from wingbeat.doctor.machine import look_at_machine
from wingbeat.doctor.model import look_at_model
from wingbeat.doctor.serving import look_at_serving, look_at_settings
from wingbeat.progress import progress_bar

_STYLES: dict[Status, str] = {"ok": "green", "note": "yellow", "problem": "bold red"}


def run(model: str | None, config: Path | None, *, as_json: bool = False) -> bool:
    """Print the findings; returns whether the server could run here.

    ``model``: a file, "demo", or None for the one that the settings name.
    """
    with progress_bar("Looking at this machine"):
        findings = list(examine(model, config))
    if as_json:
        report = {"wingbeat": version(), "findings": findings}
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _print(findings)
    return not any(finding.status == "problem" for finding in findings)


def examine(model: str | None, config: Path | None) -> Iterator[Finding]:
    """Everything there is to find, from the machine up to the model."""
    yield from look_at_machine()
    yield from look_at_installation()
    settings, finding = look_at_settings(config)
    yield finding
    if settings is None:
        return
    if model is not None:
        settings.model = model
    yield from look_at_serving(settings)
    yield from look_at_model(settings)


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.status, _STYLES[finding.status]), finding.about, Text(finding.text))
        if finding.fix:
            table.add_row("", "", Text(f"fix: {finding.fix}", "bold"))
    console.print(table)
    count = sum(finding.status == "problem" for finding in findings)
    verdict = "Wingbeat can serve here." if not count else f"{count} of these keep{'s' * (count == 1)} it from serving."
    console.print(Text(f"\n{verdict}", "bold red" if count else "bold green"))
