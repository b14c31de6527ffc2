"""What the `convert` command does: write any model that can be read as `.safetensors` or as Ai00's `.st`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

from wingbeat.config import load_settings
from wingbeat.formats.checkpoint import open_checkpoint
from wingbeat.formats.lazy import LazyTensor
from wingbeat.formats.safetensors import write_safetensors
from wingbeat.hub.names import stem
from wingbeat.library.listing import size_of
from wingbeat.models.architecture import ARCHITECTURES
from wingbeat.models.layouts import to_official
from wingbeat.models.layouts.norms import METADATA_KEY
from wingbeat.models.layouts.web_rwkv import from_official
from wingbeat.models.loader import load_checkpoint
from wingbeat.models.tuned_states import TIME_STATE
from wingbeat.progress import progress_bar
from wingbeat.text.vocab import own_vocab

ENDINGS = (".safetensors", ".st")
DTYPES = {each.name: each for each in map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16))}


def run(
    source: str,
    target: Path | None = None,
    *,
    dtype: str | None = None,
    force: bool = False,
    models_dir: Path | None = None,
    config: Path | None = None,
) -> Path:
    """Convert ``source``, a path or a name, to ``target``, by default beside it as `.st`; returns where it is.

    Raises ConfigError, ValueError or OSError with a message for the user.
    """
    path = load_settings({"model": source, "models_dir": models_dir}, config).model_path()
    target = target.expanduser() if target is not None else path.with_name(f"{stem(path.name)}.st")
    kind = target.suffix.lower()
    if kind not in ENDINGS:
        raise ValueError(f"{target} should end in .safetensors (official names) or .st (web-rwkv, Ai00)")
    if target.exists() and (not force or target.is_dir()):
        raise ValueError(f"{target} is there already: name another file, or replace it with --force")
    number = _number_format(kind, dtype)
    tensors, metadata = read(path, web_rwkv=kind == ".st")
    _check_space(tensors, number, target.absolute().parent)
    with progress_bar(f"Writing {target.name}", in_bytes=True, plain=True) as show:
        write_safetensors(target, tensors, metadata, dtype=number, progress=show)
    _report(path, target)
    return target


def read(path: Path, *, web_rwkv: bool) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors to be written, still in their file, and the remarks. Raises ValueError or OSError.

    What a model does not use stays behind, with a warning, but for what its version is known to carry unused.
    """
    loaded, checkpoint = load_checkpoint(path), open_checkpoint(path)  # the one is checked, the other has all
    unused = ARCHITECTURES[loaded.version].UNUSED
    tensors = {
        name: tensor
        for name, tensor in to_official(checkpoint).items()
        if name in loaded.tensors or name in unused or name.endswith(f".{TIME_STATE}")
    }
    metadata = checkpoint.metadata if checkpoint.container == "safetensors" else {}  # others describe their own layout
    if loaded.gn_eps is not None:
        metadata = metadata | {METADATA_KEY: repr(loaded.gn_eps)}
    if not web_rwkv:
        return tensors, dict(metadata)
    return from_official(tensors, loaded.version), {"format": "pt", **metadata}


def _number_format(kind: str, dtype: str | None) -> np.dtype | None:
    """What is written; None: as it is stored."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype: choose {', '.join(DTYPES)}, not {dtype!r}")
    if kind == ".st":
        if dtype not in (None, "float16"):
            raise ValueError(f"a .st file holds float16, not {dtype}: web-rwkv and Ai00 read nothing else")
        return DTYPES["float16"]
    return DTYPES[dtype] if dtype else None


def _check_space(tensors: dict[str, LazyTensor], number: np.dtype | None, folder: Path) -> None:
    need = sum(tensor.size * (number or tensor.dtype).itemsize for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ValueError(f"this needs {need / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB free")


def _report(path: Path, target: Path) -> None:
    print(f"{target.name}: {size_of(target) / 1e6:,.0f} MB", file=sys.stderr)
    vocabulary = own_vocab(path)
    if vocabulary is not None and own_vocab(target) is None:
        wanted = f"{target.stem}.vocab.txt"
        print(
            f"The model has a vocabulary of its own: copy {vocabulary} to {target.with_name(wanted)}", file=sys.stderr
        )
