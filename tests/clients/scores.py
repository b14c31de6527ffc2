"""What a model thinks of texts, from its logits and without a server: run by the environment that holds wingbeat.

Reads pairs of a context and its continuation as JSON, writes for each the log-probability of the continuation and
whether it is the likeliest. A context that is null is the beginning of a document.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from wingbeat import LLM

END_OF_TEXT = 0


def score(llm: LLM, context: str | None, continuation: str) -> tuple[float, bool]:
    before = [END_OF_TEXT] if context is None else llm.tokenizer.encode(context)
    whole = [*before, *llm.tokenizer.encode(continuation)]
    if context is not None:
        whole = llm.tokenizer.encode(context + continuation)
    logits = llm.logits(whole)[len(before) - 1 : -1].astype(np.float64)
    wanted = np.array(whole[len(before) :])
    logprobs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    logprobs -= logits.max(1, keepdims=True)
    return float(logprobs[np.arange(len(wanted)), wanted].sum()), bool((logits.argmax(1) == wanted).all())


if __name__ == "__main__":
    with LLM() as llm:
        json.dump([score(llm, *pair) for pair in json.load(sys.stdin)], sys.stdout)
