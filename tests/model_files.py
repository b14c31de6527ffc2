"""Writes GGUF and rwkv.cpp files and Hugging Face folders in a few lines, so that tests can also write wrong ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from wingbeat.formats.safetensors import save_safetensors

Value = str | int | float | bool | Sequence[bytes]
Stored = np.ndarray | tuple[int, tuple[int, ...], bytes]
"""An array, or a tensor's type number, shape and bytes."""

GGUF_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 30}
ALIGNMENT = 32


def gguf_text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(gguf_text(text) for text in value)


def gguf_header(keys: Mapping[str, bytes], entries: Sequence[bytes]) -> bytes:
    """Keys with their encoded values, and tensors' entries, of a little-endian file of version 3."""
    start = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys))
    return start + b"".join(gguf_text(key) + value for key, value in keys.items()) + b"".join(entries)


def gguf_entry(name: str, shape: Sequence[int], code: int, offset: int) -> bytes:
    dims = struct.pack(f"<{len(shape)}Q", *reversed(shape))
    return gguf_text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", code, offset)


def write_gguf(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, Value]) -> Path:
    entries, data = [], b""
    for name, stored in tensors.items():
        code, shape, raw = (
            stored if isinstance(stored, tuple) else (GGUF_TYPES[stored.dtype], stored.shape, stored.tobytes())
        )
        entries.append(gguf_entry(name, shape, code, len(data)))
        data += raw + bytes(-len(raw) % ALIGNMENT)
    header = gguf_header({key: gguf_value(value) for key, value in metadata.items()}, entries)
    path.write_bytes(header + bytes(-len(header) % ALIGNMENT) + data)
    return path


def write_rwkv_cpp(path: Path, tensors: Mapping[str, Stored], version: int = 101) -> Path:
    content = b"fmgg" + struct.pack("<5I", version, 0, 0, 0, 0)
    for name, stored in tensors.items():
        code, shape, raw = (
            stored if isinstance(stored, tuple) else (GGUF_TYPES[stored.dtype], stored.shape, stored.tobytes())
        )
        content += struct.pack(f"<3I{len(shape)}I", len(shape), len(name.encode()), code, *reversed(shape))
        content += name.encode() + raw
    path.write_bytes(content)
    return path


def write_folder(
    folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, object], shards: int = 1
) -> Path:
    """`model.safetensors` and `config.json`, or as many shards and their index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
        return folder
    weight_map = {}
    for index in range(shards):
        name = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[index::shards])
        save_safetensors(folder / name, part, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def q8_0(array: np.ndarray) -> tuple[int, tuple[int, ...], bytes]:
    """The array as GGUF's Q8_0: blocks of 32 with one scale."""
    blocks = array.astype(np.float32).reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
    divisor = np.where(scale == 0, 1, scale).astype(np.float32)
    numbers = np.clip(np.rint(blocks / divisor), -127, 127).astype(np.int8)
    raw = np.concatenate([scale.view(np.uint8), numbers.view(np.uint8)], axis=1)
    return 8, array.shape, raw.tobytes()
