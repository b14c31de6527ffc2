"""A model's tokenizer, for the engine and for those who send it token ids: both must choose the same one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from wingbeat.formats.checkpoint import open_checkpoint
from wingbeat.formats.gguf import TOKENIZER, WORLD, world_texts
from wingbeat.formats.packed import carried_texts, is_packed
from wingbeat.text.carried import carried_tokens
from wingbeat.text.choose import tokenizer_for
from wingbeat.text.tokenizer import Tokenizer


def load_tokenizer(
    path: str | Path,
    rows: int,
    override: str | Path | None,
    metadata: Mapping[str, str],
    models_folder: str | Path | None = None,
) -> Tokenizer | None:
    """`tokenizer_for` the model file at ``path``, whose own tokens count too, if it is one that carries them."""
    carried = partial(_tokens_of, path) if metadata.get(TOKENIZER) == WORLD else None
    return tokenizer_for(path, rows, override, metadata, carried, models_folder)


def _tokens_of(path: str | Path) -> dict[int, bytes]:
    if is_packed(Path(path)):
        return carried_tokens(carried_texts(Path(path)))
    texts = world_texts(open_checkpoint(path))
    return carried_tokens(texts()) if texts is not None else {}
