"""`wingbeat list`: the flags of the list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingbeat.cli.common import fail, files
from wingbeat.cli.model_options import ModelsDir

EXAMPLES = """\
Examples:
  wingbeat list
  wingbeat list --remote
  wingbeat list --remote "g1d 1.5b"
  wingbeat list --all --json
"""


def list_models(
    name: Annotated[
        str | None,
        typer.Argument(help="Only models whose names have this in them. Default: all.", metavar="[NAME]"),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="What `wingbeat pull` can fetch, in place of what is here.", metavar="")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Both.", metavar="")] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON; sizes are in bytes.")] = False,
    models_dir: ModelsDir = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the settings. Default: ./wingbeat.toml if present.",
            autocompletion=files(".toml"),
        ),
    ] = None,
) -> None:
    """List the models that are here, or that can be fetched.

    With the RWKV version, the parameters, the length of text that each was
    trained on in tokens, and the size of the file.
    """
    from wingbeat.config import ConfigError
    from wingbeat.library.listing import run

    which = "all" if everything else "published" if remote else "here"
    try:
        run(which, name, models_dir=models_dir, config=config, as_json=as_json)
    except ConfigError as error:
        fail(error)
