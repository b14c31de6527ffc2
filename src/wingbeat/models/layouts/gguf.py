"""The layout of llama.cpp's GGUF files: RWKV-6 and RWKV-7."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from wingbeat.formats.gguf import CONTAINER
from wingbeat.formats.lazy import FormatError, LazyTensor
from wingbeat.models.detect import UnsupportedModelError
from wingbeat.models.layouts.low_rank import FIRST, SECOND, official_factor
from wingbeat.models.layouts.transforms import reshaped, row, scaled

__all__ = ["CONTAINER", "to_official"]

Named = tuple[str, LazyTensor]

ARCHITECTURES = ("rwkv6", "rwkv7")
REASONS = {
    "rwkv6qwen2": "a Qwen model converted to RWKV-6's attention, with RMSNorm and SwiGLU layers",
    "arwkv7": "a Qwen model converted to RWKV-7's attention, with RMSNorm and SwiGLU layers",
}
MAX_HALVINGS = 15  # an RWKV-6 of 61 layers has ten

_TOP = {"token_embd": "emb", "token_embd_norm": "blocks.0.ln0", "output_norm": "ln_out", "output": "head"}
_LAYER = re.compile(r"blk\.(\d{1,9})\.(.+)\.(weight|bias)")
_PARTS = {
    "attn_norm": "ln1",
    "attn_norm_2": "ln2",
    "time_mix_ln": "att.ln_x",
    "time_mix_receptance": "att.receptance",
    "time_mix_key": "att.key",
    "time_mix_value": "att.value",
    "time_mix_gate": "att.gate",
    "time_mix_output": "att.output",
    "channel_mix_key": "ffn.key",
    "channel_mix_value": "ffn.value",
    "channel_mix_receptance": "ffn.receptance",
}
_VECTORS_6 = {
    "channel_mix_lerp_k": "ffn.time_maa_k",
    "channel_mix_lerp_r": "ffn.time_maa_r",
    "time_mix_first": "att.time_faaaa",
    "time_mix_decay": "att.time_decay",
} | {f"time_mix_lerp_{mix}": f"att.time_maa_{mix}" for mix in "xwkvrg"}
_VECTORS_7 = {"channel_mix_lerp_k": "ffn.x_k", "time_mix_k_k": "att.k_k", "time_mix_k_a": "att.k_a"} | {
    f"time_mix_{low}0": f"att.{low}0" for low in "wav"
}
_FACTORS_6 = {
    "time_mix_w1": ("att.time_maa_w1", FIRST),
    "time_mix_w2": ("att.time_maa_w2", SECOND),
    "time_mix_decay_w1": ("att.time_decay_w1", FIRST),
    "time_mix_decay_w2": ("att.time_decay_w2", SECOND),
}
_FACTORS_7 = {
    f"time_mix_{low}{part}": (f"att.{low}{part}", FIRST if part == "1" else SECOND) for low in "wavg" for part in "12"
}
_RESCALED = ("att.output.weight", "ffn.value.weight")


def to_official(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> dict[str, LazyTensor]:
    """The official layout. Raises UnsupportedModelError for other architectures, FormatError for damaged sizes."""
    architecture = metadata.get("general.architecture", "")
    if architecture not in ARCHITECTURES:
        reason = REASONS.get(architecture, "which is not an RWKV that wingbeat runs")
        raise UnsupportedModelError(
            f"not yet supported: found a GGUF file of architecture {architecture[:60]!r}, {reason}."
        )
    model = _Model(architecture, tensors, metadata)
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        for official, made in _translated(name, tensor, model):
            if official in found:
                raise FormatError(
                    f"two tensors are both {official!r} in the official layout, one of them {name[:100]!r}"
                )
            found[official] = made
    return found


class _Model:
    """What the translation of a tensor needs to know of the others."""

    def __init__(self, architecture: str, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
        self.v7 = architecture == "rwkv7"
        emb = tensors.get("token_embd.weight")
        self.width = emb.shape[-1] if emb is not None and emb.shape else 0
        self.head_size = _number(metadata, f"{architecture}.wkv.head_size", 64)
        self.rescale_every = 0 if self.v7 else _number(metadata, f"{architecture}.rescale_every_n_layers", 0)


def _number(metadata: Mapping[str, str], key: str, otherwise: int) -> int:
    text = metadata.get(key, str(otherwise))
    if not text.isdecimal() or len(text) > 9:
        raise FormatError(f"its {key} is {text[:40]!r}, which is no size")
    return int(text)


def _translated(name: str, tensor: LazyTensor, model: _Model) -> Iterator[Named]:
    stem, _, part = name.rpartition(".")
    if stem in _TOP:
        yield f"{_TOP[stem]}.{part}", tensor
        return
    layer = _LAYER.fullmatch(name)
    if layer is None:
        yield name, tensor
        return
    index = int(layer[1])
    for official, made in _in_layer(layer[2], layer[3], tensor, model):
        if model.v7 and index == 0 and official in ("att.v0", "att.v1", "att.v2"):
            continue  # llama.cpp asks for them and never uses them
        yield f"blocks.{index}.{official}", _rescaled(made, index, model) if official in _RESCALED else made


def _in_layer(name: str, part: str, tensor: LazyTensor, model: _Model) -> Iterator[Named]:
    vectors, factors = (_VECTORS_7, _FACTORS_7) if model.v7 else (_VECTORS_6, _FACTORS_6)
    if name in _PARTS:
        yield f"{_PARTS[name]}.{part}", tensor
    elif name in vectors:
        yield vectors[name], _flat(tensor) if "lerp" in name else tensor
    elif name in factors:
        official, axis = factors[name]
        yield official, official_factor(tensor, model.width, axis, otherwise=True)
    elif name == "time_mix_lerp_fused":
        yield from _fused(tensor, "att.x_" if model.v7 else "att.time_maa_", "rwkvag" if model.v7 else "wkvrg")
    elif name == "time_mix_r_k" and model.v7:
        yield "att.r_k", _heads(tensor, model.head_size)
    else:
        yield f"{name}.{part}", tensor


def _fused(tensor: LazyTensor, prefix: str, mixes: str) -> Iterator[Named]:
    if not tensor.shape or tensor.shape[0] != len(mixes):
        raise FormatError(f"time_mix_lerp_fused should stack {len(mixes)} mixes, but has shape {list(tensor.shape)}")
    for index, mix in enumerate(mixes):
        yield prefix + mix, _flat(row(tensor, index))


def _flat(tensor: LazyTensor) -> LazyTensor:
    return reshaped(tensor, (tensor.size,))


def _heads(tensor: LazyTensor, head_size: int) -> LazyTensor:
    if not head_size or tensor.size % head_size:
        raise FormatError(f"time_mix_r_k of {tensor.size} values does not fit a head size of {head_size}")
    return reshaped(tensor, (tensor.size // head_size, head_size))


def _rescaled(tensor: LazyTensor, layer: int, model: _Model) -> LazyTensor:
    """llama.cpp's converter halves these matrices once more every so many layers, for fp16's sake: undone here."""
    if not model.rescale_every:
        return tensor
    halvings = layer // model.rescale_every
    if halvings > MAX_HALVINGS:
        raise FormatError(f"layer {layer} was halved {halvings} times (rescale_every_n_layers), which no model's is")
    return scaled(tensor, 2.0**halvings) if halvings else tensor
