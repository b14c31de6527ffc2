"""Strategies share out the layers as the `rwkv` package does, and say what differs here."""

from __future__ import annotations

from itertools import groupby

import pytest

from wingbeat.models.strategy import map_strategy, parse_strategy, share_out

VECTORS = {
    "cuda fp16": "25 cuda fp16",
    "cuda fp16i8 *20 -> cuda fp16": "20 cuda fp16i8, 5 cuda fp16",
    "cuda fp16i8 *6+": "6 cuda fp16i8, 19 cuda fp16i8 S",
    "cuda fp16 *0+": "25 cuda fp16 S",
    "cuda fp16i8 *6 -> cuda fp16 *0+ -> cpu fp32 *1": "6 cuda fp16i8, 18 cuda fp16 S, 1 cpu fp32",
    "cuda fp16i8 *6+ -> cpu fp32 *1": "6 cuda fp16i8, 18 cuda fp16i8 S, 1 cpu fp32",
    "cuda:0 fp16 *10 -> cuda:1 fp16": "10 cuda:0 fp16, 15 cuda:1 fp16",
    "cuda fp16 -> cpu fp32": "12 cuda fp16, 13 cpu fp32",
    "cuda fp16 -> cpu fp32 -> cuda:1 fp16": "8 cuda fp16, 8 cpu fp32, 9 cuda:1 fp16",
    "cuda fp16 *4 -> cpu fp32 *2": "4 cuda fp16, 21 cpu fp32",
    "cuda fp16 *30": "25 cuda fp16",
    "cuda fp16 *1 -> cuda fp16i8 *41+": "1 cuda fp16, 24 cuda fp16i8",
    "cuda fp16 *20 -> cpu fp32 *20": "20 cuda fp16, 5 cpu fp32",
    "  cpu bf16->cpu fp32 ": "12 cpu bf16, 13 cpu fp32",
}
"""For 24 layers and the head; S: streamed."""


@pytest.mark.parametrize("text", VECTORS)
def test_layers_are_shared_out(text: str) -> None:
    shared = [
        f"{segment.device} {segment.dtype}{segment.quant}{' S' * streamed}"
        for segment, streamed in share_out(parse_strategy(text), 25)
    ]
    assert ", ".join(f"{len(list(group))} {what}" for what, group in groupby(shared)) == VECTORS[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cuda",
        "cuda fp17",
        "CUDA fp16",
        "cuda  fp16",
        "cuda fp16*10",
        "cuda fp16 *",
        "cuda fp16 -> ",
        "gpu fp16",
        "cuda fp16 *10 ->",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Invalid strategy"):
        parse_strategy(text)


@pytest.mark.parametrize(
    ("text", "label", "notes"),
    [
        ("cpu fp32", "float32", []),
        ("cpu bf16", "bfloat16", []),
        ("cuda fp16i8", "int8", ["cuda", "fp16", "i8"]),
        ("cuda fp16i8 *10 -> cuda fp16", "int8 *10 -> bfloat16", ["cuda", "fp16", "i8"]),
        ("cuda:0 bf16 *4 -> cpu fp32", "bfloat16 *4 -> float32", ["cuda:0"]),
        ("cpu fp32i4 *6+", "float32", ["i4", "+"]),
        ("cuda bf16 *0 -> cpu fp32", "float32", []),
    ],
)
def test_it_becomes_what_the_machine_has(text: str, label: str, notes: list[str]) -> None:
    precision, said = map_strategy(text, 24)
    assert (precision.label, len(precision.layers)) == (label, 24)
    assert [note.partition(": ")[0] for note in said] == notes
