"""What names an adapter: a value that settings, messages and the loader share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """The file of a LoRA, DoRA, PiSSA, DiSHA or Bone, to be merged into a model.

    ``alpha`` scales a LoRA by alpha / rank; files do not hold it. None: alpha = rank. ``init``: for PiSSA, the file of
    what it began from; None: `init_pissa.pth` beside the adapter, if it is there.
    """

    path: str
    alpha: float | None = None
    init: str | None = None
