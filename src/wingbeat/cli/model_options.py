"""The flags that say how a model is loaded, the same for every command that takes them from the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wingbeat.cli.common import choices_of, files, profiles, tokenizers

MODEL = "Model"
"""The panel of the help in which they stand."""

ModelsDir = Annotated[
    Path | None,
    typer.Option(
        help="Where models are kept and found by name; also WINGBEAT_MODELS_DIR. Default: in the user's data folder.",
        rich_help_panel=MODEL,
        metavar="FOLDER",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, int8 (half the memory), int4 (a quarter, less exact), nf4, sf4 (as int4) or auto.",
        rich_help_panel=MODEL,
        metavar="TYPE",
        autocompletion=choices_of("dtype"),
    ),
]
Quant = Annotated[
    str | None,
    typer.Option(
        help="int8, int4, nf4 or sf4 for the matrices of layers; the head and all else stay in --dtype.",
        rich_help_panel=MODEL,
        metavar="TYPE",
        autocompletion=choices_of("quant"),
    ),
]
QuantLayers = Annotated[
    int | None,
    typer.Option(
        help="--quant for so many layers, from the first on. Default: all.", metavar="N", rich_help_panel=MODEL
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        help="In place of --dtype and --quant: the rwkv package's words, such as 'cuda fp16i8 *10 -> cuda fp16'. "
        "What they become here is logged.",
        metavar="TEXT",
        rich_help_panel=MODEL,
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads. Default: the physical cores.", metavar="N", rich_help_panel=MODEL)
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="cpu (C++), reference (NumPy, slow) or auto.",
        rich_help_panel=MODEL,
        metavar="NAME",
        autocompletion=choices_of("backend"),
    ),
]
CachePacked = Annotated[
    bool | None,
    typer.Option(
        "--cache-packed/--no-cache-packed",
        help="Keep the packed weights on disk, so that the next start only maps them. Default: no. "
        "They go to the user's cache folder, or to WINGBEAT_CACHE; `wingbeat doctor` shows it.",
        rich_help_panel=MODEL,
        metavar="",
    ),
]
GnEps = Annotated[
    float | None,
    typer.Option(
        help="Epsilon of the GroupNorms. Default: told by the model's file, else 64e-5.",
        metavar="X",
        rich_help_panel=MODEL,
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        help="A LoRA, DoRA, PiSSA or DiSHA file to merge into the model; repeat it for several. "
        "Its alpha is not in the file: FILE,alpha=64. Default: its rank.",
        rich_help_panel=MODEL,
        metavar="FILE[,alpha=N]",
        autocompletion=files(".pth", ".safetensors", ".lora", ".st"),
    ),
]
State = Annotated[
    list[str] | None,
    typer.Option(
        help="A tuned initial state that requests may begin from, by its name; repeat it for several.",
        rich_help_panel=MODEL,
        metavar="[NAME=]FILE",
        autocompletion=files(".pth", ".safetensors", ".state", ".st"),
    ),
]
DefaultState = Annotated[
    str | None,
    typer.Option(
        help="Name of the state for requests that name none. Default: the one in the model's file, if there is one.",
        rich_help_panel=MODEL,
        metavar="NAME",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="A vocabulary file (World format or tokenizer.json), or world, 20b, midi, piano, abc, bytes. "
        "Default: found from the model.",
        rich_help_panel=MODEL,
        metavar="FILE",
        autocompletion=tokenizers,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        help="How to chat with the model: world, g1, demo, raven, or plain (no chat). Default: found from the model.",
        rich_help_panel=MODEL,
        metavar="NAME",
        autocompletion=profiles,
    ),
]
