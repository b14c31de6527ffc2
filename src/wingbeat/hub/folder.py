"""The models folder: what `wingbeat pull` fetches goes there, and a model in it is known by its name."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

from wingbeat.demo import DEMO, demo_model_path
from wingbeat.hub.catalogue import find
from wingbeat.hub.names import MODEL_ENDINGS, listed, matching

PART = ".part"
"""What the name of an unfinished download ends in."""


FOLDER_VARIABLE = "WINGBEAT_MODELS_DIR"
"""Of the environment; it names the models folder."""


class NoSuchModelError(ValueError, FileNotFoundError):
    """There is no such file and no model of that name; the message says what to do."""


def models_folder(named: str | Path | None = None) -> Path:
    """``named``, else what the environment names, else the user's own, such as ~/.local/share/wingbeat/models."""
    if chosen := named or os.environ.get(FOLDER_VARIABLE):
        return Path(chosen).expanduser()
    return user_data_path("wingbeat", appauthor=False) / "models"


def local_models(folder: Path) -> list[Path]:
    """The model files in ``folder``, by name, and the folders in it that hold one model in several files."""
    try:
        return sorted(path for path in folder.iterdir() if _is_model(path))
    except OSError:
        return []


def unfinished(folder: Path) -> list[Path]:
    """What was begun and not fetched to its end."""
    return sorted(folder.glob(f"*{PART}"))


def find_model(model: str | Path, folder: Path) -> Path:
    """What ``model`` means: "demo", a path, or the name of one in ``folder``, or a clear part of that.

    Raises NoSuchModelError; FileNotFoundError where this installation has no demo model.
    """
    model = str(model)
    if model == DEMO:
        return demo_model_path()
    path = Path(model).expanduser()
    if path.exists():
        return path
    if path.name != model:  # it has a folder: a path, not a name
        raise NoSuchModelError(f"There is no file {path}: name a model's file, such as a .pth, or its folder.")
    here = {found.name: found for found in local_models(folder)}
    match matching(model, here):
        case [name]:
            return here[name]
        case [_, *_] as names:
            raise NoSuchModelError(f"{model} could be any of {listed(names)} in {folder}: name one of them.")
    match [entry.name for entry in find(model)]:
        case [name]:
            raise NoSuchModelError(f"{model} is not here yet. To fetch it: wingbeat pull {name}")
        case [_, *_] as names:
            raise NoSuchModelError(f"{model} could be any of {listed(names)}. To fetch one: wingbeat pull NAME")
    raise NoSuchModelError(
        f"There is no file {path}: name a model's file, such as a .pth, or its folder, "
        "or one that `wingbeat list` shows."
    )


def _is_model(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.name.lower().endswith(MODEL_ENDINGS) or (path / "config.json").is_file()
