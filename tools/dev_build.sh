#!/usr/bin/env bash
# Builds one native module in place: tools/dev_build.sh _kernels | _sampler | _text
set -euo pipefail
cd "$(dirname "$0")/.."
build="build/dev/$1"
python=$PWD/.venv/bin/python
[ -f "$build/CMakeCache.txt" ] || cmake -S . -B "$build" -G Ninja -DPython_EXECUTABLE="$python" >/dev/null
cmake --build "$build" --target "$1"
cp "$build/native/$1".*.so src/wingbeat/
