"""The Python API: a model in this process, without a server.

from wingbeat import LLM, SamplingParams

with LLM("model.safetensors") as llm:
    print(llm.generate("The Eiffel tower is in", SamplingParams(max_tokens=20, temperature=0))[0].text)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wingbeat.adapter import Adapter
from wingbeat.demo import DEMO, demo_model_path
from wingbeat.engine.messages import EngineConfig
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.hub.folder import find_model, models_folder
from wingbeat.llm.answers import Chunk, Completion, GenerationError
from wingbeat.llm.chatting import Chatting, chat_sampling
from wingbeat.llm.reading import Reading
from wingbeat.models import Model, Progress, load_model
from wingbeat.reading import Score
from wingbeat.text.tokenizer import Tokenizer

__all__ = ["LLM", "Chunk", "Completion", "GenerationError", "Score", "chat_sampling", "demo_model_path"]


class LLM(Chatting, Reading):
    """A model and an engine. May be used from several threads: their requests share the engine's steps."""

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        dtype: str = "auto",
        quant: str | None = None,
        quant_layers: int | None = None,
        strategy: str | None = None,
        tokenizer: str | Path | None = None,
        threads: int | None = None,
        max_batch: int | None = None,
        backend: str = "auto",
        profile: str | None = None,
        token_budget: int = 512,
        speculative_tokens: int = 15,
        cache_packed: bool = False,
        cache_memory_mb: int | None = None,
        gn_eps: float | None = None,
        adapters: Sequence[Adapter] = (),
        states: Mapping[str, str | Path] | None = None,
        default_state: str | None = None,
        models_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Load a model.

        Args:
            path: a model's file or folder, or the name of one in the models folder (`wingbeat list` shows them), or a
                clear part of that; None or "demo": the demo model that comes with wingbeat.
            dtype: "float32" ("fp32"), "bfloat16" ("bf16"), "int8", "int4", "nf4", "sf4", or "auto" for the backend's
                usual one.
            quant: "int8", "int4", "nf4" or "sf4" for the matrices of the first ``quant_layers`` layers (None: of all);
                the head and all else stay in ``dtype``.
            strategy: in place of these three, the `rwkv` package's words: "cuda fp16i8 *10 -> cuda fp16".
            tokenizer: "world", "20b", "midi", "piano", "abc", "bytes" or a file; None: told by the model and its files.
            threads: None: the physical cores this process may use.
            max_batch: sequences that run at once; None: up to 64, as memory allows.
            backend: "cpu" (C++), "reference" (NumPy) or "auto".
            profile: the chat format: "world", "g1", "demo", "raven" or "plain" (none); None: told by the model.
            token_budget: tokens in one step; fewer end a stream that is told to stop sooner, and read prompts slower.
            speculative_tokens: tokens guessed for a sequence in a step where its text repeats itself, 0 to 31; answers
                come sooner and are the same.
            cache_packed: keep the packed weights on disk, and map them from there the next time.
            cache_memory_mb: memory for states of prompts that were read before; None: an eighth of what is free, at
                most 2048; 0 keeps none.
            gn_eps: epsilon of the GroupNorms; None: told by the file, else 64e-5.
            adapters: LoRA and other fine-tuning to merge into the model, one after the other.
            states: files of tuned initial states by the name under which ``generate`` and ``stream`` take them.
            default_state: the one of them to begin from where none is named; None: the model's own, if it has one.
            models_dir: the models folder, where a Pile model's tokenizer is looked for, too; None: what
                WINGBEAT_MODELS_DIR names, else the one in the user's data folder.
            progress: called with the bytes read and the bytes in all while the model is loaded.

        Raises ValueError for a bad choice, FileNotFoundError, FormatError for a damaged file, UnsupportedModelError.
        """
        folder = models_folder(models_dir)
        path = find_model(DEMO if path is None else path, folder)
        model = load_model(
            path,
            dtype=dtype,
            quant=quant,
            quant_layers=quant_layers,
            strategy=strategy,
            threads=threads,
            backend=backend,
            cache_packed=cache_packed,
            gn_eps=gn_eps,
            adapters=adapters,
            progress=progress,
        )
        config = EngineConfig(
            model=str(path),
            threads=threads,
            max_batch=max_batch,
            profile=profile,
            token_budget=token_budget,
            speculative_tokens=speculative_tokens,
            states={name: str(file) for name, file in (states or {}).items()},
            default_state=default_state,
            cache_memory=None if cache_memory_mb is None else cache_memory_mb * 2**20,
        )
        found = load_tokenizer(path, model.info.vocab_size, tokenizer, model.info.metadata, folder)
        self._start(model, found, config)

    @classmethod
    def from_model(cls, model: Model, tokenizer: Tokenizer | None = None, *, max_batch: int | None = None) -> LLM:
        """The same over a model that is loaded already."""
        llm = cls.__new__(cls)
        llm._start(model, tokenizer, EngineConfig(model=model.info.path, max_batch=max_batch))
        return llm
