"""What the `info` command does: say what a model file holds and what it needs, without loading it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from wingbeat.config import load_settings
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.formats.checkpoint import open_checkpoint
from wingbeat.library.listing import size_of
from wingbeat.models.loader import LoadedCheckpoint, load_checkpoint
from wingbeat.models.memory import memory_needed
from wingbeat.models.prefab import is_prefab, open_prefab
from wingbeat.text.choose import kind_of
from wingbeat.text.profile import choose_profile


class Tensor(msgspec.Struct, frozen=True):
    """Of the model, by its official name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Info(msgspec.Struct, frozen=True):
    """``sizes`` are those of its version. ``memory``: bytes of the weights when loaded in each dtype, or in the one in
    which they are ``packed`` already; then there are no ``tensors``. ``state``: bytes that each sequence adds.
    ``tokenizer``: a file's name, or what is wrong; None if no vocabulary fits.
    """

    path: str
    container: str
    file_bytes: int
    version: str
    parameters: int
    dtype: str
    packed: str | None
    sizes: dict[str, int]
    vocab_size: int
    tokenizer: str | None
    profile: str
    memory: dict[str, int]
    state: int
    fingerprint: str
    metadata: dict[str, str]
    tensors: list[Tensor]


def run(
    model: str | None,
    *,
    models_dir: Path | None = None,
    config: Path | None = None,
    with_tensors: bool = False,
    as_json: bool = False,
) -> None:
    """Print what ``model``, a path or a name, is. Raises ConfigError, ValueError or OSError with a message."""
    settings = load_settings({"model": model, "models_dir": models_dir}, config)
    info = describe(settings.model_path(), settings.tokenizer, settings.models_folder)
    if not with_tensors:
        info = msgspec.structs.replace(info, tensors=[])
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(info)).decode())
    else:
        print("\n".join(_lines(info)))


def describe(path: Path, tokenizer: str | None = None, models_folder: Path | None = None) -> Info:
    """What the model at ``path`` is; no weights are read but a few samples. Raises ValueError or OSError."""
    prefab = open_prefab(path) if is_prefab(path) else None
    checkpoint = load_checkpoint(path) if prefab is None else prefab.checkpoint
    name, profile = _text(path, checkpoint, tokenizer, models_folder)
    shape = dataclasses.asdict(checkpoint.info)
    return Info(
        path=str(path),
        container=open_checkpoint(path).container if prefab is None else "prefab",
        file_bytes=size_of(path),
        version=checkpoint.version,
        parameters=shape.pop("parameters"),
        dtype=shape.pop("dtype"),
        sizes={name: value for name, value in shape.items() if name != "vocab_size"},
        vocab_size=checkpoint.info.vocab_size,
        tokenizer=name,
        profile=profile,
        packed=None if prefab is None else prefab.precision.label,
        memory=memory_needed(path),
        state=checkpoint.record().layout.slot_bytes,
        fingerprint=checkpoint.fingerprint,
        metadata=dict(checkpoint.metadata),
        tensors=[Tensor(name, each.dtype.name, each.shape) for name, each in checkpoint.tensors.items()],
    )


def _text(
    path: Path, loaded: LoadedCheckpoint, override: str | None, models_folder: Path | None
) -> tuple[str | None, str]:
    """The tokenizer's file or kind, or what is wrong with it, and the name of the chat format."""
    try:
        found = load_tokenizer(path, loaded.info.vocab_size, override, loaded.metadata, models_folder)
    except (ValueError, OSError) as error:
        return str(error), choose_profile(str(path), loaded.metadata).name
    kind = found.kind if found else kind_of(loaded.info.vocab_size)
    name = None if found is None else found.path.name if found.path else found.kind
    return name, choose_profile(str(path), loaded.metadata, kind=kind).name


def _lines(info: Info) -> list[str]:
    sizes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in info.sizes.items() if value)
    lines = [
        f"file         {info.path}",
        f"container    {info.container}, {_bytes(info.file_bytes)}",
        f"model        RWKV-{info.version}, {info.parameters / 1e6:,.1f} million parameters in {_number_format(info)}",
        f"sizes        {sizes}",
        f"vocabulary   {info.vocab_size} rows; {info.tokenizer or 'no tokenizer fits: name one with --tokenizer'}",
        f"chat format  {info.profile}",
        f"fingerprint  {info.fingerprint}",
        *(f"metadata     {key}: {_short(value)}" for key, value in info.metadata.items()),
        "",
        "memory       weights",
        *(f"  {dtype:<{max(10, *map(len, info.memory))}} {_bytes(size):>8}" for dtype, size in info.memory.items()),
        f"and {_bytes(info.state)} for the state of each sequence",
    ]
    if info.tensors:
        width = max(len(each.name) for each in info.tensors)
        rows = [f"{each.name:<{width}}  {each.dtype:<8}  {' x '.join(map(str, each.shape))}" for each in info.tensors]
        lines += ["", *rows]
    return lines


def _number_format(info: Info) -> str:
    return info.dtype if info.packed is None else f"{info.packed}, packed from {info.dtype}"


def _short(text: str) -> str:
    """One printable line: metadata are a stranger's."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= 80 else f"{line[:80]}..."


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
