"""The command line. Each command is one module here and hands over to the module that does the work."""

from __future__ import annotations

from typing import Annotated

import typer

from wingbeat.cli import bench, chat, doctor, quantize, serve

app = typer.Typer(
    help="Wingbeat runs RWKV models: a chat in the terminal, or a server with OpenAI's API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXAMPLES = """\
First steps:
  wingbeat chat                 talk with the small bundled demo model
  wingbeat chat model.pth       talk with a model of yours
  wingbeat serve model.pth      serve it to OpenAI clients
  wingbeat doctor               when something is slow or fails
"""


def _show_version(wanted: bool) -> None:
    if wanted:
        from wingbeat.config import version  # imports pydantic: not for --help

        typer.echo(f"wingbeat {version()}")
        raise typer.Exit


@app.callback(epilog=EXAMPLES)
def _root(
    show: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.command("chat", epilog=chat.EXAMPLES)(chat.chat)
app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("quantize", epilog=quantize.EXAMPLES)(quantize.quantize)
app.command("bench", epilog=bench.EXAMPLES)(bench.bench)


def main() -> None:
    """The entry point of the `wingbeat` command."""
    app()
