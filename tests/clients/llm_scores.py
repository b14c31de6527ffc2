"""What `LLM.score` and `LLM.perplexity` say of the documents of `scoring.jsonl`: run by the environment that holds
wingbeat.

Reads the documents as JSON, writes for each the scores of its choices (log-probability, whether it is the likeliest)
and the log-probability of its text, the context with the right choice, from the beginning of a document on.
"""

from __future__ import annotations

import json
import math
import sys

from wingbeat import LLM

if __name__ == "__main__":
    found = []
    with LLM() as llm:
        for doc in json.load(sys.stdin):
            scores = llm.score(doc["context"], doc["choices"])
            text = doc["context"] + doc["choices"][doc["answer"]]
            whole = -math.log(llm.perplexity(text)) * len(llm.tokenizer.encode(text))
            found.append([[(score.logprob, score.greedy) for score in scores], whole])
    json.dump(found, sys.stdout)
