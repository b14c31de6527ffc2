"""What reading tells without generating: how likely texts are, and their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from wingbeat.engine.messages import Embed, GenerationRequest, RowOutput
from wingbeat.llm.answers import GenerationError
from wingbeat.llm.loaded import LoadedModel, Prompt, many_of
from wingbeat.ops.table import FloatArray
from wingbeat.reading import Score, embedding_request, layer_of, score_in, scoring_request, shaped, vector_in


class Reading(LoadedModel):
    """The part of ``LLM`` that scores and embeds."""

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
        many, _ = many_of(texts)
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
