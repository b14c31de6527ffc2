"""The strategy strings of the `rwkv` package, such as `cuda fp16i8 *10 -> cuda fp16`, on the machine at hand.

    strategy := segment ( "->" segment )*
    segment  := device " " dtype [ " *" N [ "+" ] ]
    device   := "cuda" [ ":" digits ] | "cpu" | "mps" | "dml"
    dtype    := ( "fp16" | "fp32" | "bf16" ) [ "i8" | "i4" | "i3" ]

They share out the layers and, as one more, the head. A segment of N takes N of them; those without share the rest
evenly, and the last takes what is left over. N+ takes all that is left: the package streams these to its device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wingbeat.models.precision import Precision

_SEGMENT = re.compile(r"(cuda(?::\d+)?|cpu|mps|dml) (fp16|fp32|bf16)(i8|i4|i3)?(?: \*(\d{1,9})(\+)?)?")
_FLOATS = {"fp16": "bfloat16", "bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True)
class Segment:
    """A part of a strategy. ``quant`` is "", "i8", "i4" or "i3"; ``count`` is None where the text has none."""

    device: str
    dtype: str
    quant: str
    count: int | None
    streamed: bool


def parse_strategy(text: str) -> list[Segment]:
    """Raises ValueError, showing the grammar by examples, for a text that is no strategy."""
    segments = []
    for part in text.split("->"):
        found = _SEGMENT.fullmatch(part.strip(" "))
        if found is None:
            raise ValueError(
                f"Invalid strategy {text[:200]!r}: {part.strip()[:100]!r} is not such as 'cpu fp32', 'cuda fp16' or "
                "'cuda fp16i8 *10'; several are joined by '->'"
            )
        device, dtype, quant, count, plus = found.groups()
        segments.append(Segment(device, dtype, quant or "", None if count is None else int(count), plus is not None))
    return segments


def share_out(segments: list[Segment], slots: int) -> list[tuple[Segment, bool]]:
    """For each slot (the layers, then the head) its segment, and whether it would be streamed."""
    counts = [0] * len(segments)
    left = slots
    for i, segment in enumerate(segments):
        counts[i] = min(segment.count or 0, left)
        left -= counts[i]
    streaming = max((i for i, segment in enumerate(segments) if segment.streamed), default=None)
    streamed = 0
    if streaming is not None:
        streamed, left = left, 0
    open_ones = [i for i, segment in enumerate(segments) if segment.count is None] if streaming is None else []
    for place, i in enumerate(open_ones):
        counts[i] = left // (len(open_ones) - place)
        left -= counts[i]
    counts[-1] += left
    shared: list[tuple[Segment, bool]] = []
    for i, segment in enumerate(segments):
        shared += [(segment, False)] * counts[i]
        if i == streaming:
            shared += [(segment, True)] * streamed
    return shared


def map_strategy(text: str, layers: int) -> tuple[Precision, list[str]]:
    """The precision that comes nearest to a strategy on a CPU, and what differs, in words for the user.

    Raises ValueError for a text that is no strategy.
    """
    shared = share_out(parse_strategy(text), layers + 1)
    dtypes = ["int8" if segment.quant == "i8" else _FLOATS[segment.dtype] for segment, _ in shared]
    used = [segment for segment, _ in shared]
    notes = []
    if devices := sorted({segment.device for segment in used} - {"cpu"}):
        notes.append(f"{' and '.join(devices)}: everything runs on the CPU")
    if any(segment.dtype == "fp16" for segment in used):
        notes.append("fp16: bfloat16 is used, which has the same size")
    if any(segment.quant == "i8" for segment in used):
        notes.append("i8: int8 in blocks of 64 with a scale each, with int8 activations")
    if unsupported := sorted({segment.quant for segment in used} & {"i4", "i3"}):
        notes.append(f"{' and '.join(unsupported)}: not quantised, as in the rwkv package; --quant int4 does so")
    if any(streamed for _, streamed in shared):
        notes.append("+: nothing is streamed, all weights stay in memory")
    return Precision(tuple(dtypes[:layers]), dtypes[-1]), notes
