"""The Python API: a model in this process, without a server.

from wingbeat import LLM, SamplingParams

with LLM("model.safetensors") as llm:
    print(llm.generate("The Eiffel tower is in", SamplingParams(max_tokens=20, temperature=0))[0].text)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from wingbeat.adapter import Adapter
from wingbeat.demo import DEMO, demo_model_path
from wingbeat.engine.engine import Engine
from wingbeat.engine.intake import KEPT, origin_of
from wingbeat.engine.messages import (
    Embed,
    EngineConfig,
    FinishReason,
    GenerationRequest,
    Row,
    RowExtras,
    RowOutput,
    TokenLogprob,
)
from wingbeat.engine.shared import SharedEngine
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.hub.folder import find_model, models_folder
from wingbeat.models import Model, ModelInfo, Progress, load_model
from wingbeat.ops.table import FloatArray, StepBatch
from wingbeat.reading import (
    Score,
    embedding_request,
    layer_of,
    score_in,
    scoring_request,
    shaped,
    vector_in,
)
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.choose import advice, kind_of
from wingbeat.text.profile import ModelProfile, choose_profile
from wingbeat.text.templates import Message
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.world import END_OF_TEXT

__all__ = ["LLM", "Chunk", "Completion", "GenerationError", "Score", "chat_sampling", "demo_model_path"]

DEFAULT_MAX_TOKENS = 512
"""For calls without sampling parameters. ``SamplingParams()`` sets no limit of its own."""

TokenIds = Sequence[int] | NDArray[np.integer]
Prompt = str | TokenIds


class Completion(msgspec.Struct):
    """One prompt's answer. ``token_ids`` hold every sampled token, the one that ended it included; ``text`` does not.

    ``finish_reason`` is "stop" (``stop_reason`` then holds the stop string or id; None: the end of text), "length" or
    "error". ``reasoning`` is what a thinking model wrote before its answer, in ``chat`` only.
    """

    prompt_ids: list[int]
    text: str = ""
    token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    reasoning: str = ""


class Chunk(msgspec.Struct):
    """A piece of a streamed answer; the last one has a ``finish_reason``.

    ``prompt_state``, ``state`` and ``reply`` (the answer's tokens without its stop) are what ``stream`` was told to
    keep; ``reasoning`` is that of a ``Conversation``.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] | None = None
    stop_reason: str | int | None = None
    reasoning: str = ""
    prompt_state: StateSnapshot | None = None
    state: StateSnapshot | None = None
    reply: list[int] | None = None


class GenerationError(RuntimeError):
    """The model could not answer. ``completions`` holds what there is, of all prompts of the call."""

    def __init__(self, message: str, completions: list[Completion]) -> None:
        super().__init__(message)
        self.completions = completions


class LLM:
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

    def _start(self, model: Model, tokenizer: Tokenizer | None, config: EngineConfig) -> None:
        self._tokenizer = tokenizer
        kind = kind_of(model.info.vocab_size) if tokenizer is None else tokenizer.kind
        self._profile = choose_profile(model.info.path, model.info.metadata, config.profile, kind)
        self._shared = SharedEngine(Engine(model, tokenizer, config))
        self._chunk = config.token_budget
        self._scratch: FloatArray | None = None  # a pool of one state, for logits()

    @property
    def info(self) -> ModelInfo:
        return self._loaded().info

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ValueError when no tokenizer fits the model: it takes token ids only."""
        if self._tokenizer is None:
            raise ValueError(f"this model has no tokenizer: {advice(self.info.vocab_size)}")
        return self._tokenizer

    @property
    def profile(self) -> ModelProfile:
        """The model's chat format, its stops and its sampling defaults."""
        return self._profile

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        initial_state: str | None = None,
    ) -> list[Completion]:
        """Complete one or many prompts, all together; the answers come in the order of the prompts.

        A prompt is a text or token ids. One ``sampling_params`` serves all prompts, or there is one for each; several
        for a single prompt give as many answers to it. None: temperature 1, at most 512 tokens. ``initial_state`` names
        one of the model's ``states`` to begin from.
        Raises ValueError for a bad prompt or parameter before anything runs, GenerationError when an answer fails.
        """
        many, single = _many(prompts)
        params = self._spread(sampling_params, len(many), single=single)
        if single:
            many *= len(params)
        self._check_initial(initial_state)
        requests = [self._request(prompt, p) for prompt, p in zip(many, params, strict=True)]
        for request in requests:
            request.initial_state = initial_state
        completions = {request.id: Completion(request.prompts[0]) for request in requests}
        for output in self._shared.run(requests):
            _append(completions[output.request], output)
        return _checked(list(completions.values()))

    def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        state: StateSnapshot | None = None,
        initial_state: str | None = None,
        keep: Sequence[Literal["prompt", "end", "reply"]] = (),
        stop_when: Callable[[], bool] | None = None,
    ) -> Generator[Chunk]:
        """Complete one prompt, piece by piece. Closing the iterator ends the generation.

        The model runs while the iterator is asked for the next piece (or another thread runs it).

        Args:
            state: go on from this state as if ``prompt`` followed what it has seen.
            initial_state: begin from this one of the model's ``states``; "none" is a fresh one.
            keep: what is wanted beside text: "prompt", the state after the prompt (in ``prompt_state`` of the first
                chunk), "end", the state after the prompt and the answer without its stop (in ``state`` of the last
                chunk), and "reply". With such a state an empty prompt goes on with the answer that it was kept of, as
                if that had never ended.
            stop_when: asked before each step; once true the answer ends, with the ``finish_reason`` "cancelled".

        Raises ValueError at once for a bad prompt, parameter or state, GenerationError when the answer fails.
        """
        request = self._request(prompt, self._spread(sampling_params, 1)[0])
        if unknown := set(keep) - set(KEPT):
            raise ValueError(f"keep must hold {', '.join(map(repr, KEPT))}, not {unknown.pop()!r}")
        if state is not None:
            self.check_state(state)
            if not request.prompts[0] and state.logits is None:
                raise ValueError("this state has no logits: going on from it needs a prompt of at least one token")
            if initial_state is not None:
                raise ValueError("a prompt goes on from a state or begins from an initial state, not both")
        self._check_initial(initial_state)
        request.state, request.keep, request.initial_state = state, tuple(keep), initial_state
        return self._stream(request, stop_when)

    def _stream(self, request: GenerationRequest, stop_when: Callable[[], bool] | None) -> Generator[Chunk]:
        for output in self._shared.run([request], stop_when):
            if output.finish_reason == "error":
                raise GenerationError(output.error or "the generation failed", [])
            extras = output.extras or RowExtras()
            yield Chunk(
                output.text,
                output.token_ids,
                output.finish_reason,
                output.logprobs,
                output.stop_reason,
                prompt_state=extras.prompt_state,
                state=extras.state,
                reply=extras.reply,
            )

    def _check_initial(self, name: str | None) -> None:
        """Raises ValueError for the name of no initial state."""
        self._shared.engine.initial_states.origin(name)

    def check_state(self, state: StateSnapshot) -> None:
        """Raises ValueError, saying why, for a state that is not of this model."""
        origin_of(state, self._loaded())

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        sampling_params: SamplingParams | None = None,
        *,
        thinking: bool | None = None,
    ) -> Completion:
        """The reply to a conversation of ``{"role": ..., "content": ...}`` in the model's own chat format.

        The format's stops are added to those of ``sampling_params``; None takes the model's chat defaults.
        Raises ValueError for a bad conversation or parameter, GenerationError when the answer fails.
        """
        profile = self._profile
        segments = profile.render([to_message(m) for m in messages], thinking=thinking)
        params = chat_sampling(profile, sampling_params, thinking)
        completion = self.generate(self.tokenizer.encode_segments(segments), params)[0]
        splitter = profile.splitter(segments)
        pieces = splitter.push(completion.text), splitter.flush()
        completion.reasoning, completion.text = ("".join(parts) for parts in zip(*pieces, strict=True))
        return completion

    def score(self, context: Prompt, choices: Sequence[Prompt], *, initial_state: str | None = None) -> list[Score]:
        """How likely each choice is after ``context``, in the order of the choices; ``max(scores, key=...)`` picks one.

        The context is read once for all of them, and its state is remembered. Texts are tokenised each by itself. An
        empty context is the start of a document; an empty choice has no tokens, and a ``mean`` of -inf.
        Raises ValueError for a bad prompt, GenerationError when the model cannot read it.
        """
        self._check_initial(initial_state)
        before = self._ids(context) or [self._start_token]
        encoded = [self._ids(choice) for choice in choices]
        scores = [Score((), ())] * len(encoded)
        places = [place for place, ids in enumerate(encoded) if ids]
        if places:
            found = scoring_request(
                self.info.fingerprint,
                [(before, encoded[place]) for place in places],
                initial_state=initial_state,
                request_id=self._shared.new_id(),
            )
            for output in self._read(found):
                scores[places[output.row]] = score_in(output)
        return scores

    def perplexity(self, text: Prompt, *, initial_state: str | None = None) -> float:
        """e to the mean negative log-likelihood of the tokens of ``text``, read once, after the start of a document.

        Raises ValueError for a bad or empty text, GenerationError when the model cannot read it.
        """
        ids = self._ids(text)
        if not ids:
            raise ValueError("the perplexity of an empty text is not defined")
        (score,) = self.score((), [ids], initial_state=initial_state)
        return float(np.exp(-score.mean))

    def embed(
        self,
        texts: Prompt | Iterable[Prompt],
        *,
        layer: int | None = None,
        pooling: Literal["mean", "shift"] = "mean",
        dimensions: int | None = None,
        normalize: bool = True,
        initial_state: str | None = None,
    ) -> FloatArray:
        """Vectors of one or many texts (or token ids), read all together: float32 [n, D], the caller's own.

        Args:
            layer: from 0, or from the end if negative; None: the last one.
            pooling: "mean": over all tokens, of the hidden vector after that layer (of the last layer after the final
                norm); "shift": the time mixing's memory of the last token, its LayerNorm'ed input.
            dimensions: the first so many values only, at most the model's width; None: all.
            normalize: to length 1, after that.
            initial_state: one of the model's ``states`` to begin from.

        Raises ValueError for a bad or empty text or parameter, GenerationError when the model cannot read one.
        """
        many, _ = _many(texts)
        width = self.info.width
        if pooling not in ("mean", "shift"):
            raise ValueError(f"pooling must be 'mean' or 'shift', not {pooling!r}")
        if dimensions is not None and not 1 <= dimensions <= width:
            raise ValueError(f"dimensions must be from 1 to {width}, the model's width, not {dimensions}")
        self._check_initial(initial_state)
        prompts = [self._ids(text) for text in many]
        if not all(prompts):
            raise ValueError("an empty text has no vector")
        vectors = np.empty((len(prompts), width if dimensions is None else dimensions), np.float32)
        if prompts:
            embed = Embed(layer_of(layer, self.info.layers), pooling)
            found = embedding_request(
                self.info.fingerprint,
                prompts,
                embed,
                initial_state=initial_state,
                request_id=self._shared.new_id(),
            )
            for output in self._read(found):
                vectors[output.row] = shaped(vector_in(output), dimensions, normalize=normalize)
        return vectors

    def _read(self, request: GenerationRequest) -> list[RowOutput]:
        """The last outputs of the rows of a request that generates nothing. Raises GenerationError."""
        ended = [output for output in self._shared.run([request]) if output.finish_reason is not None]
        failed = [output for output in ended if output.finish_reason == "error"]
        if failed:
            raise GenerationError(failed[0].error or "the prompt cannot be read", [])
        return ended

    @property
    def _start_token(self) -> int:
        return END_OF_TEXT if self._tokenizer is None else self._tokenizer.start

    def logits(self, tokens: TokenIds, chunk: int | None = None) -> FloatArray:
        """What the model predicts after each of ``tokens``, from a fresh state: float32 [T, V], the caller's own.

        The tokens are fed ``chunk`` at a time (None: a step's worth); with the native kernels the result is the same
        to the last bit. Raises ValueError for an id out of range or a chunk below 1.
        """
        ids = self._token_ids(tokens)
        size = self._chunk if chunk is None else chunk
        if size < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        with self._shared.lock:
            executable = self._loaded().executable
            if self._scratch is None:
                self._scratch = executable.layout.allocate(1)
            executable.layout.reset(self._scratch, 0)
            out = np.empty((len(ids), executable.vocab_size), np.float32)
            for start in range(0, len(ids), size):
                piece = np.array(ids[start : start + size], np.int32)
                rows = len(piece)
                slots, bounds = np.zeros(1, np.int32), np.array([0, rows], np.int32)
                batch = StepBatch(piece, slots, bounds, np.arange(rows, dtype=np.int32))
                out[start : start + rows] = executable.run(batch, self._scratch)
            return out

    def close(self) -> None:
        """Free the model's memory; again does nothing. Running streams and further calls raise ValueError."""
        self._shared.close()
        self._scratch = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _loaded(self) -> Model:
        return self._shared.engine.model

    def _request(self, prompt: Prompt, params: SamplingParams) -> GenerationRequest:
        vocab_size = self.info.vocab_size
        params.validate(vocab_size)
        if params.stop and self._tokenizer is None:
            raise ValueError("stop strings need a tokenizer, and this model has none: use stop_token_ids")
        if (params.constraint is not None or params.bad_words) and self._tokenizer is None:
            raise ValueError("a constraint and bad_words need a tokenizer, and this model has none")
        if params.constraint is not None:
            self._shared.compile(params.constraint)
        return GenerationRequest(
            fingerprint=self.info.fingerprint,
            prompts=[self._ids(prompt)],
            rows=[Row(0)],
            sampling=params,
            id=self._shared.new_id(),
        )

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode_segments([prompt]) if isinstance(prompt, str) else self._token_ids(prompt)

    def _token_ids(self, tokens: TokenIds) -> list[int]:
        vocab_size = self.info.vocab_size
        ids = list(tokens) if isinstance(tokens, Iterable) else []
        if not isinstance(tokens, Iterable) or not all(isinstance(token, int | np.integer) for token in ids):
            raise ValueError(f"a prompt is a text or a list of token ids (whole numbers), not {tokens!r:.100}")
        for token in ids:
            if not 0 <= token < vocab_size:
                raise ValueError(f"token id {token} is outside the model's vocabulary of {vocab_size}")
        return [int(token) for token in ids]

    @staticmethod
    def _spread(
        params: SamplingParams | Sequence[SamplingParams] | None, prompts: int, *, single: bool = False
    ) -> list[SamplingParams]:
        """Parameters for each prompt; of a ``single`` one there may be as many answers as there are parameters."""
        if params is None:
            params = SamplingParams(max_tokens=DEFAULT_MAX_TOKENS)
        if isinstance(params, SamplingParams):
            return [params] * prompts
        if len(params) != prompts and not (single and params):
            raise ValueError(f"{len(params)} sampling_params for {prompts} prompts: give one, or one for each prompt")
        return list(params)


def chat_sampling(profile: ModelProfile, params: SamplingParams | None, thinking: bool | None) -> SamplingParams:
    """Parameters for a chat reply: ``params``, None for the model's own, with the stops of its format on top."""
    if params is None:
        params = SamplingParams(max_tokens=DEFAULT_MAX_TOKENS, **profile.sampling_for(thinking))
    return msgspec.structs.replace(params, stop=(*params.stop, *profile.stops))


def _many(prompts: Prompt | Iterable[Prompt]) -> tuple[list[Any], bool]:
    """The prompts as a list, and whether it was a single one: a text, ids in an array, or what begins with an id."""
    if isinstance(prompts, str) or (isinstance(prompts, np.ndarray) and prompts.ndim == 1):
        return [prompts], True
    if not isinstance(prompts, Iterable):
        raise ValueError(f"prompts are texts or lists of token ids, not {prompts!r:.100}")
    many = list(prompts)
    return ([many], True) if many and isinstance(many[0], int | np.integer) else (many, False)


def to_message(message: Mapping[str, str]) -> Message:
    """A message of a caller. Raises ValueError for one of another form."""
    fields = {"role", "content", "name", "reasoning_content"}
    if not isinstance(message, Mapping) or message.keys() - fields or not {"role", "content"} <= message.keys():
        raise ValueError(f"a message is {{'role': ..., 'content': ...}}, not {message!r:.100}")
    for field, value in message.items():
        if not (isinstance(value, str) or (value is None and field in ("name", "reasoning_content"))):
            raise ValueError(f"a message's {field} is a text, not {value!r:.100}")
    name, reasoning = message.get("name"), message.get("reasoning_content")
    return Message(message["role"], message["content"], name, reasoning)


def _append(completion: Completion, output: RowOutput) -> None:
    completion.text += output.text
    completion.token_ids += output.token_ids
    if output.logprobs is not None:
        completion.logprobs = completion.logprobs or []
        completion.logprobs += output.logprobs
    completion.finish_reason, completion.stop_reason = output.finish_reason, output.stop_reason
    completion.error = output.error


def _checked(completions: list[Completion]) -> list[Completion]:
    failed = [c for c in completions if c.finish_reason == "error"]
    if failed:
        message = failed[0].error or "the generation failed"
        raise GenerationError(f"{len(failed)} of {len(completions)} completions failed: {message}", completions)
    return completions
