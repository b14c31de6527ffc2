#!/usr/bin/env bash
# Tests the AVX-512 kernels on a machine that lacks the instructions, emulated by SIMDe (Debian: libsimde-dev).
# Slow, and right only about results: says nothing of speed.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build/avx512
python=$PWD/.venv/bin/python
cmake -S . -B "$build" -DPython_EXECUTABLE="$python" -DWINGBEAT_EMULATE_AVX512=ON >/dev/null
cmake --build "$build" --target _kernels -j2
mkdir -p "$build/site"
rm -rf "$build/site/wingbeat"
cp -r src/wingbeat "$build/site/wingbeat"
cp "$build"/native/_kernels.*.so "$build/site/wingbeat/"
PYTHONPATH="$build/site" "$python" -c 'from wingbeat.ops import cpu; print("levels:", cpu.levels())'
PYTHONPATH="$build/site" "$python" -m pytest tests/ops -k "avx512 or lowering" "$@"
