"""Naming schemes: the tensors of any container under their official names, in their official shapes and orientation.

One module a scheme. What it gives is still in the file; transposed or computed when read.
"""

from __future__ import annotations

from collections.abc import Mapping

from wingbeat.formats.lazy import Checkpoint, FormatError, LazyTensor
from wingbeat.models.detect import official_name
from wingbeat.models.layouts import fla, gguf, hugging_face, rwkv_cpp, web_rwkv

__all__ = ["to_official"]


def to_official(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint under their official names; those of no known name keep theirs.

    The scheme is told from the names and shapes, but for GGUF and rwkv.cpp, which only their own containers hold.
    Raises FormatError for tensors that do not fit together, UnsupportedModelError for what is known and not run.
    """
    if checkpoint.container == gguf.CONTAINER:
        return gguf.to_official(checkpoint, checkpoint.metadata)
    tensors = _unprefixed(checkpoint)
    if checkpoint.container == rwkv_cpp.CONTAINER:
        return rwkv_cpp.to_official(tensors)
    if fla.matches(tensors):
        return fla.to_official(tensors, checkpoint.metadata)
    if hugging_face.matches(tensors):
        return hugging_face.to_official(tensors)
    return web_rwkv.to_official(tensors)


def _unprefixed(checkpoint: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    for name, tensor in checkpoint.items():
        official = official_name(name)
        if official in found:
            raise FormatError(f"two tensors are both called {official!r} once prefixes such as 'module.' are removed")
        found[official] = tensor
    return found
