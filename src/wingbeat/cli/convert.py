"""`wingbeat convert`: the flags of the conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingbeat.cli.common import fail, files, model_files
from wingbeat.cli.model_options import ModelsDir

EXAMPLES = """\
Examples:
  wingbeat convert model.pth model.safetensors
  wingbeat convert model.pth model.st
  wingbeat convert model.gguf model.safetensors --dtype bfloat16
  wingbeat convert --input model.pth --output model.st
"""

_PATHS = files(".safetensors", ".st")


def convert(
    source: Annotated[
        str | None,
        typer.Argument(
            help="The model: a file, a Hugging Face folder, or the name of a model that was pulled.",
            metavar="IN",
            autocompletion=model_files,
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Argument(
            help="What to write, ending in .safetensors or .st. Default: IN with the ending .st.",
            metavar="[OUT]",
            autocompletion=_PATHS,
        ),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", help="Another way to say IN.", metavar="FILE", autocompletion=model_files),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Another way to say OUT.", metavar="FILE", autocompletion=_PATHS),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, float16 or bfloat16. Default: as it is; .st is always float16.", metavar="TYPE"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there already.", metavar="")] = False,
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
    """Write a model in another format.

    As .safetensors with the official names, which most programs read, or as
    .st in float16 with the names and the orientation that web-rwkv and Ai00
    want. One tensor after the other, so that it takes little memory.
    """
    from wingbeat.config import ConfigError
    from wingbeat.library.convert import run

    if (source is None) == (input_ is None) or (target is not None and output is not None):
        fail("name one model and at most one file to write: wingbeat convert IN [OUT]")
    try:
        path = run(
            source or input_ or "",
            target or output,
            dtype=dtype,
            force=force,
            models_dir=models_dir,
            config=config,
        )
    except (ConfigError, ValueError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("Stopped. Nothing was written.", err=True)
        raise typer.Exit(130) from None
    typer.echo(path)
