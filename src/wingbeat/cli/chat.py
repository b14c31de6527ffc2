"""`wingbeat chat`: the flags of the conversation."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from wingbeat.cli.common import fail, files, model_files
from wingbeat.cli.model_options import (
    MODEL,
    Backend,
    CachePacked,
    DefaultState,
    Dtype,
    GnEps,
    Lora,
    ModelsDir,
    Profile,
    Quant,
    QuantLayers,
    State,
    Strategy,
    Threads,
    Tokenizer,
)

EXAMPLES = """\
Examples:
  wingbeat chat
  wingbeat chat /models/rwkv7-g1-0.4b.pth --dtype int8 --thinking
  wingbeat chat --system "Answer in one sentence."
  echo "What is RWKV?" | wingbeat chat > answer.txt
"""

_ANSWERS = "Answers"


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model's file or folder, or the name of one that was pulled. Default: the model of the "
            "settings, else the small bundled demo.",
            autocompletion=model_files,
        ),
    ] = None,
    dtype: Dtype = None,
    quant: Quant = None,
    quant_layers: QuantLayers = None,
    strategy: Strategy = None,
    threads: Threads = None,
    backend: Backend = None,
    cache_packed: CachePacked = None,
    gn_eps: GnEps = None,
    lora: Lora = None,
    state: State = None,
    default_state: DefaultState = None,
    tokenizer: Tokenizer = None,
    profile: Profile = None,
    models_dir: ModelsDir = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the settings of the model. Default: ./wingbeat.toml if present.",
            rich_help_panel=MODEL,
            autocompletion=files(".toml"),
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="What the model is told before the conversation.", rich_help_panel=_ANSWERS, metavar="TEXT"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="0 for the likeliest words, above 1 for bolder ones. Default: the model's.",
            metavar="X",
            rich_help_panel=_ANSWERS,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Share of likely words to draw from, 0 to 1. Default: the model's.",
            metavar="X",
            rich_help_panel=_ANSWERS,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="The longest answer. Default: 2048.", min=1, metavar="N", rich_help_panel=_ANSWERS),
    ] = None,
    thinking: Annotated[
        bool | None,
        typer.Option(
            "--thinking/--no-thinking",
            help="Let a model that can think do so before it answers. Default: as it likes.",
            metavar="",
            rich_help_panel=_ANSWERS,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed gives the same answers again. Default: random.", metavar="N", rich_help_panel=_ANSWERS
        ),
    ] = None,
    load: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Go on with a conversation that /save wrote.",
            rich_help_panel=_ANSWERS,
            autocompletion=files(".safetensors"),
        ),
    ] = None,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats",
            help="Say after each answer how much was read and how fast.",
            metavar="",
            rich_help_panel=_ANSWERS,
        ),
    ] = False,
) -> None:
    """Talk with a model in this terminal, without a server.

    The model keeps its memory between turns, so each reads only what is new.
    /help lists the commands: /reset, /system, /save, /load, /retry, /undo.
    Ctrl-C stops an answer, Ctrl-D leaves. From a pipe, each line is a message.
    """
    from wingbeat.chat.command import prepare
    from wingbeat.config import ConfigError

    if sys.stdin is None or sys.stdout is None:
        fail("chat needs an input and an output, and one of them is closed")
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # no byte of a pipe, no character for an old terminal is worth a crash
    try:
        session = prepare(
            {
                "model": model,
                "models_dir": models_dir,
                "dtype": dtype,
                "quant": quant,
                "quant_layers": quant_layers,
                "strategy": strategy,
                "threads": threads,
                "backend": backend,
                "cache_packed": cache_packed,
                "gn_eps": gn_eps,
                "loras": lora or None,
                "states": state or None,
                "default_state": default_state,
                "tokenizer": tokenizer,
                "profile": profile,
            },
            {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed},
            config,
            system=system,
            load=load,
            thinking=thinking,
            stats=stats,
        )
    except (ConfigError, ValueError, OSError, MemoryError) as error:
        fail(error)
    session.run()
