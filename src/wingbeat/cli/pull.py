"""`wingbeat pull`: the flags of the download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingbeat.cli.common import catalogue_names, fail, files
from wingbeat.cli.model_options import ModelsDir

EXAMPLES = """\
Examples:
  wingbeat pull rwkv7-g1d-0.4b
  wingbeat pull g1d-1.5b --models-dir /models
  wingbeat pull g1d-1.5b --hub https://hf-mirror.com
  wingbeat pull BlinkDL/rwkv7-g1/rwkv7-g1-0.4b-20250324-ctx4096.pth
"""


def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="A model of the catalogue (`wingbeat list --remote`), or a clear part of its name; "
            "or owner/repository/file of the hub.",
            metavar="NAME",
            autocompletion=catalogue_names,
        ),
    ],
    file: Annotated[
        str | None,
        typer.Option(help="The file, where NAME is only owner/repository.", metavar="FILE"),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(
            help="A mirror in place of https://huggingface.co; also WINGBEAT_HUB or HF_ENDPOINT.", metavar="ADDRESS"
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit of the repository. Default: main.", metavar="NAME")
    ] = None,
    models_dir: ModelsDir = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file of that name that is there already.", metavar="")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the settings. Default: ./wingbeat.toml if present.",
            autocompletion=files(".toml"),
        ),
    ] = None,
) -> None:
    """Fetch a model and verify it.

    It prints where the model is; `wingbeat chat` and `wingbeat serve` take
    its name. What was interrupted goes on where it stopped, and a file that
    is damaged does not stay. HF_TOKEN gives access to what is not public.
    """
    from wingbeat.config import ConfigError
    from wingbeat.hub.download import DownloadError
    from wingbeat.library.pull import run

    try:
        path = run(name, file, hub=hub, revision=revision, models_dir=models_dir, force=force, config=config)
    except (ConfigError, DownloadError, ValueError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    typer.echo(path)
