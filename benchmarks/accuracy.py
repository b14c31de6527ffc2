"""What a smaller dtype costs: the largest error of the logits against float32, over their spread.

python benchmarks/accuracy.py model.safetensors
"""

from __future__ import annotations

import argparse

import numpy as np

from wingbeat import LLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    exact = None
    for dtype in ("float32", "bfloat16", "int8"):
        with LLM(args.model, dtype=dtype) as llm:
            ids = np.random.default_rng(0).integers(0, min(65000, llm.info.vocab_size), args.tokens)
            logits = llm.logits(ids)
        exact = logits if exact is None else exact
        print(f"{dtype:9} {np.abs(logits - exact).max() / np.ptp(exact):.4f}")


if __name__ == "__main__":
    main()
