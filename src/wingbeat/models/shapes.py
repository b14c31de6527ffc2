"""The sizes of a model: what every version's shape has, and how they are read from the dimensions of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from wingbeat.formats.lazy import FormatError

Dims = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What all versions have. `parameters` counts the values in use, `dtype` names the file's; a loader sets both."""

    layers: int
    width: int
    vocab_size: int
    parameters: int = 0
    dtype: str = ""


class Dimensions:
    """The dimensions of a file's tensors by official name.

    `blank` ones know which names there are, but answer 1 to every question: so that a shape can be made, and all
    names that its version expects be listed, before it is known that the tensors are there.
    """

    def __init__(self, found: Mapping[str, Dims], *, blank: bool = False) -> None:
        self._found = found
        self._blank = blank

    def has(self, name: str) -> bool:
        return name in self._found

    def matrix(self, name: str) -> tuple[int, int]:
        """Rows and columns. Raises FormatError for a tensor that is no matrix, or an empty one."""
        rows, columns = self._sizes(name, 2, "a matrix")
        return rows, columns

    def matrices(self, name: str) -> tuple[int, int, int]:
        """Their number, rows and columns. Raises FormatError for a tensor of another rank, or an empty one."""
        count, rows, columns = self._sizes(name, 3, "matrices")
        return count, rows, columns

    def vector(self, name: str) -> int:
        """The number of values. Raises FormatError for an empty tensor."""
        if self._blank:
            return 1
        dims = self._found[name]
        if 0 in dims:
            raise FormatError(f"tensor {name!r} is empty: it has shape {list(dims)}")
        return prod(dims)

    def _sizes(self, name: str, rank: int, kind: str) -> Dims:
        dims = (1,) * rank if self._blank else self._found[name]
        if len(dims) != rank or 0 in dims:
            raise FormatError(f"tensor {name!r} should be {kind}, but has shape {list(dims)}")
        return dims

    def check_heads(self, name: str, heads: int, head_size: int, width: int) -> None:
        """Raises FormatError, naming the tensor that told the heads, unless they make up the width."""
        if heads * head_size != width:
            raise FormatError(f"tensor {name!r} of {heads} heads of {head_size} does not fit the width {width}")
