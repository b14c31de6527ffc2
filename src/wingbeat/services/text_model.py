"""A text-embedding model in ONNX: tokens, chunks, vectors. All of it blocks; ``Embedder`` has a thread for it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

MODEL_FILES = ("model.onnx", "onnx/model.onnx")
TOKENIZER_FILES = ("tokenizer.json", "onnx/tokenizer.json")
MAX_TOKENS = 512
"""What such a model reads of one text, its special tokens included."""
EXTRA = 'pip install "wingbeat[embed]"'


class MissingExtraError(Exception):
    """What embedding needs is not installed. The message says how to get it."""


class TextModel:
    """A model of a folder that has ``model.onnx`` and ``tokenizer.json``, as Hugging Face's do, also under ``onnx/``.

    ``threads``: that one inference may use. Raises MissingExtraError, FileNotFoundError, ValueError for files that are
    no such model.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        runtime, tokenizers, self._splitters = _extra()
        model, tokenizer = find_file(folder, MODEL_FILES), find_file(folder, TOKENIZER_FILES)
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the engine wants the cores
        try:
            self._session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
            self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        except Exception as error:
            raise ValueError(f"{folder} holds no text-embedding model that can be used: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._specials = self._tokenizer.num_special_tokens_to_add(False)
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        outputs = [entry.name for entry in self._session.get_outputs()]
        self._output = "last_hidden_state" if "last_hidden_state" in outputs else outputs[0]
        if not {"input_ids"} <= self._inputs <= {"input_ids", "attention_mask", "token_type_ids"}:
            raise ValueError(f"{model} wants {', '.join(sorted(self._inputs))}: it is no model of texts")
        self.width = self.embed([self.tokens("a")]).shape[1]

    def tokens(self, text: str) -> list[int]:
        """The ids of a text, the model's special tokens included."""
        return self._tokenizer.encode(text).ids

    def embed(self, texts: Sequence[list[int]]) -> Vectors:
        """Vectors float32 [n, D] of length 1: the mean over the tokens of each text, as ``tokens`` gives them."""
        longest = max(map(len, texts))
        ids = np.zeros((len(texts), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run([self._output], {name: given[name] for name in self._inputs})
        hidden = np.asarray(hidden, np.float64)
        if hidden.ndim == 3:
            weights = mask[:, :, None]
            hidden = (hidden * weights).sum(1) / np.maximum(weights.sum(1), 1)
        lengths = np.linalg.norm(hidden, axis=1, keepdims=True)
        return (hidden / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def chunks(self, text: str, most: int, prefix: str = "") -> list[str]:
        """The text in pieces of up to ``most`` tokens, split at the largest boundaries that allow it, without white
        space around them. Each leaves room for ``prefix`` and the special tokens."""
        before = len(self._tokenizer.encode(prefix, add_special_tokens=False).ids)
        room = max(1, min(most, MAX_TOKENS - self._specials - before))
        splitter = self._splitters.TextSplitter.from_huggingface_tokenizer(self._tokenizer, room)
        return splitter.chunks(text)


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of these files that is there. Raises FileNotFoundError."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)}: it is no folder of a text-embedding model")


def _extra() -> tuple[Any, Any, Any]:
    try:
        return tuple(map(import_module, ("onnxruntime", "tokenizers", "semantic_text_splitter")))  # type: ignore
    except ImportError as error:
        raise MissingExtraError(f"embedding models need what is not installed ({error.name}): {EXTRA}") from None
