"""The layout of flash-linear-attention ("fla"), in which RWKV-7 and some RWKV-6 lie on Hugging Face."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import FormatError, LazyTensor
from wingbeat.models.detect import UnsupportedModelError
from wingbeat.models.layouts.transforms import rearranged, reshaped, row, transposed

Named = tuple[str, LazyTensor]

_TOP = {"model.embeddings": "emb", "model.norm": "ln_out", "lm_head": "head"}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_NORMS = {"pre_norm": "ln0", "attn_norm": "ln1", "ffn_norm": "ln2"}
_ATTENTION = {"r_proj": "receptance", "k_proj": "key", "v_proj": "value", "o_proj": "output", "g_norm": "ln_x"}
_LOW_RANK = re.compile(r"attn\.([wavg])_lora\.lora\.(0\.weight|2\.weight|2\.bias)")
_FUSED = "rwkvag"  # the order in which older files stack the six mixes of v7
_V6 = {
    "attn.x_proj.0.mu": "att.time_maa_x",
    "attn.bonus": "att.time_faaaa",
    "attn.w_proj.linear.lora.2.bias": "att.time_decay",
    "attn.g_proj.linear.weight": "att.gate.weight",
    "attn.r_proj.linear.weight": "att.receptance.weight",
    "attn.k_proj.linear.weight": "att.key.weight",
    "attn.v_proj.linear.weight": "att.value.weight",
    "ffn.key.linear.weight": "ffn.key.weight",
    "ffn.key.mu": "ffn.time_maa_k",
    "ffn.receptance.linear.weight": "ffn.receptance.weight",
    "ffn.receptance.mu": "ffn.time_maa_r",
}
_V6_TURNED = {
    "attn.w_proj.linear.lora.0.weight": "att.time_decay_w1",
    "attn.w_proj.linear.lora.2.weight": "att.time_decay_w2",
}
_V6_BLOCKS = "rwkvg"  # fla's order of the five mixes; the official one is w, k, v, r, g
_V6_ORDER = [_V6_BLOCKS.index(mix) for mix in "wkvrg"]


def matches(names: Mapping[str, LazyTensor]) -> bool:
    return any(name.startswith(("model.layers.", "model.embeddings.")) for name in names)


def to_official(tensors: Mapping[str, LazyTensor], config: Mapping[str, str]) -> dict[str, LazyTensor]:
    """The official layout of RWKV-7 or RWKV-6; ``config`` is what the folder's `config.json` says.

    Raises UnsupportedModelError, with the reason, for hybrids and for other models.
    """
    v7 = any(name.endswith(".attn.r_k") for name in tensors)
    if not v7 and not any(name.endswith(".attn.x_proj.0.mu") for name in tensors):
        raise _unsupported("a model in the Hugging Face layout (model.layers...) that is not an RWKV")
    _refuse_variants(tensors, config, v7=v7)
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        for official, made in _translated(name, tensor, v7=v7):
            if official in found:
                raise FormatError(
                    f"two tensors are both {official!r} in the official layout, one of them {name[:100]!r}"
                )
            found[official] = made
    return found


def _unsupported(found: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"not yet supported: found {found}.")


def _refuse_variants(tensors: Mapping[str, LazyTensor], config: Mapping[str, str], *, v7: bool) -> None:
    kind = config.get("model_type", "rwkv7" if v7 else "rwkv6")
    if kind != ("rwkv7" if v7 else "rwkv6"):
        raise _unsupported(f"a model of type {kind[:60]!r}, which is built otherwise than an RWKV of that version")
    if config.get("attn", "null") != "null" or any(".attn.q_proj." in name for name in tensors):
        raise _unsupported("a hybrid of RWKV and attention layers, which is no plain RWKV")
    if any(".mlp." in name or ".self_attn." in name for name in tensors):
        raise _unsupported("a hybrid of RWKV and a transformer's layers, which is no plain RWKV")
    if v7 and not any(".attn.g_lora." in name for name in tensors):
        raise _unsupported("an RWKV-7 variant without the output gate")
    width = tensors["model.embeddings.weight"].shape[-1:] if "model.embeddings.weight" in tensors else ()
    values = _numbers(config.get("value_dim", "null"))
    if width and any(value != width[0] for value in values):
        raise _unsupported(f"an RWKV-7 variant whose value_dim is not its width {width[0]}")
    if any(abs(eps - 1e-5) > 1e-9 for eps in _numbers(config.get("norm_eps", "null"))):
        raise _unsupported(f"an RWKV variant with norm_eps {config['norm_eps'][:40]}; RWKV's is 1e-5")


def _numbers(text: str) -> list[float]:
    """The numbers of a setting, which is one, a list of them or something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int | float)]


def _translated(name: str, tensor: LazyTensor, *, v7: bool) -> Iterator[Named]:
    stem, _, part = name.rpartition(".")
    if stem in _TOP:
        yield f"{_TOP[stem]}.{part}", tensor
        return
    layer = _LAYER.fullmatch(name)
    if layer is None:
        yield name, tensor
        return
    for official, made in (_v7 if v7 else _v6)(layer[2], tensor):
        yield f"blocks.{layer[1]}.{official}", made


def _v7(name: str, tensor: LazyTensor) -> Iterator[Named]:
    if low := _LOW_RANK.fullmatch(name):
        if low[2] == "2.bias":
            yield f"att.{low[1]}0", tensor
        else:
            yield f"att.{low[1]}{'1' if low[2].startswith('0') else '2'}", transposed(tensor)
    elif name == "attn.x_x":
        yield from _mixes(tensor)
    else:
        yield _plain(name), tensor


def _mixes(tensor: LazyTensor) -> Iterator[Named]:
    """The six mixes of a layer in one tensor."""
    if not tensor.shape or tensor.shape[0] != len(_FUSED):
        raise FormatError(f"a tensor attn.x_x should stack six mixes, but has shape {list(tensor.shape)}")
    for index, mix in enumerate(_FUSED):
        one = row(tensor, index)
        yield f"att.x_{mix}", reshaped(one, (one.size,))


def _plain(name: str) -> str:
    """What is the same in both versions: the norms, the projections, the rest of attention and of the FFN."""
    first, _, rest = name.partition(".")
    if first in _NORMS:
        return f"{_NORMS[first]}.{rest}"
    if first == "attn":
        inner, _, part = rest.partition(".")
        return f"att.{_ATTENTION.get(inner, inner)}" + (f".{part}" if part else "")
    return name


def _v6(name: str, tensor: LazyTensor) -> Iterator[Named]:
    if name in _V6:
        yield _V6[name], tensor
    elif name in _V6_TURNED:
        yield _V6_TURNED[name], transposed(tensor)
    elif name == "attn.x_bias":
        for index, mix in enumerate(_V6_BLOCKS):
            yield f"att.time_maa_{mix}", row(_five(tensor, 0), index)
    elif name == "attn.x_proj.0.linear.weight":
        rank, width = _five(tensor, 0).shape[0] // 5, tensor.shape[1]
        yield "att.time_maa_w1", rearranged(tensor, (width, 5 * rank), _down)
    elif name == "attn.x_proj.2.weight":
        width, rank = _five(tensor, 1).shape[0], tensor.shape[1] // 5
        yield "att.time_maa_w2", rearranged(tensor, (5, rank, width), _up)
    else:
        yield _plain(name), tensor


def _five(tensor: LazyTensor, axis: int) -> LazyTensor:
    if len(tensor.shape) != 2 or tensor.shape[axis] % 5:
        raise FormatError(f"a tensor of RWKV-6's five mixes has shape {list(tensor.shape)}")
    return tensor


def _down(array: NDArray) -> NDArray:
    """(5R, D) in fla's order to (D, 5R) in the official one."""
    blocks = array.reshape(5, -1, array.shape[1])
    return np.concatenate([blocks[index] for index in _V6_ORDER]).T


def _up(array: NDArray) -> NDArray:
    """(D, 5R) in fla's order to (5, R, D) in the official one."""
    blocks = array.reshape(array.shape[0], 5, -1)
    return np.stack([blocks[:, index].T for index in _V6_ORDER])
