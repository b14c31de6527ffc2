"""What a smaller dtype costs on a real text: the perplexity of a model in each dtype, beside float32.

    python benchmarks/perplexity.py [MODEL] [--text FILE] [--dtype float32 int8] [--window 512]

The text is cut into windows of tokens that overlap by half. Each is read from an empty state, and the tokens of its
second half are scored, so that every one of them has at least half a window before it. One line for each dtype:

    perplexity   e to the mean loss of a token
    ratio        the perplexity over that of the first dtype, and its standard error over the windows
    bits/byte    the loss of all tokens over the bytes that they stand for
    divergence   of the first dtype's probabilities from these (Kullback-Leibler), nats a token: tells two dtypes apart
                 whose ratios are within their errors
    same token   how often the likeliest token is the first dtype's

All dtypes are held in memory at once. Without a model: the bundled demo, on prose that it was not trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from wingbeat.dtypes import DTYPES, full_name
from wingbeat.llm import demo_model_path
from wingbeat.models import Model, load_model
from wingbeat.ops.table import FloatArray, IntArray, StepBatch
from wingbeat.text.choose import tokenizer_for

TEXT = Path(__file__).parent / "texts" / "moby-dick.txt"
WINDOW = 512


@dataclass
class Scores:
    """Of the scored tokens, one array a window: their losses in nats, and how far the predictions are from the exact.

    ``divergences`` are in nats, ``agreements`` are true where the likeliest token is the exact model's.
    """

    losses: list[FloatArray] = field(default_factory=list)
    divergences: list[FloatArray] = field(default_factory=list)
    agreements: list[np.ndarray] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """The mean loss of a token in nats."""
        return float(np.concatenate(self.losses).mean(dtype=np.float64))

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss))

    @property
    def divergence(self) -> float:
        return float(np.concatenate(self.divergences).mean(dtype=np.float64))

    @property
    def agreement(self) -> float:
        return float(np.concatenate(self.agreements).mean())

    def ratio(self, exact: Scores) -> tuple[float, float]:
        """This perplexity over the exact model's, and the standard error of that (NaN for a single window)."""
        ratio = float(np.exp(self.loss - exact.loss))
        extra = [float(np.mean(a - b)) for a, b in zip(self.losses, exact.losses, strict=True)]
        return ratio, ratio * float(np.std(extra, ddof=1)) / len(extra) ** 0.5 if len(extra) > 1 else float("nan")


def windows(ids: Sequence[int], size: int) -> Iterator[IntArray]:
    """Pieces of ``size`` ids, the last perhaps shorter, that overlap: each id is in the second half of one at most."""
    context = size // 2
    for start in range(0, len(ids) - context, size - context):
        yield np.array(ids[start : start + size], np.int32)


def log_probs(model: Model, pool: FloatArray, window: IntArray, context: int) -> FloatArray:
    """Natural logarithms of the probabilities of what follows the first ``context`` tokens: float32 [R, V].

    Row ``i`` predicts ``window[context + i]`` from all tokens of the window before it. ``pool`` has one slot.
    """
    executable = model.executable
    executable.layout.reset(pool, 0)
    rows = len(window) - 1
    bounds, wanted = np.array([0, rows], np.int32), np.arange(context - 1, rows, dtype=np.int32)
    logits = executable.run(StepBatch(window[:-1], np.zeros(1, np.int32), bounds, wanted), pool)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def measure(models: Sequence[Model], ids: Sequence[int], size: int) -> list[Scores]:
    """Score ``ids`` with each model, in windows of ``size`` tokens; the first model is the exact one.

    Raises ValueError for a window below 2 tokens and for fewer tokens than half a window and one.
    """
    context = size // 2
    if context < 1 or len(ids) <= context:
        raise ValueError(
            f"a window of {size} leaves nothing to score of {len(ids)} tokens, because its first half is context only: "
            "take a longer text, or a window of 2 tokens or more that is shorter"
        )
    pools = [model.executable.layout.allocate(1) for model in models]
    scores = [Scores() for _ in models]
    console = Console(stderr=True)
    for window in track(list(windows(ids, size)), "Scoring", console=console, transient=True):
        targets = window[context:, None]
        exact = None
        for model, pool, score in zip(models, pools, scores, strict=True):
            found = log_probs(model, pool, window, context)
            exact = found if exact is None else exact
            score.losses.append(-np.take_along_axis(found, targets, axis=1)[:, 0])
            score.divergences.append((np.exp(exact) * (exact - found)).sum(axis=1))
            score.agreements.append(found.argmax(axis=1) == exact.argmax(axis=1))
    return scores


def load(path: Path, dtypes: Sequence[str], threads: int | None) -> list[Model]:
    models = []
    for dtype in dtypes:
        with Console(stderr=True).status(f"Loading {dtype}"):
            models.append(load_model(path, dtype=dtype, threads=threads))
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=demo_model_path())
    parser.add_argument("--text", type=Path, default=TEXT, help="a UTF-8 file that the model was not trained on")
    parser.add_argument("--dtype", nargs="+", type=full_name, choices=DTYPES, default=DTYPES, help="the first is exact")
    parser.add_argument("--window", type=int, default=WINDOW, help="tokens; the first half is context only")
    parser.add_argument("--tokens", type=int, help="score at most so many")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    try:
        report(args.model, args.text, args.dtype, args.window, args.tokens, args.threads)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def report(
    path: Path, text: Path, dtypes: Sequence[str], size: int, tokens: int | None = None, threads: int | None = None
) -> None:
    models = load(path, dtypes, threads)
    info = models[0].info
    tokenizer = tokenizer_for(path, info.vocab_size)
    if tokenizer is None:
        raise ValueError(f"no tokenizer fits {path}: put its vocabulary beside it")
    ids, context = tokenizer.encode(text.read_text(encoding="utf-8")), size // 2
    if tokens is not None:
        ids = ids[: context + tokens]
    scores = measure(models, ids, size)
    print(f"{info.name}: {len(ids) - context} tokens of {text.name} in windows of {size}")
    print_table(dtypes, scores, len(tokenizer.decode_bytes(ids[context:])))


def print_table(dtypes: Sequence[str], scores: Sequence[Scores], text_bytes: int) -> None:
    print(f"{'dtype':9}{'perplexity':>12}{'ratio':>9}{'+-':>8}{'bits/byte':>11}{'divergence':>12}{'same token':>12}")
    exact = scores[0]
    for dtype, score in zip(dtypes, scores, strict=True):
        ratio, error = score.ratio(exact)
        bits = sum(float(losses.sum(dtype=np.float64)) for losses in score.losses) / np.log(2) / text_bytes
        print(
            f"{dtype:9}{score.perplexity:12.3f}{ratio:9.4f}{error:8.4f}{bits:11.4f}"
            f"{score.divergence:12.6f}{score.agreement:12.1%}"
        )


if __name__ == "__main__":
    main()
