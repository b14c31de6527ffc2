"""`wingbeat quantize`: packs a model once, for starts that only map it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingbeat.cli.common import fail, files, model_files
from wingbeat.cli.model_options import Dtype, GnEps, Lora, ModelsDir, Quant, QuantLayers, Strategy, Threads

EXAMPLES = """\
Examples:
  wingbeat quantize model.pth model-int8.prefab
  wingbeat quantize model.pth model-int4.prefab --dtype int4
  wingbeat quantize model.pth mixed.prefab --quant int8 --quant-layers 20
"""


def quantize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="The model: a file, a Hugging Face folder, or the name of a model that was pulled.",
            autocompletion=model_files,
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.", autocompletion=files(".prefab"))],
    dtype: Dtype = None,
    quant: Quant = None,
    quant_layers: QuantLayers = None,
    strategy: Strategy = None,
    lora: Lora = None,
    gn_eps: GnEps = None,
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there already.", metavar="")] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Pack a model in a smaller dtype and save it: a .prefab file.

    All commands take it in place of the model and map it, which takes a
    fraction of the time of loading. It holds what the original needs to be
    run, adapters included, and fits the version of wingbeat that wrote it.
    Without --dtype, --quant and --strategy the weights are int8.
    """
    from wingbeat.config import AdapterSettings, ConfigError, load_settings, parse_adapter
    from wingbeat.models import quantize_model
    from wingbeat.progress import progress_bar

    if target.exists() and not force:
        fail(f"{target} is there already: choose another name, or write over it with --force")
    chosen = dtype or ("auto" if quant or strategy else "int8")
    try:
        path = load_settings({"model": source, "models_dir": models_dir}).model_path()
        adapters = [AdapterSettings.model_validate(parse_adapter(each)).adapter for each in lora or ()]
        with progress_bar(f"Packing {path.name}", in_bytes=True) as progress:
            size, precision = quantize_model(
                *(path, target),
                dtype=chosen,
                quant=quant,
                quant_layers=quant_layers,
                strategy=strategy,
                threads=threads,
                gn_eps=gn_eps,
                adapters=adapters,
                progress=progress,
            )
    except (ConfigError, ValueError, OSError, MemoryError) as error:
        fail(error)
    typer.echo(f"{target}: {size / 1e6:,.0f} MB in {precision}")
