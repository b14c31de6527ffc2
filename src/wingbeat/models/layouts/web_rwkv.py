"""The layout of web-rwkv and Ai00 (`.st`): official names but for v6's, low-rank factors turned, v5.1 as v5.2.

Some converters skip a part of it, so each tensor's shape decides; the official layout passes through unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from wingbeat.formats.lazy import LazyTensor
from wingbeat.models.detect import UnsupportedModelError
from wingbeat.models.layouts.low_rank import FIRST, SECOND, lies_transposed, official_factor
from wingbeat.models.layouts.transforms import computed, first_column, repeated, transposed

MAX_WIDTH = 1 << 20  # of a model whose decays are looked at
VERSIONS = ("4", "5.1", "5.2", "6", "7")
"""Those that web-rwkv runs."""
Tensors = dict[str, LazyTensor]

_FACTOR = re.compile(r"blocks\.\d+\.att\.(?:[wavg]|time_maa_w|time_decay_w)([12])")
_V6_MIX = re.compile(r"(blocks\.\d+\.(?:att|ffn))\.time_mix_(x|w|k|v|r|g|w1|w2)")
_FIRST = re.compile(r"(blocks\.\d+\.att)\.time_first")
_BY_HEAD = re.compile(r"blocks\.\d+\.att\.(?:time_decay|time_faaaa)")


def to_official(tensors: Mapping[str, LazyTensor]) -> Tensors:
    """Official names and orientation; what is official already stays as it is."""
    found = _renamed(tensors)
    emb = found.get("emb.weight")
    if emb is None or len(emb.shape) != 2:
        return found  # no model: the loader says so
    width = emb.shape[1]
    factors = {name: FIRST if match[1] == "1" else SECOND for name in found if (match := _FACTOR.fullmatch(name))}
    votes = [lies_transposed(found[name].shape, width, axis) for name, axis in factors.items()]
    ours = any("time_mix_w1" in name for name in tensors) or votes.count(True) > votes.count(False)
    for name, axis in factors.items():
        found[name] = official_factor(found[name], width, axis, otherwise=ours)
    if ours or _raw_bonus(tensors):
        found |= {name: transposed(found[name]) for name in found if name.endswith(".time_state")}
    return _by_head(found) if _raw_bonus(tensors) else found


def from_official(tensors: Mapping[str, LazyTensor], version: str) -> Tensors:
    """The inverse: official tensors as the converter of web-rwkv and Ai00 names and turns them, each in its own dtype.

    Raises UnsupportedModelError for a version that those do not run.
    """
    if version not in VERSIONS:
        runs = ", ".join(VERSIONS)
        raise UnsupportedModelError(
            f"RWKV-{version} has no form in .st, since web-rwkv and Ai00 run only {runs}: "
            "write it as .safetensors, which holds every version"
        )
    width = tensors["blocks.0.att.key.weight"].shape[0]
    found: Tensors = {}
    for name, tensor in tensors.items():
        if _FACTOR.fullmatch(name) or name.endswith(".time_state"):
            tensor = transposed(tensor)
        elif version == "5.1" and (match := _FIRST.fullmatch(name)):
            tensor = computed(tensor, np.exp)  # there, time_first is the bonus itself
            name = f"{match[1]}.time_faaaa"
        if version == "5.1" and _BY_HEAD.fullmatch(name):
            tensor = repeated(tensor, width // tensor.size)
        found[name.replace(".time_faaaa", ".time_first").replace(".time_maa_", ".time_mix_")] = tensor
    return found


def _renamed(tensors: Mapping[str, LazyTensor]) -> Tensors:
    v6 = any(name.endswith((".att.time_mix_x", ".att.time_mix_w1")) for name in tensors)
    found: Tensors = {}
    for name, tensor in tensors.items():
        if v6 and (match := _V6_MIX.fullmatch(name)):
            name = f"{match[1]}.time_maa_{match[2]}"
        elif (match := _FIRST.fullmatch(name)) and len(tensor.shape) == 2:
            name = f"{match[1]}.time_faaaa"  # a matrix is the bonus itself; a vector its logarithm
        found.setdefault(name, tensor)
    return found


def _raw_bonus(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether it is a v5 or v6 model of this layout."""
    bonus = tensors.get("blocks.0.att.time_first")
    return bonus is not None and len(bonus.shape) == 2


def _by_head(found: Tensors) -> Tensors:
    """v5.1 is stored as v5.2, each head's one value repeated: where all are, the repetition is undone."""
    repeated = [name for name in found if _BY_HEAD.fullmatch(name)]
    if "blocks.0.att.gate.weight" not in found or "blocks.0.att.time_maa_x" in found:
        return found
    if not all(_is_repeated(found[name]) for name in repeated):
        return found
    return found | {name: first_column(found[name]) for name in repeated}


def _is_repeated(tensor: LazyTensor) -> bool:
    if len(tensor.shape) != 2 or tensor.shape[1] < 2 or tensor.size > MAX_WIDTH:
        return False
    array = tensor.read()
    return bool(np.all(array == array[:, :1]))
