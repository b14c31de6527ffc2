"""Each naming scheme comes out as the official one: names, shapes and values, whole or by single elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.models.layouts import schemes
from tests.models.layouts.schemes import Arrays
from tests.random_models import cast, random_model
from wingbeat.formats.lazy import Checkpoint, FormatError, LazyTensor
from wingbeat.models.detect import UnsupportedModelError
from wingbeat.models.layouts import to_official
from wingbeat.models.layouts.norms import group_norm_eps

RWKV_CPP, GGUF, SAFETENSORS = "rwkv.cpp", "GGUF", "safetensors"


def model(version: str, layers: int = 5) -> Arrays:
    sizes = {} if version == "4" else {"head_size": 16}
    return random_model(version, layers=layers, width=64, vocab=7, **sizes)


def checkpoint(arrays: Mapping[str, np.ndarray], container: str = SAFETENSORS, **metadata: str) -> Checkpoint:
    def lazy(array: np.ndarray) -> LazyTensor:
        return LazyTensor(array.shape, array.dtype, lambda: array)

    return Checkpoint(Path("model"), {name: lazy(array) for name, array in arrays.items()}, metadata, container)


def check(found: Mapping[str, LazyTensor], expected: Mapping[str, np.ndarray], *, exact: bool = True) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        tensor = found[name]
        want = tuple(n for n in array.shape if n != 1 or array.ndim != 3)  # (1, 1, D) may be (D,)
        assert tensor.shape in (array.shape, want), name
        values = tensor.read()
        assert values.shape == tensor.shape, name
        assert tensor.dtype == values.dtype == array.dtype, name
        if exact:
            np.testing.assert_array_equal(values.reshape(array.shape), array, err_msg=name)
        else:
            np.testing.assert_allclose(values.reshape(array.shape), array, rtol=1e-5, atol=1e-5, err_msg=name)
        places = np.arange(0, array.size, max(1, array.size // 97))
        np.testing.assert_array_equal(tensor.take(places), values.reshape(-1)[places], err_msg=name)


VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7", "7a")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_official_layout_stays_as_it_is(version: str) -> None:
    arrays = model(version)
    check(to_official(checkpoint(arrays)), arrays)
    check(to_official(checkpoint({"_orig_mod." + name: array for name, array in arrays.items()})), arrays)


@pytest.mark.parametrize("version", VERSIONS)
def test_web_rwkv(version: str) -> None:
    arrays = cast(model(version), "float16")
    check(to_official(checkpoint(schemes.web_rwkv(arrays, version))), arrays)


def test_web_rwkv_files_whose_factors_were_not_turned() -> None:
    arrays = model("6")
    renamed = {name.replace("time_maa_", "time_mix_"): array for name, array in arrays.items()}
    renamed = {name.replace("time_faaaa", "time_first"): array for name, array in renamed.items()}
    check(to_official(checkpoint(renamed)), arrays)


def test_square_factors_go_with_the_others() -> None:
    """Nothing tells which way a square matrix lies, but the other factors of the file."""
    arrays = random_model("7", layers=2, width=64, vocab=7, head_size=16, ranks=(8, 64, 64, 8))
    check(to_official(checkpoint(arrays)), arrays)
    check(to_official(checkpoint(schemes.web_rwkv(arrays, "7"))), arrays)


@pytest.mark.parametrize("log_bonus", [True, False])
def test_the_bonus_of_rwkv_5_keeps_its_meaning(log_bonus: bool) -> None:
    """A vector `time_first` is a logarithm in the official files and in web-rwkv's."""
    arrays = random_model("5.0", width=64, vocab=7, head_size=16, log_bonus=log_bonus)
    check(to_official(checkpoint(schemes.web_rwkv(arrays, "5.0"))), arrays)


def test_tuned_states_inside_a_web_rwkv_file() -> None:
    arrays = model("6", layers=1) | {
        "blocks.0.att.time_state": np.arange(4 * 16 * 16, dtype=np.float32).reshape(4, 16, 16)
    }
    stored = schemes.web_rwkv(arrays, "6")
    stored["blocks.0.att.time_state"] = schemes.turned(arrays["blocks.0.att.time_state"])
    check(to_official(checkpoint(stored)), arrays)


@pytest.mark.parametrize("version", ["4", "5.0", "5.1", "5.2", "6"])
def test_hugging_face(version: str) -> None:
    arrays = model(version)
    check(to_official(checkpoint(schemes.hugging_face(arrays, version), rescale_every="6")), arrays)


@pytest.mark.parametrize(("version", "fused"), [("6", False), ("7", False), ("7", True)])
def test_fla(version: str, fused: bool) -> None:
    arrays = model(version)
    config = {"model_type": f"rwkv{version}", "attn": "null", "value_dim": "[64, 64]", "norm_eps": "1e-05"}
    check(to_official(checkpoint(schemes.fla(arrays, version, fused=fused), **config)), arrays)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_gguf_of_rwkv_7(dtype: str) -> None:
    arrays = cast(model("7"), dtype)
    metadata = {"general.architecture": "rwkv7", "rwkv7.wkv.head_size": "16"}
    check(to_official(checkpoint(schemes.gguf(arrays, "7"), GGUF, **metadata)), arrays)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rescaled", [True, False])
def test_gguf_of_rwkv_6(fused: bool, rescaled: bool) -> None:
    arrays = cast(model("6"), "bfloat16")
    metadata = {"general.architecture": "rwkv6", "rwkv6.rescale_every_n_layers": str(schemes.RESCALE_EVERY * rescaled)}
    stored = schemes.gguf(arrays, "6", fused=fused, rescaled=rescaled)
    check(to_official(checkpoint(stored, GGUF, **metadata)), arrays)


@pytest.mark.parametrize("version", ["4", "5.0", "5.1", "5.2", "6", "7"])
def test_rwkv_cpp(version: str) -> None:
    arrays = model(version)
    found = to_official(checkpoint(schemes.rwkv_cpp(arrays, version), RWKV_CPP))
    check(found, arrays, exact=version in ("6", "7"))  # else decays are stored as exponentials


def test_rwkv_cpp_has_the_bonus_itself() -> None:
    arrays = random_model("5.0", width=64, vocab=7, head_size=16, log_bonus=True)
    found = to_official(checkpoint(schemes.rwkv_cpp(arrays, "5.0"), RWKV_CPP))
    bonus = np.exp(arrays["blocks.1.att.time_first"])
    np.testing.assert_array_equal(found["blocks.1.att.time_faaaa"].read(), bonus)


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_decays_at_their_ends_stay_finite(decay: float, expected: float) -> None:
    arrays = schemes.rwkv_cpp(model("5.2", layers=1), "5.2")
    arrays["blocks.0.att.time_decay"][:] = decay
    found = to_official(checkpoint(arrays, RWKV_CPP))["blocks.0.att.time_decay"].read()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(-np.exp(found)), expected, atol=1e-7)


def of_gguf(change: Callable[[Arrays], object] = lambda arrays: None, **metadata: str) -> Checkpoint:
    arrays = schemes.gguf(model("7", layers=1), "7")
    change(arrays)
    return checkpoint(arrays, GGUF, **{"general.architecture": "rwkv7", "rwkv7.wkv.head_size": "16"} | metadata)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (of_gguf(**{"general.architecture": "llama"}), "'llama', which is not an RWKV"),
        (of_gguf(**{"general.architecture": ""}), "''"),
        (
            of_gguf(**{"general.architecture": "rwkv6qwen2"}),
            "a Qwen model converted to RWKV-6's attention, with RMSNorm",
        ),
        (of_gguf(**{"general.architecture": "arwkv7"}), "a Qwen model converted to RWKV-7's attention, with RMSNorm"),
        (checkpoint({"model.layers.0.self_attn.q_proj.weight": np.zeros((4, 4))}), "not an RWKV"),
        (checkpoint(schemes.fla(model("7"), "7"), attn='{"layers": [1]}'), "a hybrid of RWKV and attention layers"),
        (checkpoint(schemes.fla(model("7"), "7"), model_type="rwkv7qwen2"), "a model of type 'rwkv7qwen2'"),
        (checkpoint(schemes.fla(model("7"), "7"), value_dim="[64, 128]"), "value_dim is not its width 64"),
        (checkpoint(schemes.fla(model("7"), "7"), norm_eps="1e-06"), "norm_eps 1e-06"),
        (
            checkpoint(schemes.fla(model("7"), "7") | {"model.layers.1.attn.q_proj.weight": np.zeros((4, 4))}),
            "a hybrid of RWKV and attention layers",
        ),
        (
            checkpoint(schemes.fla(model("7"), "7") | {"model.layers.1.mlp.up_proj.weight": np.zeros((4, 4))}),
            "a hybrid of RWKV and a transformer's layers",
        ),
        (
            checkpoint({name: array for name, array in schemes.fla(model("7"), "7").items() if "g_lora" not in name}),
            "without the output gate",
        ),
    ],
)
def test_other_models_are_refused_with_the_reason(given: Checkpoint, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"not yet supported: found .*{message}"):
        to_official(given)


@pytest.mark.parametrize(
    ("scheme", "version", "config", "expected"),
    [
        (schemes.fla, "7", {"norm_eps": "1e-05"}, 16e-5),  # head size 16
        (schemes.fla, "7", {}, None),
        (schemes.fla, "6", {"norm_eps": "1e-05"}, None),
        (schemes.hugging_face, "6", {"head_size_divisor": "4", "layer_norm_epsilon": "1e-05"}, 16e-5),
        (schemes.hugging_face, "5.2", {"layer_norm_epsilon": "1e-05"}, None),
        (lambda arrays, _: arrays, "7", {"wingbeat.gn_eps": "3e-05"}, 3e-5),
        (lambda arrays, _: arrays, "7", {"norm_eps": "1"}, None),
    ],
)
def test_the_epsilon_of_group_norms(
    scheme: Callable[[Arrays, str], Arrays], version: str, config: dict[str, str], expected: float | None
) -> None:
    found = group_norm_eps(checkpoint(scheme(model(version), version), **config))
    assert found == (expected if expected is None else pytest.approx(expected, rel=1e-12))


@pytest.mark.parametrize("text", ["0", "-1e-5", "NaN", "1e999", "null", "[", "[1]", "9" * 400])
def test_what_is_no_epsilon(text: str) -> None:
    with pytest.raises(FormatError, match=r"its wingbeat\.gn_eps is .*, which is no such number"):
        group_norm_eps(checkpoint(model("7"), **{"wingbeat.gn_eps": text}))


def test_layer_norms_with_another_epsilon_are_refused() -> None:
    stored = schemes.hugging_face(model("4"), "4")
    with pytest.raises(UnsupportedModelError, match="layer_norm_epsilon 1e-06; RWKV's is 1e-5"):
        group_norm_eps(checkpoint(stored, layer_norm_epsilon="1e-06"))


def put(name: str, *shape: int) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (of_gguf(put("blk.0.time_mix_lerp_fused.weight", 5, 1, 1, 64)), r"should stack 6 mixes, .*\[5, 1, 1, 64\]"),
        (of_gguf(put("blk.0.time_mix_lerp_fused.weight")), r"should stack 6 mixes, .*\[\]"),
        (of_gguf(put("blk.00.time_mix_key.weight", 4, 4)), "two tensors are both 'blocks.0.att.key.weight'"),
        (of_gguf(**{"rwkv7.wkv.head_size": "0"}), "does not fit a head size of 0"),
        (of_gguf(**{"rwkv7.wkv.head_size": "17"}), "does not fit a head size of 17"),
        (of_gguf(**{"rwkv7.wkv.head_size": "9" * 5000}), "which is no size"),
        (of_gguf(**{"rwkv7.wkv.head_size": "-1"}), "'-1', which is no size"),
        (checkpoint(schemes.rwkv_cpp(model("7"), "7") | {"blocks.1.att.x_rwkvag": np.zeros(3)}, RWKV_CPP), "six mixes"),
        (checkpoint(schemes.fla(model("7"), "7") | {"model.layers.1.attn.x_x": np.zeros(3)}), "six mixes"),
        (
            checkpoint(schemes.fla(model("7"), "7") | {"model.layers.1.attn.w_lora.lora.0.weight": np.zeros(3)}),
            "matrix",
        ),
        (checkpoint(schemes.fla(model("6"), "6") | {"model.layers.1.attn.x_bias": np.zeros((6, 64))}), "five mixes"),
        (checkpoint(schemes.fla(model("6"), "6") | {"model.layers.1.attn.x_proj.2.weight": np.zeros(5)}), "five mixes"),
        (checkpoint({"module.a": np.zeros(1), "a": np.zeros(1)}), "two tensors are both called 'a'"),
        (
            checkpoint(
                {"blk.99.channel_mix_value.weight": np.zeros((4, 4), np.float32)},
                GGUF,
                **{"general.architecture": "rwkv6", "rwkv6.rescale_every_n_layers": "1"},
            ),
            "layer 99 was halved 99 times",
        ),
    ],
)
def test_tensors_that_do_not_fit(given: Checkpoint, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        to_official(given)


def test_nothing_is_read_before_it_is_asked_for() -> None:
    def never() -> np.ndarray:
        raise AssertionError("read")

    for version, container, scheme in (("7", GGUF, schemes.gguf), ("6", SAFETENSORS, schemes.fla)):
        arrays = scheme(model(version), version)
        given = checkpoint(arrays, container, **{"general.architecture": f"rwkv{version}", "rwkv7.wkv.head_size": "16"})
        lazy = {name: LazyTensor(tensor.shape, tensor.dtype, never) for name, tensor in given.items()}
        found = to_official(Checkpoint(given.path, lazy, given.metadata, container))
        assert sum(math.prod(tensor.shape) for tensor in found.values()) > 10_000
