"""Fetching one large file over HTTP: resumed, verified, and there as a whole or not at all.

Our own code on httpx, since `huggingface_hub` does not compare what it fetched with a sha256 that is known before,
and asks more of a mirror than to serve files.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from wingbeat.hub.part import BusyError, Part
from wingbeat.hub.reply import Facts, RefusedError, TransientError, check, facts, size_of, start_of
from wingbeat.hub.source import Source, Wanted
from wingbeat.progress import Show

FIRST_TRIES = 3
"""Before a hub counts as out of reach."""
TRIES = 6
"""In a row that bring no byte, before we give up; what has come by then is kept."""
TIMEOUT = httpx.Timeout(30, connect=10)
SPARE = 64 << 20  # bytes that should stay free on the disk

T = TypeVar("T")


class DownloadError(Exception):
    """The file could not be fetched; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on: ``bar`` shows how far what it is named after is, ``say`` takes what is worth a line."""

    bar: Callable[[str], AbstractContextManager[Show]]
    say: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Fetched:
    """``sha256`` of the file; ``verified`` if it was known before from the catalogue or the hub."""

    path: Path
    size: int
    sha256: str
    verified: bool


def client(version: str) -> httpx.Client:
    """Of every download. Proxies and certificates are those that the environment names, as for other programs."""
    headers = {"user-agent": f"wingbeat/{version}", "accept-encoding": "identity"}
    return httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers=headers)


def download(http: httpx.Client, wanted: Wanted, destination: Path, watch: Watch, *, replace: bool = False) -> Fetched:
    """Fetch ``wanted`` from the first of its sources that has it.

    Until it is whole and verified it lies beside ``destination`` under a name of its own, from where the next call
    goes on. Raises DownloadError; FileExistsError if ``destination`` came into being meanwhile; OSError.
    """
    refusals: list[str] = []
    for source in wanted.sources:
        if refusals:
            watch.say(f"{refusals[-1]}\nTrying {source.url}")
        try:
            return _Transfer(http, source, wanted, destination, watch).run(replace)
        except (RefusedError, TransientError, httpx.HTTPError, httpx.InvalidURL) as error:
            refusals.append(f"{source.url}: {_told(error)}")
    raise DownloadError("\n".join(refusals))


class _Transfer:
    """A file from one source."""

    def __init__(self, http: httpx.Client, source: Source, wanted: Wanted, destination: Path, watch: Watch) -> None:
        self._http, self._source, self._wanted = http, source, wanted
        self._destination, self._watch = destination, watch

    def run(self, replace: bool) -> Fetched:
        known = self._agreed(self._persist(self._ask, FIRST_TRIES))
        try:
            with Part(self._destination, known.identity) as part:
                self._resume(part, known)
                self._check_space(known, part)
                with self._watch.bar(f"Fetching {self._wanted.name}") as show:
                    self._persist(lambda: self._continue(part, known, show), TRIES, lambda: part.size)
                self._verify(part, known)
                part.become(self._destination, replace=replace)
                return Fetched(self._destination, part.size, part.sha256, known.sha256 is not None)
        except BusyError:
            raise DownloadError(f"{self._wanted.name} is being fetched by another process: wait for that") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                folder = self._destination.parent
                raise DownloadError(f"{folder} is full: free space, then go on with the same command") from error
            raise

    def _ask(self) -> Facts:
        with self._get({"range": "bytes=0-0"}) as reply:
            check(reply, has_token=self._source.token is not None)
            return facts(reply)

    def _agreed(self, told: Facts) -> Facts:
        """What holds of the file. Raises RefusedError where the hub has another one than we want."""
        wanted = self._wanted
        for what, ours, theirs in (("size", wanted.size, told.size), ("sha256", wanted.sha256, told.sha256)):
            if ours and theirs and ours != theirs:
                raise RefusedError(
                    f"its {what} is {theirs}, not {ours} as in the catalogue: it is another file. "
                    "If you want that one, name it as owner/repository/file"
                )
        return Facts(wanted.size or told.size, wanted.sha256 or told.sha256, told.etag)

    def _resume(self, part: Part, known: Facts) -> None:
        if part.left:
            with self._watch.bar(f"Checking what is there of {self._wanted.name}") as show:
                part.resume(known.size, show)

    def _check_space(self, known: Facts, part: Part) -> None:
        if known.size is None:
            return
        folder = part.path.parent
        need, free = known.size - part.size, shutil.disk_usage(folder).free
        if need + SPARE > free:
            raise DownloadError(
                f"{self._wanted.name} needs another {need / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB free: "
                "free space, or name another folder with --models-dir"
            )

    def _continue(self, part: Part, known: Facts, show: Show) -> None:
        """Fetch what is missing, in one request."""
        show(part.size, known.size or 0)
        if part.size == known.size:
            return
        headers = {"range": f"bytes={part.size}-"} if part.size else {}
        if headers and known.sha256 is None and known.etag and not known.etag.startswith("W/"):
            headers["if-range"] = known.etag  # else a file that changed meanwhile would be mixed with this one
        with self._get(headers) as reply:
            if reply.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
                if size_of(reply) == part.size:  # of a file whose size was not told before
                    return
                part.restart()
                raise TransientError("the hub has less of the file than is here; beginning anew")
            check(reply, has_token=self._source.token is not None)
            begins = start_of(reply)
            if begins == 0 and part.size:
                self._watch.say("The hub cannot resume: beginning anew.")
                part.restart()
            if begins != part.size:
                raise RefusedError(f"it answered with the bytes from {begins} on, not from {part.size}")
            for piece in reply.iter_raw():
                part.append(piece)
                if known.size is not None and part.size > known.size:
                    part.delete()
                    raise RefusedError(f"it sent more than the {known.size} bytes of the file")
                show(part.size, known.size or 0)
        if known.size is not None and part.size < known.size:
            raise TransientError("the connection ended early")

    def _verify(self, part: Part, known: Facts) -> None:
        if known.sha256 is None or part.sha256 == known.sha256:
            return
        found = part.sha256
        part.delete()
        raise RefusedError(
            f"what came has the sha256 {found}, not {known.sha256}: it was damaged on the way or altered, "
            "and has been deleted. Try again, or another --hub"
        )

    def _get(self, headers: dict[str, str]) -> AbstractContextManager[httpx.Response]:
        if self._source.token:
            headers["authorization"] = f"Bearer {self._source.token}"
        return self._http.stream("GET", self._source.url, headers=headers)

    def _persist(self, attempt: Callable[[], T], tries: int, progress: Callable[[], int] = lambda: 0) -> T:
        """The result of ``attempt``, repeated with growing pauses while what fails may pass.

        An attempt that moved ``progress`` counts as the first of a new row.
        """
        failures = 0
        while True:
            before = progress()
            try:
                return attempt()
            except (TransientError, httpx.TransportError) as error:
                failures = 1 if progress() > before else failures + 1
                if failures >= tries or isinstance(error, httpx.UnsupportedProtocol):
                    raise
                pause = getattr(error, "wait", None) or float(2 ** (failures - 1))
                self._watch.say(f"{_told(error)}: trying again in {pause:.0f} s")
                self._watch.sleep(pause)


def _told(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"cannot connect ({error})"
    if isinstance(error, httpx.TransportError):
        return f"the connection broke ({error})"
    return str(error)
