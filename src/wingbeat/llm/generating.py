"""Prompts that are completed: many at once, or one piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Literal

import msgspec

from wingbeat.engine.intake import KEPT
from wingbeat.engine.messages import GenerationRequest, Row, RowExtras
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.llm.answers import Chunk, Completion, GenerationError, append, checked
from wingbeat.llm.loaded import LoadedModel, Prompt, many_of
from wingbeat.sampling.params import SamplingParams

DEFAULT_MAX_TOKENS = 512
"""For calls without sampling parameters. ``SamplingParams()`` sets no limit of its own."""


class Generating(LoadedModel):
    """The part of ``LLM`` that continues texts."""

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
        many, single = many_of(prompts)
        params = _spread(sampling_params, len(many), single=single)
        if single:
            many *= len(params)
        self._check_initial(initial_state)
        requests = [self._request(prompt, p) for prompt, p in zip(many, params, strict=True)]
        for request in requests:
            request.initial_state = initial_state
        completions = {request.id: Completion(request.prompts[0]) for request in requests}
        for output in self._shared.run(requests):
            append(completions[output.request], output)
        return checked(list(completions.values()))

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
        request = self._request(prompt, _spread(sampling_params, 1)[0])
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

    def _request(self, prompt: Prompt, params: SamplingParams) -> GenerationRequest:
        vocab_size = self.info.vocab_size
        params.validate(vocab_size)
        if params.stop and self._tokenizer is None:
            raise ValueError("stop strings need a tokenizer, and this model has none: use stop_token_ids")
        if (params.constraint is not None or params.bad_words) and self._tokenizer is None:
            raise ValueError("a constraint and bad_words need a tokenizer, and this model has none")
        if params.constraint is not None and self._shared.compile(params.constraint):
            form = msgspec.structs.replace(params.constraint, leading_white=False)  # white space is the form's own
            params = msgspec.structs.replace(params, constraint=form)
        return GenerationRequest(
            fingerprint=self.info.fingerprint,
            prompts=[self._ids(prompt)],
            rows=[Row(0)],
            sampling=params,
            id=self._shared.new_id(),
        )


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
