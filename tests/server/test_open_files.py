from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("soft", "hard", "warned"), [(64, 5000, False), (64, 512, True), (512, 512, True)])
def test_the_limit_of_open_files_is_raised_and_a_low_one_is_told(soft: int, hard: int, warned: bool) -> None:
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from wingbeat.server.open_files import raise_open_files\n"
        "raise_open_files()\n"
        "print('now', *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"now {hard} {hard}" in out
    assert ("few files may be open" in out) == warned
