"""The layout of the RWKV organisation's Hugging Face models, v4 to v6: longer names, the same shapes."""

from __future__ import annotations

from collections.abc import Mapping

from wingbeat.formats.lazy import LazyTensor

_PARTS = {
    "embeddings": "emb",
    "pre_ln": "ln0",
    "attention": "att",
    "feed_forward": "ffn",
    "time_mix_key": "time_mix_k",
    "time_mix_value": "time_mix_v",
    "time_mix_receptance": "time_mix_r",
    "time_mix_gate": "time_mix_g",
}


def matches(names: Mapping[str, LazyTensor]) -> bool:
    return any(name.startswith(("rwkv.blocks.", "rwkv.embeddings.")) for name in names)


def to_official(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The official names; weights are not rescaled in these files, whatever `rescale_every` in their config says."""
    return {_official(name): tensor for name, tensor in tensors.items()}


def _official(name: str) -> str:
    return ".".join(_PARTS.get(part, part) for part in name.removeprefix("rwkv.").split("."))
