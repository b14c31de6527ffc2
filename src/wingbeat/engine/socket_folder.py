"""The private folders that engines' sockets lie in, and the removal of those whose owner was killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from pathlib import Path

SOCKET_NAME = "engine"
_NAME = re.compile(r"wingbeat-(\d+)-\w+")


def make_folder() -> str:
    """A new folder that only this user may enter, named after this process. POSIX only."""
    _sweep(Path(tempfile.gettempdir()))
    return tempfile.mkdtemp(prefix=f"wingbeat-{os.getpid()}-")


def _sweep(parent: Path) -> None:
    """Remove this user's folders whose process is gone: one that was killed could not do it itself."""
    for folder in parent.glob("wingbeat-*"):
        name = _NAME.fullmatch(folder.name)
        with contextlib.suppress(OSError):
            mine = folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink()
            if name and mine and not _alive(int(name[1])) and not _answers(folder / SOCKET_NAME):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _answers(path: Path) -> bool:
    """Whether somebody listens there: the owner may live in another container, where its number says nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True
