"""`wingbeat convert` and `wingbeat info`: what they write and say is read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.models.layouts import schemes
from tests.random_models import cast, random_model, write_pth, write_safetensors
from wingbeat.cli import app
from wingbeat.formats.safetensors import open_safetensors
from wingbeat.models.loader import load_checkpoint

VERSIONS = ("4", "5.0", "5.1", "5.2", "6", "7", "7a")
IN_ST = ("4", "5.1", "5.2", "6", "7")


def model(version: str) -> dict[str, np.ndarray]:
    sizes = {} if version == "4" else {"head_size": 16}
    return random_model(version, layers=2, width=64, vocab=11, **sizes)


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in args])


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in open_safetensors(path).items()}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name].reshape(array.shape), array, err_msg=name)


@pytest.mark.parametrize("version", VERSIONS)
def test_to_safetensors_and_nothing_changes(tmp_path: Path, version: str) -> None:
    source, target = write_pth(tmp_path / "model.pth", cast(model(version), "bfloat16")), tmp_path / "out.safetensors"
    result = invoke("convert", source, target)
    assert (result.exit_code, result.stdout) == (0, f"{target}\n"), result.output
    same(arrays(target), cast(model(version), "bfloat16"))
    assert load_checkpoint(target).fingerprint == load_checkpoint(source).fingerprint


@pytest.mark.parametrize("version", IN_ST)
def test_to_st_as_its_converter_does_and_back(tmp_path: Path, version: str) -> None:
    halves = cast(model(version), "float16")
    source = write_pth(tmp_path / "model.pth", model(version))
    assert invoke("convert", "--input", source).stdout == f"{tmp_path / 'model.st'}\n"
    same(arrays(tmp_path / "model.st"), schemes.web_rwkv(halves, version))
    assert open_safetensors(tmp_path / "model.st").metadata["format"] == "pt"
    assert invoke("convert", tmp_path / "model.st", "--output", tmp_path / "back.safetensors").exit_code == 0
    same(arrays(tmp_path / "back.safetensors"), halves)


def test_the_logarithm_of_the_bonus_becomes_the_bonus(tmp_path: Path) -> None:
    logs = model("5.1")
    for name in [name for name in logs if name.endswith("time_faaaa")]:
        logs[name.replace("time_faaaa", "time_first")] = np.log(np.abs(logs.pop(name)) + 1)
    source = write_pth(tmp_path / "model.pth", logs)
    assert invoke("convert", source).exit_code == 0
    bonus = arrays(tmp_path / "model.st")["blocks.1.att.time_first"]
    expected = np.exp(logs["blocks.1.att.time_first"]).reshape(-1, 1)
    np.testing.assert_array_equal(bonus, np.broadcast_to(expected, (4, 16)).astype(np.float16))


def test_remarks_and_a_tuned_state_in_the_file_go_along(tmp_path: Path) -> None:
    given = cast(model("7"), "float16")
    given |= {f"blocks.{i}.att.time_state": np.arange(1024, dtype=np.float16).reshape(4, 16, 16) for i in range(2)}
    source = write_safetensors(tmp_path / "model.safetensors", given, {"name": "mine"})
    assert invoke("convert", source).exit_code == 0
    turned = np.swapaxes(given["blocks.1.att.time_state"], 1, 2)
    np.testing.assert_array_equal(arrays(tmp_path / "model.st")["blocks.1.att.time_state"], turned)
    assert open_safetensors(tmp_path / "model.st").metadata == {"format": "pt", "name": "mine"}
    assert invoke("convert", tmp_path / "model.st", tmp_path / "back.safetensors").exit_code == 0
    same(arrays(tmp_path / "back.safetensors"), given)


def test_another_number_format(tmp_path: Path) -> None:
    source = write_pth(tmp_path / "model.pth", model("7"))
    target = tmp_path / "half.safetensors"
    assert invoke("convert", source, target, "--dtype", "bfloat16").exit_code == 0
    same(arrays(target), cast(model("7"), "bfloat16"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["model.pth", "there.st"], "there.st is there already"),
        (["model.pth", "x.pth"], "should end in .safetensors"),
        (["model.pth", "x.st", "--dtype", "bfloat16"], "a .st file holds float16"),
        (["model.pth", "x.safetensors", "--dtype", "int8"], "dtype: choose float32"),
        (["nothing.pth", "x.st"], "There is no file nothing.pth"),
        (["notes.txt", "x.st"], "is not a checkpoint"),
        (["v5.0.pth", "x.st"], "RWKV-5.0 has no form in .st"),
        (["v7a.pth"], "run only 4, 5.1, 5.2, 6, 7: write it as .safetensors, which holds every version"),
        (["large.pth", "x.st"], "numbers above 65504, which float16 cannot hold"),
        (["model.pth", "none/x.st"], "No such file"),
        ([], "name one model"),
        (["model.pth", "--input", "model.pth"], "name one model"),
        (["model.pth", "x.st", "--output", "y.st"], "at most one file to write"),
    ],
)
def test_mistakes_leave_no_file(tmp_path: Path, args: list[str], message: str) -> None:
    write_pth(tmp_path / "model.pth", model("7"))
    write_pth(tmp_path / "v5.0.pth", model("5.0"))
    write_pth(tmp_path / "v7a.pth", model("7a"))
    write_pth(tmp_path / "large.pth", {**model("7"), "ln_out.bias": np.full(64, 1e6, np.float32)})
    (tmp_path / "there.st").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_text("not a model")
    before = sorted(tmp_path.iterdir())
    result = invoke("convert", *args)
    assert result.exit_code == 1
    assert "Error: " in result.stderr
    assert message in result.stderr
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.st").read_bytes() == b"mine"


def test_force_replaces_even_the_source(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", model("7"))
    assert invoke("convert", path, path, "--dtype", "float16", "--force").exit_code == 0
    same(arrays(path), cast(model("7"), "float16"))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("version", VERSIONS)
def test_info_tells_what_the_file_holds(tmp_path: Path, version: str) -> None:
    given = cast(model(version), "float16")
    path = write_pth(tmp_path / "model.pth", given)
    told = json.loads(invoke("info", path, "--json", "--tensors").stdout)
    assert (told["version"], told["dtype"], told["vocab_size"]) == (version, "float16", 11)
    assert told["parameters"] == sum(array.size for array in given.values())
    assert told["file_bytes"] == path.stat().st_size
    assert told["sizes"]["layers"] == 2
    assert told["sizes"]["width"] == 64
    assert {each["name"]: each["shape"] for each in told["tensors"]} == {
        name: list(array.shape) for name, array in given.items()
    }
    assert told["memory"]["float32"] > told["memory"]["bfloat16"] > told["memory"]["int8"] > told["memory"]["int4"]
    layer = 5 * 64 if version == "4" else 2 * 64 + 4 * 16 * 16
    assert told["state"] >= 4 * 2 * layer
    shown = invoke("info", path).stdout
    assert f"RWKV-{version}, {told['parameters'] / 1e6:,.1f} million parameters in float16" in shown
    assert "blocks.0.ln0.weight" not in shown
    assert "blocks.0.ln0.weight" in invoke("info", path, "--tensors").stdout


def test_info_of_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"x")
    result = invoke("info", tmp_path / "broken.pth")
    assert result.exit_code == 1
    assert "broken.pth is not a checkpoint" in result.stderr
