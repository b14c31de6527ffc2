"""``LLM.score``, ``LLM.perplexity`` and ``LLM.embed``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.test_llm import llm, path, speller
from wingbeat import LLM
from wingbeat.llm import GenerationError
from wingbeat.reading import shaped

__all__ = ["llm", "path", "speller"]

CONTEXT = "the wing beats, and " * 4
TEXTS = ["wingbeat", "a wing", "\n\nthe end of it all"]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(1, keepdims=True))


@pytest.mark.parametrize("context", [CONTEXT, "x", ""])
def test_scores_are_those_of_the_models_logits(llm: LLM, context: str) -> None:
    choices = ["wing", " beat it", "", "wing"]
    scores = llm.score(context, choices)
    before = llm.tokenizer.encode(context) or [llm.tokenizer.start]
    valid = llm.tokenizer.vocab_size
    for choice, score in zip(choices, scores, strict=True):
        ids = llm.tokenizer.encode(choice)
        predicted = log_softmax(llm.logits([*before, *ids])[len(before) - 1 : -1, :valid])
        assert score.token_ids == tuple(ids)
        assert score.logprobs == pytest.approx(predicted[range(len(ids)), ids], abs=1e-4)
        assert score.logprob == pytest.approx(sum(score.logprobs))
        assert score.greedy == all(predicted.argmax(1) == ids)
    assert scores[0] == scores[3]
    assert (scores[2].logprobs, scores[2].mean) == ((), -math.inf)
    assert scores[0].mean == pytest.approx(scores[0].logprob / len(scores[0].token_ids))


def test_greedy_choices_are_what_the_model_would_say(speller: LLM) -> None:
    right, wrong, half = speller.score("User: hi\n\nAssistant:", [" wingbeat", "beat", " wing\n"])
    assert (right.greedy, wrong.greedy, half.greedy) == (True, False, False)


def test_the_perplexity_of_a_text(llm: LLM) -> None:
    text = CONTEXT * 3
    (score,) = llm.score("", [text])
    assert llm.perplexity(text) == pytest.approx(math.exp(-score.mean))
    assert llm.perplexity(llm.tokenizer.encode(text)) == llm.perplexity(text)
    with pytest.raises(ValueError, match="empty text"):
        llm.perplexity("")


@pytest.mark.parametrize("pooling", ["mean", "shift"])
def test_vectors_have_length_one_and_a_place_for_each_text(llm: LLM, pooling: Any) -> None:
    vectors = llm.embed(TEXTS, pooling=pooling)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 64)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert np.allclose(llm.embed(text, pooling=pooling)[0], vector, atol=1e-5)
        assert np.allclose(llm.embed(llm.tokenizer.encode(text), pooling=pooling)[0], vector, atol=1e-5)
    whole = llm.embed(TEXTS, pooling=pooling, normalize=False)
    assert np.allclose(whole / np.linalg.norm(whole, axis=1, keepdims=True), vectors, atol=1e-6)
    few = llm.embed(TEXTS, pooling=pooling, dimensions=5)
    assert np.allclose(few, whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True), atol=1e-6)


def test_layers_count_from_both_ends(llm: LLM) -> None:
    by_layer = [llm.embed("wing", layer=layer) for layer in (0, 1)]
    assert not np.allclose(*by_layer, atol=1e-3)
    assert (llm.embed("wing", layer=-2) == by_layer[0]).all()
    assert (llm.embed("wing") == by_layer[1]).all()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"layer": 2}, "layer must be from -2 to 1"),
        ({"layer": -3}, "layer must be from -2 to 1"),
        ({"dimensions": 0}, "from 1 to 64"),
        ({"dimensions": 65}, "from 1 to 64"),
        ({"pooling": "max"}, "pooling must be"),
        ({"texts": [""]}, "an empty text"),
        ({"texts": ["a", []]}, "an empty text"),
        ({"texts": [[300]]}, "outside the model's vocabulary"),
        ({"initial_state": "nobody"}, "nobody"),
    ],
)
def test_what_cannot_be_embedded_is_said_before_anything_runs(llm: LLM, arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        llm.embed(**{"texts": "wing", **arguments})


def test_nothing_comes_of_nothing(llm: LLM) -> None:
    assert llm.score(CONTEXT, []) == []
    assert llm.embed([]).shape == (0, 64)


def test_what_the_model_cannot_read_is_an_error(speller: LLM) -> None:
    with pytest.raises(GenerationError, match="not finite"):
        speller.score([66, 66], [[5]])
    with pytest.raises(GenerationError, match="not finite"):
        speller.embed([[66, 66]])
    assert len(speller.score([5, 5], [[5]])) == 1


def test_a_vector_of_zeros_stays_one() -> None:
    assert shaped(np.zeros(3, np.float32), None, normalize=True).tolist() == [0, 0, 0]
