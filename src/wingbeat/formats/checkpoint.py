"""`open_checkpoint`: any checkpoint to lazily read arrays, whatever its name says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wingbeat.formats import gguf, rwkv_cpp, torch_legacy
from wingbeat.formats.folder import folder_of, open_folder
from wingbeat.formats.gguf import open_gguf
from wingbeat.formats.lazy import Checkpoint, FormatError, LazyTensor, UnsupportedFormatError
from wingbeat.formats.pth import open_pth
from wingbeat.formats.rwkv_cpp import open_rwkv_cpp
from wingbeat.formats.safetensors import open_safetensors
from wingbeat.formats.torch_legacy import open_torch_legacy

__all__ = ["Checkpoint", "FormatError", "LazyTensor", "UnsupportedFormatError", "open_checkpoint"]

READABLE = (
    "Wingbeat reads torch's .pth files, .safetensors and .st, GGUF, rwkv.cpp's .bin and the folders of Hugging Face"
)

_OPENERS: dict[bytes, Callable[[Path], Checkpoint]] = {  # by first bytes
    b"PK\x03\x04": open_pth,
    torch_legacy.MAGIC: open_torch_legacy,
    gguf.MAGIC: open_gguf,
    rwkv_cpp.MAGIC: open_rwkv_cpp,
}
_WEB_PAGE = "a Web page, not a model: the download went wrong. Download the file again"
_ARCHIVE = "a compressed archive: unpack it and give the model file in it"
_OLD_LLAMA = "a file in an old format of llama.cpp, which held no RWKV"
_NEVER = {
    b"version https://git-lfs": "a Git LFS pointer, not the model itself. Run `git lfs pull` or download the model",
    b"<!doctype": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"<?xml": _WEB_PAGE,
    b"\x1f\x8b": _ARCHIVE,
    b"7z\xbc\xaf": _ARCHIVE,
    b"rar!": _ARCHIVE,
    b"\xfd7zxz": _ARCHIVE,
    b"\x28\xb5\x2f\xfd": _ARCHIVE,
    b"tjgg": _OLD_LLAMA,
    b"lmgg": _OLD_LLAMA,
    b"wbpacked": "packed weights that wingbeat keeps to load faster: give the model that they were made from",
    b"1 '\\x00' 1": "a tokenizer's vocabulary, not a model",
    b"\x80": "a Python pickle, but not one of torch's files: refused, since such files can run code",
}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model file, told by its content, or a Hugging Face folder, named itself or by its config or index.

    Reads the table of contents only. Raises FormatError if there is no such file, or if it is damaged or of another
    kind, and its subclass UnsupportedFormatError if that kind is known but not read.
    """
    path = Path(path)
    try:
        folder = folder_of(path)
        return _open_file(path) if folder is None else open_folder(folder, _open_file)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{str(path)!r} cannot be read: {error}") from error


def _open_file(path: Path) -> Checkpoint:
    head = _first_bytes(path)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return opener(path)
    if head.startswith(b"{") and b"\0" not in head[:8]:
        raise FormatError(f"{path} is a JSON file (a tokenizer or settings?), not a model. {READABLE}.")
    if head[8:9] == b"{":
        return open_safetensors(path)
    for magic, description in _NEVER.items():
        if head.lstrip().lower().startswith(magic):
            raise FormatError(f"{path} is {description}.")
    if not head:
        raise FormatError(f"{path} is empty: download or copy it again.")
    raise FormatError(f"{path} is not a checkpoint: it begins with {head[:8].hex(' ')}. {READABLE}.")


def _first_bytes(path: Path) -> bytes:
    if not path.exists():
        raise FormatError(f"{path} does not exist: check the path of the model file.")
    if not path.is_file():
        raise FormatError(f"{path} is not a regular file: give the path of a model file.")
    with path.open("rb") as file:
        return file.read(64)
