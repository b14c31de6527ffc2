"""The epsilon of the GroupNorms, which no checkpoint of tensors tells, but what lies beside them may."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from wingbeat.formats.lazy import Checkpoint, FormatError
from wingbeat.models.detect import UnsupportedModelError
from wingbeat.models.layouts import fla, hugging_face

METADATA_KEY = "wingbeat.gn_eps"
"""Under which `wingbeat convert` keeps what it learnt in a `.safetensors` or `.st` file."""

LAYER_NORM_EPS = 1e-5  # of every RWKV


def group_norm_eps(checkpoint: Checkpoint) -> float | None:
    """What the metadata say of it, or the `config.json` by the rule of the library that the folder is for.

    - fla computes RWKV-7 with the head size times `norm_eps`. Its RWKV-6 takes `norm_eps` itself, but what is published
      in that layout was trained elsewhere, with the usual one: nothing is told.
    - RWKV's own code takes `layer_norm_epsilon` times the square of `head_size_divisor`.

    None: nothing is said. Raises FormatError for what is no epsilon, UnsupportedModelError for other LayerNorms.
    """
    config = checkpoint.metadata
    if METADATA_KEY in config:
        return _positive(METADATA_KEY, config)
    if fla.matches(checkpoint) and "norm_eps" in config:
        heads = [tensor.shape for name, tensor in checkpoint.items() if name.endswith(".attn.r_k")]
        return heads[0][-1] * _positive("norm_eps", config) if heads and heads[0] else None
    if hugging_face.matches(checkpoint):
        if "layer_norm_epsilon" in config and abs(_positive("layer_norm_epsilon", config) - LAYER_NORM_EPS) > 1e-9:
            found = config["layer_norm_epsilon"][:40]
            raise UnsupportedModelError(
                f"not yet supported: found an RWKV variant with layer_norm_epsilon {found}; RWKV's is 1e-5."
            )
        if "head_size_divisor" in config:
            return LAYER_NORM_EPS * _positive("head_size_divisor", config) ** 2
    return None


def _positive(key: str, metadata: Mapping[str, str]) -> float:
    try:
        value = float(json.loads(metadata[key]))
        if math.isfinite(value) and 0 < value < 1e6:
            return value
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    raise FormatError(f"its {key} is {metadata[key][:40]!r}, which is no such number")
