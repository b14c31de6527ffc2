"""Loading takes little more memory than what is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wingbeat.bench.random_model import rwkv7, save_random_model
from wingbeat.dtypes import DTYPES
from wingbeat.ops import cpu

pytestmark = pytest.mark.skipif(
    not cpu.available() or not Path("/proc/self/status").exists(), reason="needs the native kernels and Linux's /proc"
)

SHAPE = rwkv7(layers=1, width=256, ranks=(16, 16, 16, 16))
LARGEST = 2 * SHAPE.sizes.vocab_size * SHAPE.sizes.width  # bytes of the embedding in the file
SLACK = 12 << 20  # of the allocator, Python and the table of contents: a third of the embedding

CODE = """
import sys
from wingbeat.models import load_model
from wingbeat.ops.cpu import CpuExecutable

def highest():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = highest()
model = load_model(sys.argv[1], dtype=sys.argv[2], threads=2, backend="cpu", cache_packed=bool(sys.argv[3]))
after = highest()
print(after - before, sum(w.data.nbytes + w.scales.nbytes for _, w in model.executable.packed_weights()))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    save_random_model(SHAPE, path)
    return path


@pytest.mark.parametrize("cache", ["", "cached"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_packed_weights_and_one_tensor(
    model: Path, dtype: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path))
    for start in range(1 + bool(cache)):
        done = subprocess.run(
            [sys.executable, "-c", CODE, model, dtype, cache], capture_output=True, text=True, check=True
        )
        grown, packed = map(int, done.stdout.split())
        assert packed > LARGEST / 2
        assert grown <= packed + SLACK + (LARGEST if start == 0 else 0)
