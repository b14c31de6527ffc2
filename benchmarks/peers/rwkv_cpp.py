"""Time rwkv.cpp on the CPU: one line of JSON for one sequence. It runs RWKV-4, a token at a time.

    pip download --no-deps --no-binary rwkv_cpp_python rwkv_cpp_python==0.0.1  # of April 2023
    tar xf rwkv_cpp_python-0.0.1.tar.gz
    python benchmarks/random_model.py v4-169M v4.safetensors
    python benchmarks/peers/rwkv_cpp.py v4.safetensors --sources rwkv_cpp_python-0.0.1 [--dtype q4_0] [--threads 2]

Its library is compiled for this processor, into the folder of its sources.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checkpoint import read
from common import rate, report

QUANTISED = {"q4_0": 2, "q4_1": 3}
Floats = ctypes.POINTER(ctypes.c_float)


def library(sources: Path) -> ctypes.CDLL:
    """rwkv.cpp, compiled if it is not yet."""
    built = sources / "librwkv-native.so"
    if not built.exists():
        flags = ["-O3", "-march=native", "-fPIC", "-DNDEBUG"]
        subprocess.run(["cc", *flags, "-c", "ggml.c", "-o", "ggml.o"], cwd=sources, check=True)
        code = [*flags, "-std=c++17", "-DRWKV_SHARED", "-DRWKV_BUILD", "-shared", "rwkv.cpp", "ggml.o"]
        subprocess.run(["c++", *code, "-o", built.name, "-lpthread"], cwd=sources, check=True)
    found = ctypes.CDLL(str(built.resolve()))
    found.rwkv_init_from_file.restype = ctypes.c_void_p
    found.rwkv_eval.argtypes = [ctypes.c_void_p, ctypes.c_int32, Floats, Floats, Floats]
    found.rwkv_eval.restype = ctypes.c_bool
    for name in ("rwkv_get_state_buffer_element_count", "rwkv_get_logits_buffer_element_count"):
        getattr(found, name).argtypes = [ctypes.c_void_p]
        getattr(found, name).restype = ctypes.c_uint32
    return found


def converter(sources: Path) -> Any:
    """rwkv.cpp's own script that writes its files."""
    spec = importlib.util.spec_from_file_location("convert", sources / "rwkv/convert_pytorch_to_ggml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(rwkv: ctypes.CDLL, args: argparse.Namespace) -> int:
    """The model's context."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.bin")
        plain = "float16" if args.dtype in QUANTISED else args.dtype
        with contextlib.redirect_stdout(sys.stderr):  # it says what it writes
            converter(args.sources).write_state_dict(read(args.model), file, plain)
        if args.dtype in QUANTISED:
            smaller = str(Path(folder) / "quantised.bin")
            if not rwkv.rwkv_quantize_model_file(file.encode(), smaller.encode(), QUANTISED[args.dtype]):
                raise SystemExit("rwkv.cpp could not quantise the model")
            file = smaller
        context = rwkv.rwkv_init_from_file(file.encode(), ctypes.c_uint32(args.threads))
        if not context:
            raise SystemExit("rwkv.cpp could not load the model")
        return context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="RWKV-4, .safetensors or .pth")
    parser.add_argument("--sources", type=Path, required=True, help="the unpacked package")
    parser.add_argument("--dtype", choices=("float32", "float16", *QUANTISED), default="float16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5)
    args = parser.parse_args()
    rwkv = library(args.sources)
    context = load(rwkv, args)
    state = (ctypes.c_float * rwkv.rwkv_get_state_buffer_element_count(context))()
    logits = (ctypes.c_float * rwkv.rwkv_get_logits_buffer_element_count(context))()
    begun = False
    vocab = len(logits)  # of the Pile: smaller than that of the tokens here

    def step(tokens: list[int]) -> None:
        nonlocal begun
        for token in tokens:
            if not rwkv.rwkv_eval(context, token % vocab, state if begun else None, state, logits):
                raise SystemExit("rwkv.cpp could not run a token")
            begun = True

    report(f"rwkv.cpp {args.dtype}", args.model, "decode b1", rate(1, step, args.seconds))


if __name__ == "__main__":
    main()
