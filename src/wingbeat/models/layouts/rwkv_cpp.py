"""The layout of rwkv.cpp: official names, with decays and bonuses already exponentiated and factors turned."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import FormatError, LazyTensor
from wingbeat.formats.rwkv_cpp import CONTAINER
from wingbeat.models.layouts.low_rank import FIRST, SECOND, official_factor
from wingbeat.models.layouts.transforms import computed, reshaped, row, without_trailing_ones

__all__ = ["CONTAINER", "to_official"]

Named = tuple[str, LazyTensor]

_ATT = re.compile(r"(blocks\.\d+\.att\.)(.+)")
_FACTOR = re.compile(r"(?:[wavg]|time_maa_w|time_decay_w)([12])")
_MIXES_7 = "rwkvag"
_LOWEST, _HIGHEST = -20.0, 5.0
"""Beyond these logarithms exp(-exp(x)) is 1 or 0 in float32: a stored decay of 1 or 0 becomes one of them."""


def to_official(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The official layout. Raises FormatError for tensors that do not fit together."""
    emb = tensors.get("emb.weight")
    width = emb.shape[-1] if emb is not None and emb.shape else 0
    inside = _inside(tensors)
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        att = _ATT.fullmatch(name)
        if att is None:
            found[name] = tensor
            continue
        factor = _FACTOR.fullmatch(att[2])
        if factor:
            axis = FIRST if factor[1] == "1" else SECOND
            found[name] = official_factor(tensor, width, axis, otherwise=True)
        else:
            found |= {att[1] + official: made for official, made in inside(att[2], tensor)}
    return found


def _inside(tensors: Mapping[str, LazyTensor]) -> Callable[[str, LazyTensor], Iterator[Named]]:
    """How the version at hand stores what lies in `att`."""
    if "blocks.0.att.k_k" in tensors:
        return _v7
    if "blocks.0.att.time_maa_x" in tensors:
        return _v6
    return _v5 if "blocks.0.att.ln_x.weight" in tensors else _v4


def _v4(name: str, tensor: LazyTensor) -> Iterator[Named]:
    """The decay is stored as -exp(x)."""
    yield name, computed(tensor, _log_of_minus) if name == "time_decay" else tensor


def _v5(name: str, tensor: LazyTensor) -> Iterator[Named]:
    """The decay is stored as exp(-exp(x)); `time_first` as exp(x), which is what others call `time_faaaa`."""
    if name == "time_decay":
        yield name, computed(without_trailing_ones(tensor), _log_of_minus_log)
    elif name in ("time_first", "time_faaaa"):
        yield "time_faaaa", without_trailing_ones(tensor)
    else:
        yield name, tensor


def _v6(name: str, tensor: LazyTensor) -> Iterator[Named]:
    if name == "time_decay":
        yield name, reshaped(tensor, (tensor.size,))
    else:
        yield name, without_trailing_ones(tensor) if name == "time_faaaa" else tensor


def _v7(name: str, tensor: LazyTensor) -> Iterator[Named]:
    if name != "x_rwkvag":
        yield name, tensor
        return
    if not tensor.shape or tensor.shape[0] != len(_MIXES_7):
        raise FormatError(f"a tensor x_rwkvag should stack six mixes, but has shape {list(tensor.shape)}")
    for index, mix in enumerate(_MIXES_7):
        one = row(tensor, index)
        yield f"x_{mix}", reshaped(one, (one.size,))


def _log_of_minus(decay: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(-decay)


def _log_of_minus_log(decay: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(divide="ignore", invalid="ignore"):
        wide = decay.astype(np.float64)
        return np.clip(np.log(-np.log(wide)), _LOWEST, _HIGHEST).astype(np.float32)
