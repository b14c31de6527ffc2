"""Packed weights kept on disk, so that the second start of a model maps a file in place of reading and packing.

A file belongs to one model, dtype and layout of packed weights; it serves every kernel level. Whatever is wrong with
it, the model is packed anew and the file is replaced. What is wrong with the folder costs a warning.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from platformdirs import user_cache_path

from wingbeat.formats.folder import model_files
from wingbeat.formats.lazy import FormatError
from wingbeat.formats.packed import TEMPORARY, Identity, open_packed, save_packed
from wingbeat.ops.cpu import CpuExecutable, packed_layout
from wingbeat.ops.packed import PackedWeight

FOLDER_VARIABLE = "WINGBEAT_CACHE"
ABANDONED_SECONDS = 3600.0
"""An unfinished file that is older was left by a process that was killed."""

log = logging.getLogger("wingbeat.models")

Make = Callable[[Mapping[str, PackedWeight]], CpuExecutable]


def cache_folder() -> Path:
    """Where packed weights are kept: ``WINGBEAT_CACHE``, else the user's folder for such things on this system."""
    named = os.environ.get(FOLDER_VARIABLE)
    root = Path(named).expanduser() if named else user_cache_path("wingbeat", appauthor=False)
    return root.absolute() / "packed"


class PackedCache:
    """The file of one model in one dtype.

    The fingerprint looks at samples of the weights, and a model may be edited in between: so the size and the time of
    its file count, too, or those of all files of its folder.
    """

    def __init__(self, source: Path, fingerprint: str, dtype: str) -> None:
        found = [file.stat() for file in model_files(source)]
        self._identity: Identity = {
            "fingerprint": fingerprint,
            "dtype": dtype,
            "layout": packed_layout(),
            "size of the model's file": sum(file.st_size for file in found),
            "time of the model's file": max(file.st_mtime_ns for file in found),
        }
        self._stem = f"{fingerprint[:32]}-{re.sub('[^a-z0-9]+', '_', dtype)}-"
        self.path = cache_folder() / f"{self._stem}{packed_layout()}.packed"

    def load(self, make: Make) -> tuple[CpuExecutable, int] | None:
        """What ``make`` makes of the file's weights, and the file's size; None where there is no file that fits."""
        if not self.path.exists():
            return None
        try:
            file = open_packed(self.path, self._identity)
            file.announce()
            executable = make(file.weights)
            file.verify(executable.checksum)
        except (FormatError, ValueError, OSError) as error:
            log.warning("packing the model anew, since %s cannot be used: %s", self.path, error)
            return None
        log.info("packed weights are mapped from %s", self.path)
        return executable, file.size

    def save(self, executable: CpuExecutable) -> None:
        """Keep what was packed; a folder that cannot take it costs a warning."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            size = save_packed(self.path, self._identity, dict(executable.packed_weights()), executable.checksum)
        except OSError as error:
            log.warning(
                "the packed weights are not kept in %s (%s): free space there, or name another folder in %s",
                self.path.parent,
                error.strerror or error,
                FOLDER_VARIABLE,
            )
            return
        self._remove_other_layouts()
        log.info("packed weights are kept in %s (%.0f MB)", self.path, size / 1e6)

    def _remove_abandoned(self) -> None:
        for left in self.path.parent.glob(f"{self._stem}*{TEMPORARY}"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                    left.unlink()

    def _remove_other_layouts(self) -> None:
        for other in self.path.parent.glob(f"{self._stem}*.packed"):
            if other != self.path:
                with contextlib.suppress(OSError):
                    other.unlink()
