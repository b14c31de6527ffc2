"""`wingbeat doctor`: the flags of the examination."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingbeat.cli.common import files, model_files

EXAMPLES = """\
Examples:
  wingbeat doctor
  wingbeat doctor /models/rwkv7-g1-0.4b.pth
  wingbeat doctor --json > report.json
"""


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model's file or folder to look at, too, or the name of one that was pulled. "
            "Default: the one that would be served.",
            autocompletion=model_files,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the server's settings. Default: ./wingbeat.toml if present.",
            autocompletion=files(".toml"),
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print JSON, for a bug report; it holds no keys.")
    ] = False,
) -> None:
    """Say what this machine has, what is missing and how to fix it.

    It looks at the processor, the memory, the kernels, the settings, the
    port and the model. It ends with status 1 when something keeps the server
    from running.
    """
    from wingbeat.doctor.command import run

    if not run(model, config, as_json=as_json):
        raise typer.Exit(1)
