"""What the `list` command does: the models that are here and those of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from wingbeat.config import load_settings
from wingbeat.hub.catalogue import Entry, catalogue
from wingbeat.hub.folder import PART, local_models, unfinished
from wingbeat.hub.names import matching
from wingbeat.models.prefab import look_inside

Which = Literal["here", "published", "all"]

_CONTEXT = re.compile(r"ctx(\d+)(?![\dk])")


class Model(msgspec.Struct, frozen=True):
    """A line of the list. ``size``: bytes, of the whole file. ``here``: bytes that are in the models folder.

    ``note`` says what is wrong with what is here. None is unknown.
    """

    name: str
    version: str | None
    parameters: str | None
    context: int | None
    size: int
    here: int
    path: str | None = None
    note: str | None = None


def run(
    which: Which, query: str | None = None, *, models_dir: Path | None = None, config: Path | None = None, as_json: bool
) -> None:
    """Print the models whose names ``query`` may mean, or all. Raises ConfigError."""
    folder = load_settings({"models_dir": models_dir}, config).models_folder
    models = chosen(which, folder)
    if query is not None:
        names = set(matching(query, [model.name for model in models]))
        models = [model for model in models if model.name in names]
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(models)).decode())
    elif models:
        _print(models, folder)
    elif which == "here" and query is None:
        print(f"No models in {folder} yet. `wingbeat list --remote` shows what `wingbeat pull` can fetch.")
    else:
        print("No such models.")


def chosen(which: Which, folder: Path) -> list[Model]:
    """The models in ``folder``, those of the catalogue, or both."""
    here = {model.name: model for model in (*_unfinished(folder), *map(_local, local_models(folder)))}
    if which == "here":
        return list(here.values())
    published = [here.pop(entry.name, None) or _published(entry) for entry in catalogue().values()]
    return published if which == "published" else [*here.values(), *published]


def _local(path: Path) -> Model:
    size = size_of(path)
    entry = catalogue().get(path.name)
    if entry is None:
        found = _CONTEXT.search(path.name)
        version, parameters = _look_inside(path)
        return Model(path.name, version, parameters, int(found[1]) if found else None, size, size, str(path))
    note = None if size == entry.size else f"not the published file, which has {entry.size} bytes"
    return Model(path.name, entry.version, entry.parameters, entry.context, size, size, str(path), note)


def _unfinished(folder: Path) -> Iterator[Model]:
    for path in unfinished(folder):
        name = path.name.removesuffix(PART).rpartition(".")[0]
        size, entry = path.stat().st_size, catalogue().get(name)
        if entry is None:
            yield Model(name, None, None, None, size, size, str(path), "unfinished")
        else:
            yield Model(name, entry.version, entry.parameters, entry.context, entry.size, size, str(path), "unfinished")


def _published(entry: Entry) -> Model:
    return Model(entry.name, entry.version, entry.parameters, entry.context, entry.size, 0)


def _look_inside(path: Path) -> tuple[str | None, str | None]:
    """The version, and the number of parameters as file names have it."""
    try:
        checkpoint = look_inside(path)
    except (ValueError, OSError):  # `wingbeat info` says what is wrong with it
        return None, None
    count = checkpoint.info.parameters
    return checkpoint.version, f"{count / 1e9:.1f}B" if count >= 10**8 else f"{count / 1e6:.1f}M"


def size_of(path: Path) -> int:
    """Bytes of a model's file, or of all files in its folder."""
    files: Iterable[Path] = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _print(models: list[Model], folder: Path) -> None:
    """A table whose names, the widest column, come last, so that a narrow terminal breaks nothing but them."""
    rows = [("RWKV", "size", "context", "file", "here", "name"), *map(_row, models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, name in rows:
        print(*(cell.rjust(width) for cell, width in zip(cells, widths, strict=False)), name, sep="  ")
    if any(model.here for model in models):
        print(f"\nin {folder}")


def _row(model: Model) -> tuple[str, ...]:
    share = f"{model.here / model.size:.0%}" if model.here < model.size else "yes"
    return (
        model.version or "?",
        model.parameters or "?",
        str(model.context or "?"),
        f"{model.size / 1e9:.2f} GB",
        share if model.here else "",
        f"{model.name} ({model.note})" if model.note else model.name,
    )
