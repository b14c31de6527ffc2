"""What a model file needs: memory in each dtype, a tokenizer, a chat format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from wingbeat.config import ConfigError, Settings
from wingbeat.doctor.finding import Finding, gigabytes
from wingbeat.engine.state_pool import available_memory, default_slots
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.models.loader import LoadedCheckpoint
from wingbeat.models.memory import memory_needed
from wingbeat.models.packed_cache import FOLDER_VARIABLE, cache_folder
from wingbeat.models.prefab import look_inside
from wingbeat.ops import cpu
from wingbeat.text.choose import advice, kind_of
from wingbeat.text.profile import choose_profile
from wingbeat.text.tokenizer import Tokenizer


def look_at_model(settings: Settings) -> Iterator[Finding]:
    """The model that ``settings`` name."""
    try:
        path = settings.model_path()
        checkpoint, need = look_inside(path), memory_needed(path)
    except (ConfigError, ValueError, OSError) as error:
        yield Finding("model", str(error), "problem", "name the file or folder of an RWKV model")
        return
    shape = checkpoint.info
    yield Finding(
        "model",
        f"{path.name}: RWKV-{checkpoint.version}, {shape.parameters / 1e6:,.1f} million parameters in {shape.dtype}, "
        f"{shape.layers} layers of {shape.width}, vocabulary of {shape.vocab_size}",
        details={"version": checkpoint.version, "layers": shape.layers, "width": shape.width}
        | {"vocab_size": shape.vocab_size, "parameters": shape.parameters, "dtype": shape.dtype}
        | {"fingerprint": checkpoint.fingerprint},
    )
    yield _memory(checkpoint, need, settings)
    yield _packed_weights(settings)
    yield from _text(settings, str(path), checkpoint)


def _memory(checkpoint: LoadedCheckpoint, need: Mapping[str, int], settings: Settings) -> Finding:
    program = checkpoint.record()
    free = available_memory()
    slots = settings.max_batch or default_slots(program.layout)
    states = slots * program.layout.slot_bytes
    usual = "bfloat16" if cpu.available() else "float32"
    wanted = next(iter(need)) if len(need) == 1 else usual if settings.dtype == "auto" else settings.dtype
    shown = ", ".join(f"{gigabytes(size)} in {dtype}" for dtype, size in need.items())
    text = f"weights {shown}; {slots} states of {gigabytes(program.layout.slot_bytes)}; {gigabytes(free)} free"
    details = {"weights": need, "slots": slots, "state": program.layout.slot_bytes, "free": free, "dtype": wanted}
    if need[wanted] + states <= free:
        return Finding("model memory", text, details=details)
    fitting = [dtype for dtype, size in need.items() if size + program.layout.slot_bytes <= free]
    if wanted in fitting:
        fix = f"--max-batch {max(1, (free - need[wanted]) // program.layout.slot_bytes)}, or a smaller --dtype"
        return Finding("model memory", f"{wanted} does not fit with {slots} states: {text}", "problem", fix, details)
    fix = f"--dtype {fitting[0]}" if fitting else "a smaller model, or a machine with more memory"
    return Finding("model memory", f"{wanted} does not fit: {text}", "problem", fix, details)


def _packed_weights(settings: Settings) -> Finding:
    """Where packed weights are kept, and what lies there."""
    folder = cache_folder()
    sizes = [file.stat().st_size for file in folder.glob("*.packed")]
    there = f"{len(sizes)} files of {gigabytes(sum(sizes))} there" if sizes else "none there yet"
    details = {"kept": settings.cache_packed, "folder": str(folder), "files": len(sizes), "bytes": sum(sizes)}
    if not settings.cache_packed:
        return Finding("packed weights", f"not kept; --cache-packed keeps them in {folder} ({there})", details=details)
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        fix = f"name a folder that can be written in {FOLDER_VARIABLE}"
        return Finding("packed weights", f"cannot be kept in {folder}", "note", fix, details)
    return Finding("packed weights", f"kept in {folder}, {there}", details=details)


def _text(settings: Settings, path: str, checkpoint: LoadedCheckpoint) -> Iterator[Finding]:
    """The tokenizer, and the chat format, which depends on it."""
    rows, metadata = checkpoint.info.vocab_size, checkpoint.metadata
    try:
        tokenizer = load_tokenizer(path, rows, settings.tokenizer, metadata, settings.models_folder)
    except (ValueError, OSError) as error:
        fix = "name the model's own vocabulary file with --tokenizer"
        yield Finding("tokenizer", str(error), "problem", fix)
        tokenizer = None
    else:
        yield _tokenizer(tokenizer, rows)
    yield _profile(settings, path, metadata, kind_of(rows) if tokenizer is None else tokenizer.kind)


def _tokenizer(tokenizer: Tokenizer | None, rows: int) -> Finding:
    if tokenizer is None:
        text = f"no vocabulary fits {rows} rows: requests must be token ids, and there is no chat"
        return Finding("tokenizer", text, "note", advice(rows))
    name = "built in" if tokenizer.path is None else tokenizer.path.name
    path = None if tokenizer.path is None else str(tokenizer.path)
    return Finding(
        "tokenizer",
        f"{tokenizer.kind}: {name}, {tokenizer.size:,} tokens",
        details={"kind": tokenizer.kind, "path": path},
    )


def _profile(settings: Settings, path: str, metadata: Mapping[str, str], kind: str | None) -> Finding:
    try:
        profile = choose_profile(path, metadata, settings.profile, kind)
    except ValueError as error:
        return Finding("chat format", str(error), "problem", "choose one of them with --profile")
    if profile.template is None:
        says = "no chat, completions only"
    else:
        says = "can think" if profile.thinking != "none" else "does not think"
    return Finding("chat format", f"{profile.name} ({says}); --profile chooses another", details={"name": profile.name})
