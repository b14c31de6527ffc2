"""What each RWKV version is to the rest: a module that knows its tensors, its program and its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, Protocol, TypeVar

from wingbeat.models import rwkv4, rwkv5, rwkv6, rwkv7
from wingbeat.models.shapes import Dimensions, Dims, Shape
from wingbeat.models.weights import Read
from wingbeat.ops.program import Program
from wingbeat.ops.table import Weight

S = TypeVar("S", bound=Shape)

GROUP_NORM_EPS = 64e-5
"""Of every published model: 1e-5 * 8^2, head_size_divisor = 8 in training. It is not stored in checkpoints."""


class Architecture(Protocol[S]):
    """A module `rwkv*.py`; versions that differ in little share one.

    Tensors have their official names and orientation: matrices [out, in], low-rank factors [in, out].
    """

    UNUSED: Set[str]
    """Tensors that files may carry and nobody uses."""

    def read_shape(self, dims: Dimensions, layers: int) -> S:
        """The sizes of a model of `layers` layers. Raises FormatError for tensors that do not fit together."""
        ...

    def expected(self, shape: S) -> Iterator[tuple[str, Dims]]:
        """The tensors that the model uses and their dimensions; vectors, which may be (1, 1, D), as (D,)."""
        ...

    def record(self, shape: S, gn_eps: float) -> Program:
        """The forward pass of one step: tokens in, logits of the wanted rows and hidden vectors out.

        `gn_eps`: of GroupNorm.
        """
        ...

    def weights(self, shape: S, read: Read) -> Iterator[Weight]:
        """The program's weights one by one, in file order of the layers. Nothing is read before a weight's `read`."""
        ...


ARCHITECTURES: Mapping[str, Architecture[Any]] = {
    "4": rwkv4,
    "5.0": rwkv5,
    "5.1": rwkv5,
    "5.2": rwkv5,
    "6": rwkv6,
    "7": rwkv7,
    "7a": rwkv7,
}
"""By version, as `detect_version` names it."""
