"""`open_checkpoint`: any checkpoint file to lazily read arrays, whatever its extension says."""

from __future__ import annotations

from pathlib import Path

from wingbeat.formats.lazy import Checkpoint, FormatError, LazyTensor, UnsupportedFormatError
from wingbeat.formats.pth import open_pth
from wingbeat.formats.safetensors import open_safetensors

__all__ = ["Checkpoint", "FormatError", "LazyTensor", "UnsupportedFormatError", "open_checkpoint"]

READABLE = "Wingbeat reads torch's .pth files and .safetensors files."

# The legacy format begins with a pickle of this number (protocol 2, LONG1 of ten bytes).
_LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_RESAVE = (
    "python -c \"import torch; torch.save(torch.load('old.pth', map_location='cpu', weights_only=True), 'new.pth')\""
)

_NOT_YET = {  # first bytes: what such a file is and what to do
    b"GGUF": "a GGUF file (llama.cpp). Use the model's .pth or .safetensors file",
    b"fmgg": "an rwkv.cpp file. Use the model's .pth or .safetensors file",
    _LEGACY_TORCH: f"a torch checkpoint in the old format without a zip archive. Convert it once:\n    {_RESAVE}",
}
_NEVER = {
    b"version https://git-lfs": "a Git LFS pointer, not the model itself. Run `git lfs pull` or download the model",
    b"<!DOCTYPE": "a Web page, not a model: the download went wrong. Download the file again",
    b"<html": "a Web page, not a model: the download went wrong. Download the file again",
}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a torch `.pth` or a `.safetensors` file, told apart by their content.

    Reads the table of contents only. Raises FormatError if there is no such file, or if it is damaged or of another
    kind, and its subclass UnsupportedFormatError if that kind is known but not read yet.
    """
    path = Path(path)
    head = _first_bytes(path)
    for magic, description in _NOT_YET.items():
        if head.startswith(magic):
            raise UnsupportedFormatError(f"{path} is not yet supported: found {description}.")
    for magic, description in _NEVER.items():
        if head.startswith(magic):
            raise FormatError(f"{path} is {description}.")
    if head.startswith(b"PK\x03\x04"):
        return open_pth(path)
    if head[8:9] == b"{":
        return open_safetensors(path)
    if not head:
        raise FormatError(f"{path} is empty: download or copy it again.")
    raise FormatError(f"{path} is not a checkpoint: it begins with {head[:8].hex(' ')}. {READABLE}")


def _first_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise FormatError(f"{path} is a folder: {_models_inside(path)}")
        if not path.exists():
            raise FormatError(f"{path} does not exist: check the path of the model file.")
        if not path.is_file():
            raise FormatError(f"{path} is not a regular file: give the path of a model file.")
        with path.open("rb") as file:
            return file.read(64)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{str(path)!r} cannot be read: {error}") from error


def _models_inside(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.suffix in (".pth", ".safetensors"))
    if not names:
        return "give the path of a .pth or .safetensors file."
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"give one of the model files in it: {', '.join(names[:5])}{more}."
