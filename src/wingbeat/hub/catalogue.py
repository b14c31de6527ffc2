"""The published RWKV models that `wingbeat pull` knows by name: `catalogue.tsv`, a line for each file.

Its columns: the file's name, RWKV version, parameters, training context in tokens, size in bytes, sha256, and in
which repository (and folder of it) Hugging Face and ModelScope have it; "-" is unknown or nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wingbeat.hub.names import matching

FILE = Path(__file__).with_name("catalogue.tsv")


@dataclass(frozen=True, slots=True)
class Entry:
    """A published file. ``context`` and ``sha256`` are None where nobody told; a place is "owner/repository/folder"."""

    name: str
    version: str
    parameters: str
    context: int | None
    size: int
    sha256: str | None
    hugging_face: str | None
    model_scope: str | None


@cache
def catalogue() -> Mapping[str, Entry]:
    """All entries by file name, newest versions and small models first."""
    _, *lines = FILE.read_text(encoding="utf-8").splitlines()
    return {entry.name: entry for entry in map(_entry, lines)}


def find(query: str) -> list[Entry]:
    """The entries that ``query`` may mean, by the rules of `names.matching`."""
    return [catalogue()[name] for name in matching(query, catalogue())]


def _entry(line: str) -> Entry:
    name, version, parameters, context, size, *rest = line.split("\t")
    sha256, hugging_face, model_scope = (None if text == "-" else text for text in rest)
    tokens = None if context == "-" else int(context)
    return Entry(name, version, parameters, tokens, int(size), sha256, hugging_face, model_scope)
