"""Where a file can be had: the address of each hub that has it, in the order in which to try them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from wingbeat.hub.catalogue import Entry

HUGGING_FACE = "https://huggingface.co"
MODEL_SCOPE = "https://modelscope.cn"

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Source:
    """One place of a file. The token goes to ``url`` alone, never to where that redirects."""

    url: str
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to be fetched, with what is known of it before."""

    name: str
    sources: tuple[Source, ...]
    size: int | None = None
    sha256: str | None = None


def from_catalogue(entry: Entry, hub: str, revision: str | None = None) -> Wanted:
    """``entry`` from ``hub``, which stands in for Hugging Face; then from ModelScope, if that has it."""
    places = ((hub, entry.hugging_face), (MODEL_SCOPE, entry.model_scope))
    sources = tuple(_source(base, f"{place}/{entry.name}", revision) for base, place in places if place)
    return Wanted(entry.name, sources, entry.size, entry.sha256)


def from_repository(path: str, hub: str, revision: str | None = None) -> Wanted:
    """The file ``path``, "owner/repository/file", of ``hub``, of which nothing is known. Raises ValueError."""
    parts = path.split("/")
    if len(parts) < 3 or not _REPOSITORY.fullmatch("/".join(parts[:2])) or not all(map(_plain, parts)):
        raise ValueError(f"{path!r} is not a file of a hub: write owner/repository/file")
    return Wanted(parts[-1], (_source(hub, path, revision),))


def _source(hub: str, path: str, revision: str | None) -> Source:
    owner, repository, *file = path.split("/")
    modelscope = urlsplit(hub).hostname in ("modelscope.cn", "www.modelscope.cn")
    prefix, usual = ("/models", "master") if modelscope else ("", "main")
    place = f"{owner}/{repository}/resolve/{quote(revision or usual, safe='')}/{quote('/'.join(file))}"
    token = None if modelscope else os.environ.get("HF_TOKEN", "").strip() or None
    return Source(f"{hub.rstrip('/')}{prefix}/{place}", token if _private(hub) else None)


def _private(address: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    parts = urlsplit(address)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _plain(part: str) -> bool:
    return part not in ("", ".", "..") and part.isprintable() and "\\" not in part and ":" not in part
