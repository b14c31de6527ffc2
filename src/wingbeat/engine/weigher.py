"""The process that ``weigh`` asks: an ``EngineConfig`` on standard input, a ``Weight`` on standard output."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from wingbeat.engine.messages import EngineConfig
from wingbeat.engine.weigh import Weight
from wingbeat.models.load import choose_backend, choose_precision
from wingbeat.models.loader import load_checkpoint
from wingbeat.models.memory import weight_bytes
from wingbeat.models.precision import uniform
from wingbeat.models.prefab import is_prefab, open_prefab

PROCESS_BYTES = 256 << 20
"""Of an engine besides its weights and states: the interpreter, the vocabulary, the buffers of a step."""


def main() -> None:
    config = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=EngineConfig)
    try:
        weight = Weight(bytes=_bytes(config))
    except (ValueError, OSError) as error:
        weight = Weight(error=str(error))
    sys.stdout.buffer.write(msgspec.msgpack.encode(weight))


def _bytes(config: EngineConfig) -> int:
    if is_prefab(config.model):
        return open_prefab(Path(config.model)).size + PROCESS_BYTES
    checkpoint = load_checkpoint(config.model, config.adapters)
    backend, layers = choose_backend(config.backend), checkpoint.info.layers
    precision = choose_precision(layers, backend, config.dtype, config.quant, config.quant_layers, config.strategy)
    if backend == "reference":  # which holds what it rounds as float32
        precision = uniform("float32", layers)
    largest = max(tensor.nbytes for tensor in checkpoint.tensors.values())
    return weight_bytes(checkpoint, precision) + largest + PROCESS_BYTES


if __name__ == "__main__":
    main()
