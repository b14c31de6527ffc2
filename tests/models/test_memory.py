from __future__ import annotations

import pytest

from wingbeat.demo import demo_model_path
from wingbeat.dtypes import DTYPES
from wingbeat.models import load_model
from wingbeat.models.loader import load_checkpoint
from wingbeat.models.memory import weight_bytes
from wingbeat.models.precision import uniform
from wingbeat.ops import cpu


@pytest.mark.skipif(not cpu.available(), reason="no C++ kernels")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_memory_of_weights_is_what_they_take(dtype: str) -> None:
    checkpoint = load_checkpoint(demo_model_path())
    info = checkpoint.info
    taken = load_model(demo_model_path(), dtype=dtype, threads=1).executable
    assert isinstance(taken, cpu.CpuExecutable)
    table = info.vocab_size * info.width * (4 if dtype == "float32" else 2)
    said = weight_bytes(checkpoint, uniform(dtype, checkpoint.info.layers))
    assert said == pytest.approx(taken.weight_bytes + table, rel=0.06)  # kernels pad small ranks
