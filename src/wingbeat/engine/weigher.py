"""The process that ``weigh`` asks: an ``EngineConfig`` on standard input, a ``Weight`` on standard output."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from wingbeat.dtypes import BYTES_PER_WEIGHT
from wingbeat.engine.messages import EngineConfig
from wingbeat.engine.weigh import Weight
from wingbeat.models.loader import load_checkpoint
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
    shape, dtype = checkpoint.info, "bfloat16" if config.dtype == "auto" else config.dtype
    weights = shape.parameters * BYTES_PER_WEIGHT[dtype] + 2 * shape.vocab_size * shape.width
    largest = max(tensor.nbytes for tensor in checkpoint.tensors.values())
    return int(weights) + largest + PROCESS_BYTES


if __name__ == "__main__":
    main()
