"""One checkpoint saved in each container gives the same logits, bit for bit where its values are stored as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.model_files import q8_0, write_folder, write_gguf, write_rwkv_cpp
from tests.models.layouts import schemes
from tests.models.layouts.schemes import Arrays
from tests.models.test_official_logits import forward
from tests.random_models import cast, random_model, write_pth, write_safetensors
from wingbeat.library.convert import run
from wingbeat.models import load_model
from wingbeat.ops import cpu

Write = Callable[[Path, Arrays, str], Path]
TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int32)


def st(path: Path, model: Arrays, version: str) -> Path:
    return write_safetensors(path / "model.st", schemes.web_rwkv(model, version))


def fla(path: Path, model: Arrays, version: str) -> Path:
    config = {"model_type": f"rwkv{version}", "attn": None, "value_dim": [64] * 3}
    return write_folder(path / "model", schemes.fla(model, version), config, shards=3)


def hugging_face(path: Path, model: Arrays, version: str) -> Path:
    return write_folder(path / "model", schemes.hugging_face(model, version), {"rescale_every": 2}) / "config.json"


def gguf(path: Path, model: Arrays, version: str) -> Path:
    metadata = {"general.architecture": f"rwkv{version}", f"rwkv{version}.wkv.head_size": 16}
    metadata |= {"rwkv6.rescale_every_n_layers": schemes.RESCALE_EVERY}
    return write_gguf(path / "model.gguf", schemes.gguf(model, version, rescaled=version == "6"), metadata)


def rwkv_cpp(path: Path, model: Arrays, version: str) -> Path:
    return write_rwkv_cpp(path / "model.bin", schemes.rwkv_cpp(model, version))


def safetensors(path: Path, model: Arrays, version: str) -> Path:
    return write_safetensors(path / "model.safetensors", model)


CASES = [
    *((version, write) for version in ("4", "5.0", "5.1", "5.2", "6", "7") for write in (st, rwkv_cpp)),
    *((version, hugging_face) for version in ("4", "5.0", "5.1", "5.2", "6")),
    *((version, write) for version in ("6", "7") for write in (fla, gguf)),
    ("7a", safetensors),
    ("7a", st),
]


def a_model(version: str) -> Arrays:
    return random_model(version, layers=3, width=64, vocab=11, **({} if version == "4" else {"head_size": 16}))


def logits(path: Path, backend: str = "reference", gn_eps: float | None = None) -> np.ndarray:
    model = load_model(path, dtype="float32", backend=backend, gn_eps=gn_eps)
    return forward(model.executable, TOKENS, [len(TOKENS)])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("version", "write"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_a_checkpoint_in_another_container(tmp_path: Path, version: str, write: Write, backend: str) -> None:
    if backend == "cpu" and not cpu.available():
        pytest.skip("installed without the C++ kernels")
    model = a_model(version)
    original, other = write_pth(tmp_path / "model.pth", model), write(tmp_path, model, version)
    expected, found = logits(original, backend), logits(other, backend)
    stored_as_exponentials = write is rwkv_cpp and version[0] in "45"
    if stored_as_exponentials:
        assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)
        return
    np.testing.assert_array_equal(found, expected)
    info, same = (load_model(path, dtype="float32", backend="reference").info for path in (original, other))
    assert (info.version, info.fingerprint, info.parameters) == (same.version, same.fingerprint, same.parameters)


def test_a_gguf_file_whose_vectors_were_widened(tmp_path: Path) -> None:
    """As llama.cpp's converter does with a bfloat16 model: the same model, by its fingerprint, too."""
    model = cast(a_model("7"), "bfloat16")
    stored = {
        name: array if array.ndim == 2 else array.astype(np.float32) for name, array in schemes.gguf(model, "7").items()
    }
    metadata = {"general.architecture": "rwkv7", "rwkv7.wkv.head_size": 16}
    paths = write_pth(tmp_path / "model.pth", model), write_gguf(tmp_path / "model.gguf", stored, metadata)
    np.testing.assert_array_equal(*map(logits, paths))
    first, second = (load_model(path, dtype="float32", backend="reference").info.fingerprint for path in paths)
    assert first == second


def test_a_quantised_gguf_file_is_near(tmp_path: Path) -> None:
    model = a_model("7")
    stored = {
        name: q8_0(array) if array.ndim == 2 and array.shape[1] % 32 == 0 and "time_mix_r_k" not in name else array
        for name, array in schemes.gguf(model, "7").items()
    }
    metadata = {"general.architecture": "rwkv7", "rwkv7.wkv.head_size": 16}
    path = write_gguf(tmp_path / "model.gguf", stored, metadata)
    expected = logits(write_pth(tmp_path / "model.pth", model))
    found = logits(path)
    assert 0 < np.abs(found - expected).max() < 0.05 * np.ptp(expected)


def test_a_model_is_called_after_its_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "RWKV7-2.9B", schemes.fla(a_model("7"), "7"), {"model_type": "rwkv7"})
    assert load_model(folder / "config.json", dtype="float32", backend="reference").info.name == "RWKV7-2.9B"


def test_a_folder_tells_the_epsilon_of_its_group_norms(tmp_path: Path) -> None:
    model = a_model("7")
    config = {"model_type": "rwkv7", "head_dim": 16, "norm_eps": 1e-05}
    folder = write_folder(tmp_path / "folder", schemes.fla(model, "7"), config)
    plain = write_pth(tmp_path / "model.pth", model)
    expected = logits(plain, gn_eps=16e-5)
    assert not np.array_equal(logits(plain), expected)
    np.testing.assert_array_equal(logits(folder), expected)
    np.testing.assert_array_equal(logits(folder, gn_eps=64e-5), logits(plain))
    run(str(folder), tmp_path / "model.safetensors")  # and the converted file goes on telling it
    np.testing.assert_array_equal(logits(tmp_path / "model.safetensors"), expected)
