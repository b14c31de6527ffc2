"""Make a small, real text-embedding model in ONNX: the static token vectors that the package ``wordllama`` ships.

    .venv/bin/python tools/make_embed_fixture.py FOLDER

FOLDER gets ``model.onnx`` (32,000 vectors of 256 values, looked up by token) and ``tokenizer.json``, laid out as models
of sentence-transformers are: the mean over the tokens is left to who runs it. The package (MIT) is read, not imported.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from wingbeat.formats.checkpoint import open_checkpoint

WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"


def make(folder: Path) -> Path:
    """Write both files; returns the folder. Raises SystemExit where the package is missing."""
    found = importlib.util.find_spec("wordllama")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("install wordllama first: it is in wingbeat[dev]")
    package = Path(found.submodule_search_locations[0])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(package / TOKENIZER, folder / "tokenizer.json")
    (tensor,) = open_checkpoint(package / WEIGHTS).values()
    onnx.save(_graph(np.asarray(tensor.read(), np.float16)), folder / "model.onnx")
    return folder


def _graph(vectors: np.ndarray) -> onnx.ModelProto:
    """Gather the rows of ``vectors`` [V, D] and give them as float32."""
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    hidden = helper.make_tensor_value_info(
        "last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", vectors.shape[1]]
    )
    nodes = [
        helper.make_node("Gather", ["vectors", "input_ids"], ["found"]),
        helper.make_node("Cast", ["found"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["wide", "column"], ["last_hidden_state"]),
    ]
    constants = [
        numpy_helper.from_array(vectors, "vectors"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
    ]
    graph = helper.make_graph(nodes, "static", ids, [hidden], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
