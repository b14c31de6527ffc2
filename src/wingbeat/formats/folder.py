"""Hugging Face's folders: `config.json` and one file of weights, or several with an index that says where each lies.

What the index names must be files of the folder itself: a name with a path in it is refused, and so is a link that
leads out of the folder, but for the hub's own cache, whose files are links into the `blobs` beside `snapshots`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wingbeat.formats.lazy import DAMAGED, Checkpoint, FormatError, LazyTensor

CONFIG = "config.json"
INDEX = ".index.json"
SNAPSHOTS = "snapshots"  # in the hub's cache: models--OWNER--NAME/snapshots/REVISION
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MODEL_SUFFIXES = (".pth", ".safetensors", ".st", ".gguf", ".bin")
MAX_INDEX, MAX_CONFIG = 16 << 20, 1 << 20  # bytes
MAX_SHARDS = 1000

Open = Callable[[Path], Checkpoint]


def open_folder(folder: Path, open_file: Open) -> Checkpoint:
    """The tensors of all its weight files together; the entries of `config.json`, as JSON but for texts, in `metadata`.

    Raises FormatError if a file is missing or damaged, or lies elsewhere.
    """
    config = _read_json(folder, CONFIG, MAX_CONFIG) if (folder / CONFIG).exists() else {}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    for name in WEIGHTS:
        if (folder / (name + INDEX)).exists():
            tensors, container = _sharded(folder, name + INDEX, open_file)
        elif (folder / name).exists():
            checkpoint = open_file(_inside(folder, name))
            tensors, container = checkpoint, checkpoint.container
        else:
            continue
        return Checkpoint(folder, tensors, metadata, container)
    raise FormatError(f"{folder} is a folder without {' or '.join(WEIGHTS)}: {_models_inside(folder)}")


def folder_of(path: Path) -> Path | None:
    """The folder that a path means: itself, or that of the config or index which it names; None for other files."""
    if path.is_dir():
        return path
    return path.parent if path.name == CONFIG or path.name.endswith(INDEX) else None


def model_name(path: Path) -> str:
    """What a model is called: as its file without the extension, or as its folder; in the hub's cache, as there."""
    folder = folder_of(path)
    if folder is None:
        return path.stem
    home = folder.absolute()
    return home.parent.parent.name.rpartition("--")[2] if home.parent.name == SNAPSHOTS else home.name


def model_files(path: Path) -> list[Path]:
    """The files that a model consists of: its one, or all of its folder."""
    folder = folder_of(path)
    return [path] if folder is None else sorted(file for file in folder.iterdir() if file.is_file())


def _sharded(folder: Path, index: str, open_file: Open) -> tuple[dict[str, LazyTensor], str]:
    places = _read_json(folder, index, MAX_INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise FormatError(f"{folder / index} does not say in its weight_map which file has which tensor: {DAMAGED}")
    names = sorted(set(places.values()))
    if len(names) > MAX_SHARDS:
        raise FormatError(
            f"{folder / index} names {len(names):,} files; more than {MAX_SHARDS:,} is no model's: refused"
        )
    shards = {name: open_file(_inside(folder, name)) for name in names}
    for name, shard in places.items():
        if name not in shards[shard]:
            raise FormatError(f"{folder / shard} lacks tensor {name[:100]!r}, which {index} promises: {DAMAGED}")
    return {name: shards[shard][name] for name, shard in places.items()}, shards[names[0]].container


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder. Raises FormatError for one elsewhere, and for what is no file."""
    if not name or name in (".", "..") or any(sign in name for sign in "/\\:\0"):
        raise FormatError(f"{folder} refers to the file {name[:100]!r}, which is not a plain name in it: refused")
    path = folder / name
    try:
        target, home = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise FormatError(f"{path} is missing ({error}): download it, too") from error
    blobs = home.parent.parent / "blobs" if home.parent.name == SNAPSHOTS else home
    if not (target.is_relative_to(home) or target.is_relative_to(blobs)):
        raise FormatError(f"{path} is a link that leads out of its folder, to {target}: refused. Copy the file instead")
    if not target.is_file():
        raise FormatError(f"{path} is not a regular file")
    return path


def _read_json(folder: Path, name: str, limit: int) -> Mapping[str, Any]:
    path = _inside(folder, name)
    try:
        with path.open("rb") as file:
            text = file.read(limit + 1)
        if len(text) > limit:
            raise FormatError(f"{path} has more than {limit:,} bytes, which no model's has: refused")
        value = json.loads(text.decode())
    except FormatError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read as JSON ({str(error)[:200]}): {DAMAGED}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} is not a JSON object: {DAMAGED}")
    return value


def _models_inside(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.suffix in MODEL_SUFFIXES)
    if not names:
        return "give the path of a model file."
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"give one of the model files in it: {', '.join(names[:5])}{more}."
