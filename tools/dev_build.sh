#!/usr/bin/env bash
# Builds one native module in place: tools/dev_build.sh _kernels | _sampler | _text
set -euo pipefail
cd "$(dirname "$0")/.."
build="build/dev/$1"
python=$PWD/.venv/bin/python
[ -f "$build/CMakeCache.txt" ] || cmake -S . -B "$build" -G Ninja -DPython_EXECUTABLE="$python" >/dev/null
cmake --build "$build" --target "$1"
# Renamed into place: a running process keeps the file it has mapped.
for so in "$build/native/$1".*.so; do cp "$so" "src/wingbeat/.$$.so" && mv "src/wingbeat/.$$.so" "src/wingbeat/$(basename "$so")"; done
