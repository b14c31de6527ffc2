"""The models being served: a name, its engine, its tokenizer and its profile."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import structlog

from wingbeat.engine.client import CLOSED, EngineClient, EngineUnavailable, Generation, QueueFull
from wingbeat.engine.messages import EngineConfig, GenerationRequest, Row
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.sampling.constraint import Constraint, ConstraintError
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.body import run_sized
from wingbeat.server.errors import ApiError, bad_request, unavailable
from wingbeat.server.figures import Figures
from wingbeat.server.tracking import current_request
from wingbeat.services.embedder import Embedder
from wingbeat.text.choose import advice, kind_of
from wingbeat.text.profile import ModelProfile, choose_profile
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.world import END_OF_TEXT

log = structlog.get_logger("wingbeat.server")

Prompt = tuple[str, ...] | list[int]
"""Texts that are tokenised one by one and then joined, or token ids."""


class Prompts(list[list[int]]):
    """Token ids of prompts, and the fingerprint of the model that they are for: ids mean nothing to another one.

    ``logged`` of them are the log of a session, which no client sent and no limit counts. ``mark``: so many tokens of
    the only prompt will begin the next one of its conversation, which then goes another way; 0: all, or nobody knows.
    ``draft``: the ids that the answer is expected to consist of.
    """

    def __init__(self, ids: Iterable[list[int]], fingerprint: str, logged: int = 0, mark: int = 0) -> None:
        super().__init__(ids)
        self.mark = mark
        self.draft: list[int] = []
        self.fingerprint = fingerprint
        self.logged = logged


class Start(NamedTuple):
    """Where sequences begin: in the initial state that the engine calls `initial` (None: its default one), or else in
    `state`, whose content has the name `key`.

    `opening`: what a prompt ended with whose answer goes on in `state` (see `ReasoningSplitter`).
    """

    initial: str | None = None
    state: StateSnapshot | None = None
    key: str = ""
    opening: str = ""


DEFAULT_START = Start()


class ServedModel:
    """One model under one name. `tokenizer` and `profile` are there once `status` is "ok"."""

    def __init__(self, config: EngineConfig, *, max_prompt_tokens: int) -> None:
        self.config = config
        self.max_prompt_tokens = max_prompt_tokens
        self.created = int(time.time())
        self.client = EngineClient(config)
        self.figures = Figures(self.client)
        self.tokenizer: Tokenizer | None = None
        self.loading: asyncio.Task[None] | None = None
        self.failure: str | None = None
        self.fingerprint = ""
        """Of the model that `tokenizer` and `profile` belong to."""
        self._profile: ModelProfile | None = None
        self.client.on_ready = self._on_ready

    async def start(self) -> None:
        """Start the engine; `loading` is done when the model is ready or `failure` says why it never will be."""
        await self.client.start()
        self.loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            await self.client.wait_ready()
            while not self._fits:
                info, config = self.info, self.config
                rows, metadata = info["vocab_size"], info["metadata"]
                found = await asyncio.to_thread(
                    load_tokenizer, config.model, rows, config.tokenizer, metadata, config.models_folder
                )
                kind = kind_of(rows) if found is None else found.kind
                self.tokenizer = found
                self._profile = choose_profile(self.name, metadata, config.profile, kind)
                self.fingerprint = info["fingerprint"]
        except Exception as error:  # whatever it is, "loading" must not last for ever
            expected = isinstance(error, EngineUnavailable | ValueError | OSError)
            log.error("the model cannot be served", model=self.name, exc_info=None if expected else error)
            self.failure = self.client.error or str(error) or type(error).__name__

    def _on_ready(self) -> None:
        """The engine may have been restarted with another file under the model's path."""
        if self.loading is not None and self.loading.done() and not self._fits:
            self.loading = asyncio.create_task(self._load())

    @property
    def _fits(self) -> bool:
        """Whether tokenizer and profile are those of the model that the engine runs."""
        return self._profile is not None and self.fingerprint == self.info.get("fingerprint")

    async def close(self, reason: str = CLOSED) -> None:
        """End the engine; what is being generated ends with it."""
        if self.loading is not None:
            self.loading.cancel()
        await self.client.close(reason)

    @property
    def name(self) -> str:
        return self.info.get("name") or Path(self.config.model).stem

    @property
    def status(self) -> str:
        """`ok`, or why nothing can be asked of it now: `loading`, `failed`, `restarting`, `closed`."""
        if self.failure is not None:
            return "failed"
        if self.client.status == "ready":
            return "ok" if self._fits else "loading"
        return self.client.status

    @property
    def profile(self) -> ModelProfile:
        assert self._profile is not None, "check_ready() comes first"
        return self._profile

    @property
    def info(self) -> dict[str, Any]:
        """The fields of `ModelInfo`; empty until the model is loaded for the first time."""
        return self.client.info or {}

    @property
    def vocab_size(self) -> int:
        return self.info.get("vocab_size", 0)

    def check_ready(self) -> None:
        """Raises ApiError (503) unless the model can be asked now."""
        if self.status != "ok":
            done, total = self.client.progress
            progress = f" ({100 * done // total} %)" if total and self.status == "loading" else ""
            raise unavailable(f"The model {self.name} cannot answer now: {self.status}{progress}.")

    async def encode(self, prompts: Sequence[Prompt], param: str, choices: int = 1, last: int | None = None) -> Prompts:
        """Token ids of each prompt; `param` is the field they came from, `choices` how often each is answered. `last`:
        only so many from its end, -1: as many as it may have.

        Raises ApiError (400) for texts and ids that the model cannot take, and for more of them than it may.
        """
        size = sum(len(prompt) if isinstance(prompt, list) else sum(map(len, prompt)) for prompt in prompts)
        tokenizer, fingerprint = self.tokenizer, self.fingerprint  # now: the model may be replaced meanwhile
        if last == -1:
            last = max(1, self.max_prompt_tokens // (choices * max(1, len(prompts))))
        ids = await run_sized(size, self._encode, tokenizer, prompts, param, choices, last)
        return Prompts(ids, fingerprint)

    def _encode(
        self, tokenizer: Tokenizer | None, prompts: Sequence[Prompt], param: str, choices: int, last: int | None
    ) -> list[list[int]]:
        encoded: list[list[int]] = []
        total, most = 0, self.max_prompt_tokens
        for prompt in prompts:
            ids = self._encode_one(tokenizer, prompt, param)
            encoded.append(ids if last is None else ids[-last:])
            total += len(encoded[-1]) * choices
            if total > most:
                counted = " (each prompt counted once for each answer)" if choices > 1 else ""
                # LiteLLM and others know this error by these words of OpenAI's.
                limit = f"this model's maximum context length is {most} tokens"
                message = f"{param}: {total} tokens{counted}, and {limit}. Shorten it or ask in parts."
                raise bad_request(message, param, "context_length_exceeded")
        return encoded

    def _encode_one(self, tokenizer: Tokenizer | None, prompt: Prompt, param: str) -> list[int]:
        if isinstance(prompt, list):
            self.check_tokens(prompt, param)
            return prompt
        if tokenizer is None:
            raise bad_request(f"The model {self.name} has no tokenizer: {advice(self.vocab_size)}.", param)
        return tokenizer.encode_segments(prompt)

    def tokens_of(self, segment: str) -> int:
        """How many tokens a piece of a prompt has."""
        return 0 if self.tokenizer is None else len(self.tokenizer.encode(segment))

    def check_chats(self) -> None:
        """Raises ApiError (400) for a model that has no form for conversations."""
        try:
            self.profile.chat_template()
        except ValueError as error:
            raise bad_request(f"{self.name}: {error}.", "model", "unsupported_value") from None

    def check_tokens(self, ids: Collection[int], param: str) -> None:
        """Raises ApiError (400) for an id that the model does not know."""
        size = self.vocab_size
        if ids and not (min(ids) >= 0 and max(ids) < size):
            wrong = next(token for token in ids if not 0 <= token < size)
            raise bad_request(f"{param}: {wrong} is not a token of this model (0 to {size - 1}).", param)

    async def compile(self, constraint: Constraint, param: str) -> bool:
        """See that a constraint, which came from the field `param`, can be used, and whether a text of its form may
        begin with white space. Await this before a reply begins.

        Raises ApiError: 400 saying what is wrong with it, 503 when the engine is away.
        """
        try:
            return await self.client.compile(constraint)
        except ConstraintError as error:
            raise bad_request(f"{param}: {error}.", param) from None
        except EngineUnavailable as away:
            raise unavailable(str(away)) from None

    @property
    def start_token(self) -> int:
        """The token that is read in place of an empty prompt."""
        return END_OF_TEXT if self.tokenizer is None else self.tokenizer.start

    @property
    def end_of_text(self) -> int:
        """The token that ends a text."""
        return END_OF_TEXT if self.tokenizer is None else self.tokenizer.end_of_text

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token; empty where there is no tokenizer."""
        return b"" if self.tokenizer is None else self.tokenizer.token_bytes(token)

    def submit(
        self,
        prompts: Prompts,
        choices: int,
        sampling: SamplingParams,
        *,
        prompt_logprobs: int | None = None,
        start: Start = DEFAULT_START,
        keep: tuple[Literal["prompt", "end", "reply"], ...] = (),
        session: str | None = None,
        cache: bool = True,
        repeats: bool = False,
    ) -> Generation:
        """Start generating `choices` rows for each prompt, in order.

        With a seed each prompt is answered as it would be alone; without one all rows are drawn independently, and with
        `repeats` those of equal prompts always are.
        `prompt_logprobs` has the prompts scored too, with so many alternatives for each of their tokens.
        `keep`, `session` and `cache` are those of `GenerationRequest`.

        Raises ApiError: 429 when the queue is full or the client may not have so much, 503
        when the engine is away or runs another model than the prompts are for.
        """
        if sampling.seed is None:
            firsts = [prompt * choices for prompt in range(len(prompts))]
        else:
            firsts = [times * choices for times in _times_before(prompts)] if repeats else [0] * len(prompts)
        request = GenerationRequest(
            fingerprint=prompts.fingerprint,
            prompts=list(prompts),
            rows=[Row(prompt, first + choice) for prompt, first in enumerate(firsts) for choice in range(choices)],
            sampling=sampling,
            prompt_logprobs=prompt_logprobs,
            initial_state=start.initial,
            state=start.state,
            state_key=start.key,
            keep=keep,
            cache=cache,
            session=session,
            marks=[prompts.mark] if prompts.mark else [],
            draft=prompts.draft,
        )
        return self.begin(request, sum(map(len, prompts)) - prompts.logged, "n" if choices > 1 else "prompt")

    def read(self, request: GenerationRequest, start: Start, tokens: int, param: str) -> Generation:
        """Start a request that samples nothing, from `start`; the client is charged for so many tokens.

        What is read came from the field `param`. Raises ApiError as `submit`.
        """
        request.initial_state, request.state, request.state_key = start.initial, start.state, start.key
        return self.begin(request, tokens, param)

    def begin(self, request: GenerationRequest, tokens: int, param: str) -> Generation:
        """Hand a request to the engine, whose rows are as many as the field `param` makes them. Raises ApiError as
        `submit`."""
        if request.fingerprint != self.fingerprint:
            raise unavailable("Another model was loaded while the request was prepared. Send it again.")
        record = current_request()
        if record is not None:
            record.admit(tokens, len(request.rows), param)
        generation = self._submit(request)
        if record is not None:
            record.begin(generation, tokens)
        return generation

    def _submit(self, request: GenerationRequest) -> Generation:
        try:
            return self.client.submit(request)
        except QueueFull as full:
            wait = max(1, round(full.retry_after))
            message = f"Too many requests are waiting. Try again in {wait} s."
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": str(wait)}) from None
        except EngineUnavailable as away:
            raise unavailable(str(away)) from None


class ModelRegistry:
    """Finds a model by the name a client gives. A model may be replaced: ask anew for each request.

    `embedder` is offered beside them, and generates nothing.
    """

    def __init__(
        self, models: Iterable[ServedModel], *, any_model: bool = False, embedder: Embedder | None = None
    ) -> None:
        self.models = list(models)
        self.embedder = embedder
        self._any_model = any_model

    @property
    def first(self) -> ServedModel:
        return self.models[0]

    def swap(self, old: ServedModel, new: ServedModel) -> None:
        """From now on requests go to ``new`` in the place of ``old``."""
        self.models[self.models.index(old)] = new

    def find(self, name: str | None) -> ServedModel:
        """The model to serve a request for `name`, ready or not.

        Absent, `model`, and any name that starts with `rwkv` mean the first model, so that clients written for other
        servers work unchanged. Raises ApiError: 404 for other names, 400 for that of the embedding model.
        """
        first = self.first
        if name is None or name == "model":
            return first
        known = self._named(name)
        if known is None and self._embeds(name):
            message = f"{name} is an embedding model: it has vectors for POST /v1/embeddings, and generates no text."
            raise bad_request(message, "model", "unsupported_value")
        if known is None and not self._any_model and not name.lower().startswith("rwkv"):
            raise self._not_found(name)
        return known or first

    def exact(self, name: str) -> ServedModel | Embedder:
        """The model of exactly this name. Raises ApiError (404)."""
        model = self._named(name) or (self.embedder if self._embeds(name) else None)
        if model is None:
            raise self._not_found(name)
        return model

    async def start(self) -> None:
        for model in self.models:
            await model.start()

    async def close(self) -> None:
        for model in self.models:
            await model.close()

    def _named(self, name: str) -> ServedModel | None:
        return next((model for model in self.models if model.name == name), None)

    def _embeds(self, name: str) -> bool:
        return self.embedder is not None and self.embedder.name == name

    def _not_found(self, name: str) -> ApiError:
        known = ", ".join(model.name for model in self.models)
        message = f"The model {name[:100]!r} does not exist. Loaded: {known}."
        return ApiError(404, message, param="model", code="model_not_found")


def _times_before(prompts: Iterable[Sequence[int]]) -> Iterator[int]:
    """Of each prompt how many before it are equal."""
    seen: Counter[bytes] = Counter()
    for ids in prompts:
        key = array("q", ids).tobytes()
        yield seen[key]
        seen[key] += 1
