"""What a smaller dtype costs: benchmarks/perplexity.py, and the floors that every dtype must keep on held-out prose."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.random_models import random_rwkv7, write_safetensors
from wingbeat import LLM
from wingbeat.dtypes import DTYPES
from wingbeat.llm import demo_model_path
from wingbeat.models import load_model
from wingbeat.ops import cpu
from wingbeat.text.choose import tokenizer_for

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "perplexity.py"
VOCAB = 50

LIMITS = {
    "bfloat16": (1.001, 5e-5),
    "int8": (1.01, 5e-4),
    "int4": (1.03, 0.015),
    "nf4": (1.03, 0.02),
    "sf4": (1.03, 0.028),
}
"""The largest ratio of perplexities and the largest divergence, nats a token, for each dtype but float32."""

pytestmark = pytest.mark.skipif(not cpu.available(), reason="no C++ kernels")


@pytest.fixture(scope="module")
def perplexity() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("perplexity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["perplexity"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["perplexity"]


def test_every_dtype_keeps_its_floor(perplexity: ModuleType) -> None:
    path = demo_model_path()
    models = perplexity.load(path, DTYPES, None)
    tokenizer = tokenizer_for(path, models[0].info.vocab_size)
    assert tokenizer is not None
    ids = tokenizer.encode(perplexity.TEXT.read_text("utf-8"))[:4000]
    scores = dict(zip(DTYPES, perplexity.measure(models, ids, perplexity.WINDOW), strict=True))
    exact = scores.pop("float32")
    assert exact.perplexity == pytest.approx(79.83, rel=0.01)
    assert scores.keys() == LIMITS.keys()
    for dtype, score in scores.items():
        ratio, divergence = LIMITS[dtype]
        assert 1 / ratio < score.ratio(exact)[0] < ratio, dtype
        assert 0 < score.divergence < divergence, dtype


@pytest.mark.parametrize(("length", "size"), [(40, 16), (41, 16), (48, 16), (9, 16), (7, 2), (30, 7)])
def test_windows_score_each_token_once(perplexity: ModuleType, length: int, size: int) -> None:
    context = size // 2
    found = list(perplexity.windows(range(length), size))
    assert [i for window in found for i in window[context:]] == list(range(context, length))
    assert all(context < len(window) <= size for window in found)


@pytest.mark.parametrize(("length", "size"), [(8, 16), (0, 2), (40, 1)])
def test_a_text_too_short_for_a_window(perplexity: ModuleType, length: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"a window of {size} leaves nothing to score of {length} tokens"):
        perplexity.measure([], range(length), size)


def test_a_loss_is_that_of_the_token_after_its_window(perplexity: ModuleType, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "tiny.safetensors", random_rwkv7(vocab=VOCAB))
    ids = np.random.default_rng(3).integers(0, VOCAB, 21)
    (score,) = perplexity.measure([load_model(path, dtype="float32")], ids.tolist(), 8)
    with LLM(path, dtype="float32") as llm:
        for start, losses in zip(range(0, 17, 4), score.losses, strict=True):
            window = ids[start : start + 8]
            p = np.exp(llm.logits(window[:-1]).astype(np.float64))
            p /= p.sum(axis=1, keepdims=True)
            expected = -np.log([p[i - 1, window[i]] for i in range(4, len(window))])
            np.testing.assert_allclose(losses, expected, atol=1e-5)


def test_a_model_that_knows_nothing_is_perplexed_by_the_whole_vocabulary(
    perplexity: ModuleType, tmp_path: Path
) -> None:
    arrays = random_rwkv7(vocab=VOCAB)
    knowing = load_model(write_safetensors(tmp_path / "knowing.safetensors", arrays), dtype="float32")
    arrays["head.weight"][...] = 0
    blank = load_model(write_safetensors(tmp_path / "blank.safetensors", arrays), dtype="float32")
    exact, score = perplexity.measure([blank, knowing], list(range(40)), 10)
    assert exact.perplexity == pytest.approx(VOCAB)
    assert exact.ratio(exact) == (1, 0)
    assert (exact.divergence, exact.agreement) == (0, 1)
    assert score.divergence > 0.01
    assert score.agreement < 0.5


def test_the_script_prints_a_line_for_each_dtype(
    perplexity: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--dtype", "fp32", "int8", "--tokens", "300", "--window", "64"])
    perplexity.main()
    title, head, exact, int8 = capsys.readouterr().out.splitlines()
    assert title == "wingbeat-demo: 300 tokens of moby-dick.txt in windows of 64"
    assert re.split(r"\s{2,}", head) == ["dtype", "perplexity", "ratio", "+-", "bits/byte", "divergence", "same token"]
    assert exact.split()[0::2] == ["float32", "1.0000", exact.split()[4], "100.0%"]
    assert int8.split()[0] == "int8"
    bits, loss = float(int8.split()[4]), np.log2(float(int8.split()[1]))
    assert 2.5 < loss / bits < 4  # bytes a token


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text", "missing.txt"], "missing.txt"),
        (["missing.safetensors"], "missing.safetensors"),
        (["--window", "1"], "a window of 1 leaves nothing to score"),
    ],
)
def test_the_script_says_what_is_wrong(
    perplexity: ModuleType,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags])
    with pytest.raises(SystemExit, match="2"):
        perplexity.main()
    assert message in capsys.readouterr().err
