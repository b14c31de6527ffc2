"""Read a model file in the official layout with torch; only the peers' scripts need it."""

from __future__ import annotations

import torch


def read(path: str) -> dict[str, torch.Tensor]:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
