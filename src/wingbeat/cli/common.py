"""What the commands share: the values that a shell can complete, and how a mistake is told.

Nothing heavy is imported before it is needed: `--help` and the Tab key should answer at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, get_args

import typer

Complete = Callable[[str], list[str]]

_TO_QUOTE = re.compile(r"[^\w@%+=:,./~-]")


def fail(error: object) -> NoReturn:
    """Tell the user what went wrong, in red, and end with status 1."""
    if isinstance(error, BrokenPipeError):  # `| head` has seen enough: nothing went wrong
        raise error
    if isinstance(error, MemoryError):
        error = "the model does not fit in memory: try --dtype int4; `wingbeat doctor FILE` tells what each dtype needs"
    elif isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror}"
    typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)


def choices_of(setting: str) -> Complete:
    """Completes a setting that takes one of a few words."""

    def complete(incomplete: str) -> list[str]:
        from wingbeat.config import Settings

        return _beginning(get_args(Settings.model_fields[setting].annotation), incomplete)

    return complete


def profiles(incomplete: str) -> list[str]:
    from wingbeat.text.profile import PROFILES

    return _beginning(PROFILES, incomplete)


def tokenizers(incomplete: str) -> list[str]:
    from wingbeat.text.choose import NAMES

    return [*_beginning(NAMES, incomplete), *files(".txt", ".json")(incomplete)]


def shapes(incomplete: str) -> list[str]:
    from wingbeat.bench.random_model import SHAPES

    return _beginning(SHAPES, incomplete)


def files(*suffixes: str) -> Complete:
    """Completes paths of files that end in one of ``suffixes``, and of the folders on the way."""

    def complete(incomplete: str) -> list[str]:
        found = _paths(incomplete, suffixes)
        # A shell takes a single candidate for the whole word and adds a space; a folder is only the way to it.
        while len(found) == 1 and found[0].endswith("/"):
            found = _paths(inside := found[0], suffixes)
            if not found:
                found = [inside]
                break
        # bash takes candidates as they are; without any it completes file names by itself, and quotes them.
        in_bash = os.environ.get("_WINGBEAT_COMPLETE") == "complete_bash"
        return [] if in_bash and any(map(_TO_QUOTE.search, found)) else found

    return complete


def model_files(incomplete: str) -> list[str]:
    """Completes paths of model files, and names of those in the models folder."""
    from wingbeat.hub.names import MODEL_ENDINGS

    return [*files(*MODEL_ENDINGS)(incomplete), *model_names(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Completes names of models in the models folder that the environment names, or the default one."""
    from wingbeat.hub.folder import local_models, models_folder
    from wingbeat.hub.names import stem

    return _beginning([stem(path.name) for path in local_models(models_folder())], incomplete)


def catalogue_names(incomplete: str) -> list[str]:
    from wingbeat.hub.catalogue import catalogue

    return _beginning(catalogue(), incomplete)


def _beginning(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    name = incomplete.rpartition("/")[2]
    shown = incomplete[: len(incomplete) - len(name)]  # the folder as it was typed
    hidden = name.startswith(".")
    try:
        entries = sorted(Path(shown or ".").expanduser().iterdir())
    except OSError:
        return []
    found = []
    for entry in entries:
        if entry.name.startswith(name) and (hidden or not entry.name.startswith(".")):
            if entry.is_dir():
                found.append(f"{shown}{entry.name}/")
            elif entry.name.endswith(suffixes):
                found.append(f"{shown}{entry.name}")
    return found
