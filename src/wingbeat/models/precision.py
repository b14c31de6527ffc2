"""In which number format each matrix of a model is stored: one for all, or by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from wingbeat.dtypes import DTYPES, QUANTS
from wingbeat.ops.table import Weight

_LAYER = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class Precision:
    """``layers``: the dtype of each layer's matrices. ``rest``: of the head and, where not quantised, the embedding."""

    layers: tuple[str, ...]
    rest: str

    @property
    def label(self) -> str:
        """`int8`, or such as `int8 *20 -> bfloat16` where layers differ; the last part holds for the head too."""
        runs = [(dtype, len(list(group))) for dtype, group in groupby((*self.layers, self.rest))]
        return " -> ".join(dtype if i == len(runs) - 1 else f"{dtype} *{n}" for i, (dtype, n) in enumerate(runs))

    def apply(self, weights: Iterable[Weight]) -> Iterator[Weight]:
        """The weights, each with the dtype of its place."""
        return (weight._replace(dtype=self._of(weight.name)) for weight in weights)

    def _of(self, name: str) -> str:
        found = _LAYER.match(name)
        return self.layers[int(found[1])] if found else self.rest


def uniform(dtype: str, layers: int) -> Precision:
    """Everything in one dtype. Raises ValueError for a name that is none."""
    return Precision((_known(dtype, DTYPES, "dtype"),) * layers, dtype)


def quantised(dtype: str, quant: str, first: int | None, layers: int) -> Precision:
    """The matrices of the ``first`` layers in ``quant`` (None: of all layers), all else, and the head, in ``dtype``.

    Raises ValueError for a bad choice.
    """
    _known(quant, QUANTS, "quant")
    if dtype in QUANTS:
        raise ValueError(
            f"dtype {dtype!r} quantises everything: with quant, which quantises layers, dtype is that of all else, "
            "bfloat16 or float32"
        )
    _known(dtype, DTYPES, "dtype")
    if first is not None and first < 0:
        raise ValueError(f"quant_layers must be 0 or more, not {first}")
    count = layers if first is None else min(first, layers)
    return Precision((quant,) * count + (dtype,) * (layers - count), dtype)


def _known(name: str, known: Iterable[str], what: str) -> str:
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, not {name!r}")
    return name
