"""Checkpoints become RWKV-7 models, or say precisely why not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.random_models import cast, random_model, random_rwkv7, write_pth, write_safetensors
from tests.torch_zip import dictionary, document, integer, tensor, unicode_, write_archive
from wingbeat.formats.checkpoint import FormatError
from wingbeat.models.loader import LoadedCheckpoint, UnsupportedModelError, load_checkpoint
from wingbeat.models.rwkv5 import Rwkv5Shape
from wingbeat.models.rwkv6 import Rwkv6Shape
from wingbeat.models.rwkv7 import Rwkv7Shape

Arrays = dict[str, np.ndarray]


def small(**changes: object) -> Arrays:
    return random_rwkv7(**({"layers": 2, "width": 64, "vocab": 11, "ranks": (3, 4, 5, 6)} | changes))  # type: ignore[arg-type]


def zeros(**shapes: tuple[int, ...]) -> Arrays:
    """Arrays by name; `__` stands for a dot."""
    return {name.replace("__", "."): np.zeros(shape, np.float32) for name, shape in shapes.items()}


def load(tmp_path: Path, arrays: Arrays) -> LoadedCheckpoint:
    return load_checkpoint(write_safetensors(tmp_path / "model.safetensors", arrays))


@pytest.mark.parametrize("write", [write_pth, write_safetensors])
def test_shape_and_tensors_come_from_the_file(tmp_path: Path, write: Callable[[Path, Arrays], Path]) -> None:
    arrays = cast(random_rwkv7(3, 96, 301, head_size=32, ffn=333, ranks=(8, 12, 4, 20)), "bfloat16")
    loaded = load_checkpoint(write(tmp_path / "model", arrays))
    parameters = sum(array.size for array in arrays.values())
    assert loaded.info == Rwkv7Shape(
        layers=3,
        width=96,
        vocab_size=301,
        heads=3,
        head_size=32,
        ffn_width=333,
        rank_decay=8,
        rank_iclr=12,
        rank_value=4,
        rank_gate=20,
        parameters=parameters,
        dtype="bfloat16",
    )
    assert loaded.version == "7"
    assert set(loaded.tensors) == set(arrays)
    for name, array in arrays.items():
        assert loaded.tensors[name].read().tobytes() == array.tobytes(), name


def test_parameters_agree_with_the_published_formula(tmp_path: Path) -> None:
    L, D, V, w, a, v, g = 3, 64, 50, 8, 12, 4, 20
    info = load(tmp_path, random_rwkv7(L, D, V, ranks=(w, a, v, g))).info
    full = 2 * V * D + 4 * D + L * (12 * D**2 + 2 * D * (w + a + v + g) + 19 * D)
    assert info.parameters == full - D * (2 * v + 1)


def test_one_layer_has_no_value_rank(tmp_path: Path) -> None:
    info = load(tmp_path, small(layers=1, layer0_value=True)).info
    assert isinstance(info, Rwkv7Shape)
    assert (info.layers, info.rank_value) == (1, 0)


def test_value_residual_of_layer_0_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    without = load(tmp_path, small())
    with_it = load_checkpoint(write_pth(tmp_path / "with.pth", small(layer0_value=True)))
    assert with_it.info == without.info
    assert "blocks.0.att.v1" not in with_it.tensors
    assert with_it.fingerprint == without.fingerprint
    assert not caplog.records


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_vectors_of_any_rank(tmp_path: Path, rank: int) -> None:
    arrays = small()
    reshaped = {
        name: a.reshape((1,) * (rank - 1) + (64,)) if a.size == 64 and not name.endswith("r_k") else a
        for name, a in arrays.items()
    }
    assert reshaped["ln_out.weight"].ndim == rank
    loaded = load(tmp_path, reshaped)
    assert loaded.fingerprint == load_checkpoint(write_pth(tmp_path / "other.pth", arrays)).fingerprint


def test_names_are_normalised(tmp_path: Path) -> None:
    arrays = small()
    prefixed = {f"_forward_module.module._orig_mod.{name}": array for name, array in arrays.items()}
    assert set(load(tmp_path, prefixed).tensors) == set(arrays)


def test_two_names_for_one_tensor(tmp_path: Path) -> None:
    arrays = small()
    with pytest.raises(FormatError, match=r"two tensors are both called 'emb\.weight'"):
        load(tmp_path, arrays | {"module.emb.weight": arrays["emb.weight"]})


def test_fingerprint_tells_weights_apart(tmp_path: Path) -> None:
    arrays = small()
    first = load(tmp_path, arrays).fingerprint
    assert len(first) == 64
    assert load(tmp_path, dict(reversed(arrays.items()))).fingerprint == first
    assert load(tmp_path, cast(arrays, "bfloat16")).fingerprint != first
    arrays["blocks.1.ffn.value.weight"] = arrays["blocks.1.ffn.value.weight"] * np.float32(1.001)
    assert load(tmp_path, arrays).fingerprint != first


def test_missing_tensors_are_listed(tmp_path: Path) -> None:
    arrays = small()
    for name in ("emb.weight", "blocks.1.att.v2"):
        del arrays[name]
    with pytest.raises(FormatError, match=r"lacks 2 tensors: emb\.weight, blocks\.1\.att\.v2"):
        load(tmp_path, arrays)
    only_norm = {name: array for name, array in small().items() if not name.startswith("blocks.1.") or "ln1.w" in name}
    with pytest.raises(FormatError, match=r"lacks 32 tensors: blocks\.1\.ln1\.bias, .* and 27 more"):
        load(tmp_path, only_norm)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("head.weight", (12, 64), r"'head\.weight' has shape \[12, 64\], expected \[11, 64\]"),
        ("blocks.1.att.w1", (64, 4), r"'blocks\.1\.att\.w1' has shape \[64, 4\], expected \[64, 3\]"),
        ("blocks.1.att.x_r", (64, 1), r"'blocks\.1\.att\.x_r' has shape \[64, 1\], expected \[64\]"),
        ("blocks.0.att.r_k", (3, 16), "does not fit the width 64"),
        ("blocks.0.att.r_k", (64,), "should be a matrix"),
        ("emb.weight", (0, 64), "should be a matrix"),
    ],
)
def test_wrong_shapes_are_named(tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load(tmp_path, small() | {name: np.zeros(shape, np.float32)})


def test_integers_are_not_weights(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"'head\.weight' is int8"):
        load(tmp_path, small() | {"head.weight": np.zeros((11, 64), np.int8)})


def test_a_huge_layer_index_costs_nothing(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="layer 999999999"):
        load(tmp_path, small() | {"blocks.999999999.x": np.zeros(1, np.float32)})


def test_unknown_tensors_are_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "wingbeat.models"):
        loaded = load(tmp_path, small() | zeros(blocks__0__att__strange=(2,)))
    assert "blocks.0.att.strange" not in loaded.tensors
    assert "ignoring unknown tensors: blocks.0.att.strange" in caplog.text


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("version", ["4", "5.0", "5.1", "5.2", "6", "7", "7a"])
def test_the_version_is_told_from_keys_in_any_order(tmp_path: Path, version: str, layers: int) -> None:
    arrays = random_model(version, layers=layers)
    order = np.random.default_rng(layers).permutation(list(arrays))
    loaded = load(tmp_path, {name: arrays[name] for name in order})
    assert loaded.version == version
    assert set(loaded.tensors) == set(arrays)
    assert (loaded.info.layers, loaded.info.width, loaded.info.vocab_size) == (layers, 64, 50)
    assert loaded.info.parameters == sum(array.size for array in arrays.values())
    assert loaded.fingerprint == load_checkpoint(write_pth(tmp_path / "other.pth", arrays)).fingerprint


def test_one_head_of_rwkv_5_has_a_decay_for_each_channel(tmp_path: Path) -> None:
    info = load(tmp_path, random_model("5.2", width=48, head_size=48)).info
    assert isinstance(info, Rwkv5Shape)
    assert (info.heads, info.head_size, info.by_channel, info.gated) == (1, 48, True, True)


@pytest.mark.parametrize(("log_bonus", "name"), [(True, "time_first"), (False, "time_faaaa")])
def test_the_bonus_of_rwkv_5_goes_by_either_name(tmp_path: Path, log_bonus: bool, name: str) -> None:
    loaded = load(tmp_path, random_model("5.0", head_size=16, log_bonus=log_bonus))
    assert loaded.tensors[f"blocks.1.att.{name}"].shape == (4,)


def test_sizes_of_rwkv_6_come_from_the_file(tmp_path: Path) -> None:
    info = load(tmp_path, random_model("6", width=60, vocab=31, head_size=20, ffn=111, ranks=(9, 7))).info
    assert info == Rwkv6Shape(
        layers=2,
        width=60,
        vocab_size=31,
        parameters=info.parameters,
        dtype="float32",
        heads=3,
        head_size=20,
        ffn_width=111,
        rank_mix=9,
        rank_decay=7,
    )


@pytest.mark.parametrize(
    ("version", "name", "shape", "message"),
    [
        ("4", "blocks.1.att.time_first", (63,), r"'blocks\.1\.att\.time_first' has shape \[63\], expected \[64\]"),
        ("5.0", "blocks.0.att.time_decay", (5,), r"time_decay' of 5 heads of 12 does not fit the width 64"),
        ("5.2", "blocks.1.att.ln_x.weight", (32,), r"'blocks\.1\.att\.ln_x\.weight' has shape \[32\], expected \[64\]"),
        ("6", "blocks.0.att.time_maa_w2", (5, 32), r"time_maa_w2' should be matrices, but has shape \[5, 32\]"),
        ("6", "blocks.0.att.time_faaaa", (2, 16), r"time_faaaa' of 2 heads of 16 does not fit the width 64"),
        ("7a", "blocks.0.ffn.s2", (31, 256), r"'blocks\.0\.ffn\.s2' has shape \[31, 256\], expected \[32, 256\]"),
        ("7a", "blocks.0.ffn.s_emb.weight", (50, 1023), r"has shape \[50, 1023\], expected \[50, 1024\]"),
    ],
)
def test_wrong_shapes_of_other_versions(
    tmp_path: Path, version: str, name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        load(tmp_path, random_model(version) | {name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize("version", ["4", "5.1", "6", "7a"])
def test_missing_tensors_name_the_version(tmp_path: Path, version: str) -> None:
    arrays = random_model(version)
    del arrays["blocks.1.ffn.value.weight"]
    with pytest.raises(FormatError, match=rf"an RWKV-{version} model of 2 layers that lacks 1 tensors: blocks\.1\.ffn"):
        load(tmp_path, arrays)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        (random_model("4") | zeros(head_q__weight=(2, 2)), "a research variant of RWKV-4"),
        (random_model("6") | zeros(blocks__0__att__gate_w1=(2, 2)), "a research variant of RWKV-6"),
        (random_model("7a") | zeros(blocks__0__qkv__qq__weight=(256, 64)), "RWKV-7b .*grows with its length"),
        (small() | zeros(blocks__0__ffn__enn__weight=(11, 64)), "RWKV-8 preview"),
        (zeros(blocks__0__att__time_state=(1, 64, 64)), "a tuned initial state .* not a model"),
        (zeros(blocks__0__att__key__lora_A=(4, 64)), "LoRA"),
        (zeros(blocks__0__att__key__disha=(4, 64)), "Bone"),
        (zeros(model__layers__0__self_attn__q_proj__weight=(4, 4)), "not an RWKV"),
        (zeros(conv__weight=(4, 4), fc__bias=(4,)), r"not an RWKV \(2 tensors, such as conv.weight, fc.bias\)"),
        ({}, "a file without tensors"),
    ],
)
def test_other_models_are_named(tmp_path: Path, arrays: Arrays, found: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"not yet supported: found .*{found}"):
        load(tmp_path, arrays)


def test_a_converted_file_of_the_old_package(tmp_path: Path) -> None:
    items = {"emb.weight": tensor("FloatStorage", "0", 4, 0, (2, 2), (2, 1)), "_strategy": unicode_("cpu fp32")}
    write_archive(tmp_path / "model.pth", document(dictionary(items)), {"0": bytes(16)})
    with pytest.raises(UnsupportedModelError, match="_strategy"):
        load_checkpoint(tmp_path / "model.pth")


def test_known_formats_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x01\0\0\0" + bytes(100))
    with pytest.raises(UnsupportedModelError, match="not yet supported: found version 1 of GGUF"):
        load_checkpoint(tmp_path / "model.gguf")


def test_metadata_is_passed_on(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", small(), {"name": "tiny"})
    assert load_checkpoint(path).metadata == {"name": "tiny"}


def test_model_inside_a_training_checkpoint(tmp_path: Path) -> None:
    arrays = small(layers=1)
    storages = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    items = {
        name: tensor("FloatStorage", str(i), array.size, 0, array.shape, [s // 4 for s in array.strides])
        for i, (name, array) in enumerate(arrays.items())
    }
    wrapped = dictionary({"epoch": integer(3), "state_dict": dictionary(items)})
    write_archive(tmp_path / "model.pth", document(wrapped), storages)
    loaded = load_checkpoint(tmp_path / "model.pth")
    assert set(loaded.tensors) == set(arrays)
    assert loaded.metadata == {"epoch": "3"}
