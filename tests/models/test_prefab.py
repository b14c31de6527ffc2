"""Prefabs: what was saved is what is loaded, to the last bit, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.model_files import write_gguf
from tests.models.layouts import schemes
from tests.models.test_official_logits import FIXTURES, forward
from tests.random_models import normal, random_model, random_rwkv7, write_pth
from wingbeat import LLM, SamplingParams
from wingbeat.adapter import Adapter
from wingbeat.bench.measure import load_subject
from wingbeat.cli import app
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.formats.checkpoint import FormatError
from wingbeat.formats.packed import carried_texts, open_packed, save_packed
from wingbeat.library.info import _lines, describe
from wingbeat.library.listing import chosen
from wingbeat.models import load_model, quantize_model
from wingbeat.ops import cpu

TOKENS = np.array([3, 14, 15, 9, 2, 6, 5], np.int32)
STATES = {f"blocks.{i}.att.time_state": normal(4, str(i), 2, 32, 32) for i in range(3)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pth(tmp_path_factory.mktemp("model") / "model.pth", random_rwkv7(layers=3, head_size=32) | STATES)


def logits(path: Path, **choice: Any) -> np.ndarray:
    return forward(load_model(path, threads=1, **choice).executable, TOKENS, [7])


@pytest.mark.parametrize(
    "choice",
    [
        {"dtype": "int8"},
        {"dtype": "int4"},
        {"dtype": "nf4"},
        {"dtype": "bfloat16", "quant": "sf4", "quant_layers": 1},
        {"dtype": "bfloat16"},
        {"dtype": "float32"},
        {"dtype": "float32", "quant": "int8", "quant_layers": 2},
        {"strategy": "cuda fp16i8 *1 -> cpu fp32"},
    ],
)
def test_it_is_the_model_that_was_saved(path: Path, tmp_path: Path, choice: dict[str, Any]) -> None:
    target = tmp_path / "copy.prefab"
    size, label = quantize_model(path, target, threads=1, **choice)
    original, loaded = load_model(path, threads=1, **choice), load_model(target, threads=1)
    assert (target.stat().st_size, label) == (size, original.info.dtype)
    np.testing.assert_array_equal(logits(target), logits(path, **choice))
    np.testing.assert_array_equal(logits(target, **choice), logits(target))
    for name in ("version", "layers", "width", "vocab_size", "dtype", "fingerprint", "parameters"):
        assert getattr(loaded.info, name) == getattr(original.info, name), name
    assert loaded.initial_state is not None
    assert original.initial_state is not None
    for name, array in original.initial_state.items():
        np.testing.assert_array_equal(loaded.initial_state[name], array)


@pytest.mark.parametrize("fixture", ["v4_published", "v5.0_first", "v5.2_odd", "v6", "v7a"])
def test_every_version(fixture: str, tmp_path: Path) -> None:
    official = np.load(FIXTURES[0].with_name(f"{fixture}.npz"))
    source = write_pth(tmp_path / "model.pth", random_model(**json.loads(str(official["arguments"]))))
    quantize_model(source, tmp_path / "copy.prefab", dtype="int8", threads=1)
    loaded = load_model(tmp_path / "copy.prefab", threads=1)
    original = load_model(source, dtype="int8", threads=1)
    assert loaded.info.version == original.info.version
    expected = forward(original.executable, official["tokens"], [40])
    np.testing.assert_array_equal(forward(loaded.executable, official["tokens"], [40]), expected)


def test_a_prefab_of_a_gguf_file(tmp_path: Path) -> None:
    tokens = ["<s>", *(f"\\x{byte:02x}" for byte in range(256))]
    metadata = {"general.architecture": "rwkv7", "tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": tokens}
    stored = schemes.gguf(random_rwkv7(layers=2, vocab=257), "7")
    source = write_gguf(tmp_path / "model.gguf", stored, metadata | {"rwkv7.block_count": 2})
    quantize_model(source, tmp_path / "copy.prefab", dtype="int8", threads=1)
    loaded, original = load_model(tmp_path / "copy.prefab", threads=1), load_model(source, dtype="int8", threads=1)
    np.testing.assert_array_equal(forward(loaded.executable, TOKENS, [7]), forward(original.executable, TOKENS, [7]))
    source.unlink()
    tokenizer = load_tokenizer(tmp_path / "copy.prefab", 257, None, loaded.info.metadata)
    assert tokenizer is not None
    assert (tokenizer.path, tokenizer.encode("hi")) == (tmp_path / "copy.prefab", [1 + ord("h"), 1 + ord("i")])
    with LLM(tmp_path / "copy.prefab", max_batch=1) as llm:
        assert llm.generate("hi", SamplingParams(max_tokens=2))[0].prompt_ids == [1 + ord("h"), 1 + ord("i")]


def test_what_is_told_of_it(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.prefab"
    _, label = quantize_model(path, target, dtype="bfloat16", quant="int8", quant_layers=1, threads=1)
    info = describe(target)
    packed = dict(load_model(target, threads=1).executable.packed_weights())  # type: ignore[attr-defined]
    size = sum(weight.data.nbytes + weight.scales.nbytes for weight in packed.values())
    assert (info.container, info.version, info.packed, info.memory) == ("prefab", "7", label, {label: size})
    (told,) = [line for line in _lines(info) if line.startswith("model")]
    assert told.endswith("million parameters in int8 *1 -> bfloat16, packed from float32")
    (listed,) = chosen("here", tmp_path)
    assert (listed.name, listed.version, listed.note) == ("copy.prefab", "7", None)
    needs = [line for line in CliRunner().invoke(app, ["doctor", str(target)]).output.splitlines() if "weights" in line]
    assert any("in int8 *1 -> bfloat16;" in line for line in needs), needs
    assert load_subject(target, threads=1).row_multiply_adds == load_subject(path, threads=1).row_multiply_adds
    assert listed.parameters == f"{info.parameters / 1e6:.1f}M"


def test_adapters_and_epsilon_are_in_it(path: Path, tmp_path: Path) -> None:
    name = "blocks.1.att.key"
    tensors = {f"{name}.lora_A": normal(1, "A", 4, 64), f"{name}.lora_B": normal(1, "B", 64, 4)}
    adapter = Adapter(str(write_pth(tmp_path / "lora.pth", tensors)), 2.0)
    quantize_model(path, tmp_path / "a.prefab", dtype="int8", threads=1, gn_eps=1e-5, adapters=[adapter])
    expected = logits(path, dtype="int8", gn_eps=1e-5, adapters=[adapter])
    np.testing.assert_array_equal(logits(tmp_path / "a.prefab"), expected)
    assert np.abs(expected - logits(path, dtype="int8")).max() > 0
    with pytest.raises(ValueError, match=r"a\.prefab holds packed weights, and adapters cannot be merged"):
        load_model(tmp_path / "a.prefab", adapters=[adapter])


@pytest.fixture
def prefab(path: Path, tmp_path: Path) -> Path:
    quantize_model(path, tmp_path / "model.prefab", dtype="int8", threads=1)
    return tmp_path / "model.prefab"


def test_another_dtype_is_refused(prefab: Path) -> None:
    with pytest.raises(ValueError, match=r"holds weights in int8, not in int4: .*wingbeat quantize"):
        load_model(prefab, dtype="int4")
    with pytest.raises(ValueError, match="the reference cannot read it"):
        load_model(prefab, backend="reference")


def test_another_layout_is_refused(prefab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wingbeat.models.prefab.packed_layout", lambda: "99-little")
    with pytest.raises(FormatError, match=r"layout '.*', and this wingbeat reads '99-little': make it anew"):
        load_model(prefab)


def rewritten(prefab: Path, change: Any) -> Path:
    """The same file with another identity, sound in itself."""
    file = open_packed(prefab, None)
    identity, weights = dict(file.identity), dict(file.weights)
    change(identity, weights)
    target = prefab.with_name("changed.prefab")
    save_packed(target, identity, weights, load_model(prefab, threads=1).executable.checksum)  # type: ignore[attr-defined]
    return target


def about(identity: dict[str, Any], **changes: Any) -> None:
    identity["model"] = msgspec.json.encode(msgspec.json.decode(identity["model"]) | changes).decode()


DAMAGES = {
    "no model": lambda identity, _: identity.pop("model"),
    "nonsense": lambda identity, _: identity.update(model="{}"),
    "another version": lambda identity, _: about(identity, version="9"),
    "more layers": lambda identity, _: about(identity, layers=4),
    "no tensors": lambda identity, _: about(identity, dims={}),
    "too few dtypes": lambda identity, _: about(identity, layer_dtypes=["int8"]),
    "another dtype": lambda identity, _: about(identity, rest_dtype="float32"),
    "a weight less": lambda _, weights: weights.pop("blocks.1.att.key"),
    "a short state": lambda _, weights: weights.update(
        {"blocks.0.att.time_state": weights["blocks.0.att.time_state"]._replace(rows=7)}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_together_is_refused(prefab: Path, damage: str) -> None:
    with pytest.raises(FormatError, match=r"make (it|the file) anew"):
        load_model(rewritten(prefab, DAMAGES[damage]), threads=1)


def test_what_is_no_list_of_tokens(prefab: Path) -> None:
    assert carried_texts(prefab) == []
    changed = rewritten(prefab, lambda _, weights: weights.update(tokens=weights["head"]._replace(kind="tokens")))
    with pytest.raises(FormatError, match="its list of tokens is damaged"):
        carried_texts(changed)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.999])
def test_a_damaged_byte_is_found(prefab: Path, place: float) -> None:
    data = bytearray(prefab.read_bytes())
    data[int(len(data) * place)] ^= 64
    prefab.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        load_model(prefab, threads=1)


def test_a_cut_file_is_refused(prefab: Path) -> None:
    prefab.write_bytes(prefab.read_bytes()[:-1000])
    with pytest.raises(FormatError, match="bytes in place of"):
        load_model(prefab)


def test_a_file_of_the_cache_is_no_model(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path))
    load_model(path, dtype="int8", threads=1, cache_packed=True)
    (cached,) = (tmp_path / "packed").iterdir()
    with pytest.raises(FormatError, match="belongs to the cache"):
        load_model(cached)


def test_the_command(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.prefab"
    first = CliRunner().invoke(app, ["quantize", str(path), str(target), "--threads", "1"])
    assert first.exit_code == 0, first.output
    assert "MB in int8" in first.output
    np.testing.assert_array_equal(logits(target), logits(path, dtype="int8"))
    again = CliRunner().invoke(app, ["quantize", str(path), str(target), "--quant", "int4", "--quant-layers", "1"])
    assert again.exit_code == 1
    assert "--force" in again.output
    forced = ["quantize", str(path), str(target), "--quant", "int4", "--quant-layers", "1", "--force"]
    assert "int4 *1 -> bfloat16" in CliRunner().invoke(app, forced).output
    assert load_model(target, threads=1).info.dtype == "int4 *1 -> bfloat16"
    wrong = CliRunner().invoke(app, ["quantize", str(tmp_path / "none.pth"), str(tmp_path / "x.prefab")])
    assert wrong.exit_code == 1
    assert "none.pth" in wrong.output
    assert not (tmp_path / "x.prefab").exists()


def test_every_level_runs_it(prefab: Path) -> None:
    file = load_model(prefab, threads=1)
    for level in cpu.levels():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WINGBEAT_KERNELS", level)
            found = logits(prefab)
        assert np.abs(found - forward(file.executable, TOKENS, [7])).max() <= 0.01 * np.ptp(found)
