"""`wingbeat info`: the flags of the description."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingbeat.cli.common import fail, files, model_files
from wingbeat.cli.model_options import ModelsDir

EXAMPLES = """\
Examples:
  wingbeat info /models/rwkv7-g1-0.4b.pth
  wingbeat info g1d-0.4b --tensors
  wingbeat info g1d-0.4b --json
"""


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model file, or the name of a model that was pulled. Default: the one that would be served.",
            metavar="[FILE]",
            autocompletion=model_files,
        ),
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List the tensors, by their official names.", metavar="")
    ] = False,
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
    """Say what a model file holds and how much memory it needs.

    The RWKV version, the sizes, the vocabulary, and for each --dtype the
    memory that the weights take, and that each sequence adds. Nothing is
    loaded, so that it takes a moment for a file of any size.
    """
    from wingbeat.config import ConfigError
    from wingbeat.library.info import run

    try:
        run(model, models_dir=models_dir, config=config, with_tensors=tensors, as_json=as_json)
    except (ConfigError, ValueError, OSError) as error:
        fail(error)
