"""Makes the virtual environment that `make` works in: tools/make_venv.py FOLDER.

Also where the `venv` module cannot install pip (Debian keeps that in a package of its own, python3-venv): then the
system's pip does it. An environment that works is left as it is.
"""

import subprocess
import sys
import venv
from pathlib import Path


def main(folder: Path) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - any Python may run this file
        found = f"{sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(
            f"wingbeat needs Python 3.11 or newer, and {sys.executable} is {found}. Try: make PYTHON=python3.12 ..."
        )
    python = folder / "bin" / "python"
    if succeeds(python, "-m", "pip", "--version"):
        return
    print(f"Making the virtual environment {folder} with {sys.executable}", flush=True)
    venv.create(folder, symlinks=True, clear=True)
    if succeeds(python, "-m", "ensurepip", "--default-pip"):
        return
    if not succeeds(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"):
        sys.exit(f"{sys.executable} cannot install pip into {folder}. On Debian or Ubuntu: apt install python3-venv")


def succeeds(*command: "str | Path") -> bool:
    try:
        return (
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
