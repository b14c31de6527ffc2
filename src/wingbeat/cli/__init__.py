"""The command line. Each command is one module here and hands over to the module that does the work."""

from __future__ import annotations

from typing import Annotated

import typer

from wingbeat.cli import bench, chat, convert, doctor, info, list_models, pull, quantize, serve

app = typer.Typer(
    help="Wingbeat runs RWKV models: a chat in the terminal, or a server with OpenAI's API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXAMPLES = """\
First steps:
  wingbeat chat                 talk with the small bundled demo model
  wingbeat pull g1d-0.4b        fetch a real one
  wingbeat chat g1d-0.4b        talk with that, or with a file of yours
  wingbeat serve g1d-0.4b       serve it to OpenAI clients
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
app.command("pull", epilog=pull.EXAMPLES)(pull.pull)
app.command("list", epilog=list_models.EXAMPLES)(list_models.list_models)
app.command("info", epilog=info.EXAMPLES)(info.info)
app.command("convert", epilog=convert.EXAMPLES)(convert.convert)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("quantize", epilog=quantize.EXAMPLES)(quantize.quantize)
app.command("bench", epilog=bench.EXAMPLES)(bench.bench)


def main() -> None:
    """The entry point of the `wingbeat` command."""
    app()
