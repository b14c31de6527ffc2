"""Make the committed test oracles from the official software: `python tools/make_fixtures.py [folder]`.

Needs, beside wingbeat's own dependencies: torch, the `rwkv` package and safetensors. Run from the repository's root.
Writes to tests/fixtures:

    logits/*.npz     what the official `rwkv` package says in fp32 on random models (tests/random_models.py makes the
                     same weights again from `arguments`), for every token of a prompt
    torch/*.pth      small files of real torch.save
    safetensors/*    a small file of the safetensors package
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tests.random_models import random_model, write_pth  # noqa: E402

TOKENS = 40
CASES = {
    "one_layer": {"layers": 1, "width": 64, "vocab": 50},
    "odd_ranks": {"layers": 3, "width": 128, "vocab": 301, "ranks": (8, 12, 4, 20)},
    "layer0_value": {"layers": 2, "width": 128, "vocab": 97, "ranks": (16, 8, 24, 8), "layer0_value": True},
    "odd_ffn": {"layers": 2, "width": 192, "vocab": 77, "ffn": 333, "ranks": (9, 5, 3, 17)},
    "head_size_32": {"layers": 2, "width": 96, "vocab": 61, "head_size": 32},
    "head_size_128": {"layers": 2, "width": 256, "vocab": 53, "head_size": 128, "ffn": 512},
    "nothing_even": {"layers": 2, "width": 63, "vocab": 37, "head_size": 21, "ffn": 131, "ranks": (3, 5, 7, 2)},
    "five_layers": {"layers": 5, "width": 64, "vocab": 129, "ranks": (4, 4, 4, 4)},
    "v4_published": {"version": "4", "layers": 3, "width": 64, "vocab": 50},
    "v4_one_layer": {"version": "4", "layers": 1, "width": 96, "vocab": 41},
    "v4_large_keys": {"version": "4", "layers": 2, "width": 63, "vocab": 37, "ffn": 131, "key_size": 40.0},
    "v5.0_faaaa": {"version": "5.0", "layers": 3, "width": 128, "vocab": 45},
    "v5.0_first": {"version": "5.0", "layers": 2, "width": 64, "vocab": 33, "head_size": 16, "log_bonus": True},
    "v5.1": {"version": "5.1", "layers": 2, "width": 80, "vocab": 39, "head_size": 8, "ffn": 100},
    "v5.1_first": {"version": "5.1", "layers": 1, "width": 63, "vocab": 39, "head_size": 21, "log_bonus": True},
    "v5.2": {"version": "5.2", "layers": 3, "width": 128, "vocab": 61, "ffn": 448},
    "v5.2_odd": {"version": "5.2", "layers": 2, "width": 63, "vocab": 37, "head_size": 21, "ffn": 131},
    "v5.2_eps": {"version": "5.2", "layers": 2, "width": 64, "vocab": 40, "head_size": 8, "gn_eps": 1e-5},
    "v6": {"version": "6", "layers": 3, "width": 128, "vocab": 61, "ffn": 448},
    "v6_one_layer": {"version": "6", "layers": 1, "width": 64, "vocab": 33, "head_size": 16},
    "v6_odd": {
        "version": "6",
        "layers": 2,
        "width": 63,
        "vocab": 37,
        "head_size": 21,
        "ffn": 131,
        "ranks": (7, 5),
    },
    "v6_eps": {"version": "6", "layers": 2, "width": 64, "vocab": 40, "head_size": 8, "gn_eps": 1e-5},
    "v7a": {"version": "7a", "layers": 3, "width": 128, "vocab": 61, "ranks": (8, 12, 4, 20)},
    "v7a_odd": {"version": "7a", "layers": 2, "width": 63, "vocab": 37, "head_size": 21, "ffn": 131},
}


def make_logits(folder: Path) -> None:
    """Each in a process of its own: the package chooses its code from the environment when it is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for seed, (name, case) in enumerate(CASES.items(), start=1):
            shape = {key: value for key, value in case.items() if key != "gn_eps"}
            arguments, tokens = shape | {"seed": seed}, np.random.default_rng(seed).integers(0, shape["vocab"], TOKENS)
            task = processes.submit(official_logits, arguments, tokens.tolist(), case.get("gn_eps"))
            logits, difference = task.result()
            print(f"{name}: spread {np.ptp(logits):.3f}, whole against token by token {difference:.1e}")
            np.savez_compressed(
                folder / f"{name}.npz",
                arguments=json.dumps(arguments),
                tokens=tokens.astype(np.int32),
                logits=logits,
                gn_eps=np.float64(case.get("gn_eps", 64e-5)),
            )


def official_logits(arguments: dict[str, Any], tokens: list[int], gn_eps: float | None) -> tuple[np.ndarray, float]:
    """float32 [T, V] from one call, and how far token by token is from it."""
    version = arguments.get("version", "7")
    os.environ |= {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "1" if version.startswith("7") else "0"}
    os.environ["RWKV_DE_VERSION"] = "1" if version == "7a" else "0"
    from rwkv.model import RWKV

    if gn_eps is not None:  # the package's own is part of its code
        group_norm = torch.nn.functional.group_norm
        torch.nn.functional.group_norm = lambda *args, **kwargs: group_norm(*args, **kwargs | {"eps": gn_eps})
    with tempfile.TemporaryDirectory() as folder:
        path = write_pth(Path(folder) / "model.pth", random_model(**arguments))
        model = RWKV(str(path.with_suffix("")), "cpu fp32")
        whole = model.forward(tokens, None, full_output=True)[0].numpy()
        single, state = [], None
        for token in tokens:
            logits, state = model.forward([token], state)
            single.append(logits.numpy())
    return whole.astype(np.float32), float(np.abs(whole - np.stack(single)).max())


def make_torch_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    counting = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "float32": counting,
        "float16": counting.half(),
        "bfloat16": counting.bfloat16(),
        "int64": counting.long(),
        "bool": counting % 2 == 0,
        "transposed": counting.t(),
        "rows": counting[1:3],
        "every_other_column": counting[:, ::2],
        "scalar": torch.tensor(7.0),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(counting.clone()),
    }
    torch.save(tensors, folder / "tensors.pth")
    torch.save(tensors, folder / "protocol4.pth", pickle_protocol=4)
    torch.save(tensors, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    linear = torch.nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(6.0).reshape(2, 3))
        linear.bias.zero_()
    torch.save({"state_dict": linear.state_dict(), "epoch": 3}, folder / "training.pth")
    torch.save(linear, folder / "whole_module.pth")
    torch.save(counting, folder / "bare_tensor.pth")
    torch.save({"expanded": torch.zeros(1).expand(1000)}, folder / "expanded.pth")


def make_safetensors_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    counting = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "float32": counting,
        "float16": counting.half(),
        "bfloat16": counting.bfloat16(),
        "int64": counting.long(),
        "bool": counting % 2 == 0,
        "scalar": torch.tensor(7.0),
        "empty": torch.empty(0, 3),
    }
    save_file(tensors, folder / "tensors.safetensors", metadata={"made by": "safetensors"})


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "fixtures"
    make_logits(target / "logits")
    make_torch_files(target / "torch")
    make_safetensors_files(target / "safetensors")
