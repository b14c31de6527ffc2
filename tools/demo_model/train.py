"""Train the demo model from scratch, or go on from the last checkpoint of a run folder.

    python tools/demo_model/train.py --run build/demo --minutes 60

The run folder holds the fetched texts, the vocabulary, the last checkpoint and a log. A GPU is used when there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import corpus as corpora
import torch
import vocabulary
from model import RWKV7, Shape
from torch.nn import functional

from wingbeat.text.world import WorldTokenizer

ROWS = 4096  # of the embedding and the head; a few at the end have no token
EVALUATED = ("qa", "fact", "unknown", "translation", "pairs", "story", "sentence", "prose")


def main() -> None:
    options = _options()
    options.run.mkdir(parents=True, exist_ok=True)
    (options.run / "pid").write_text(f"{os.getpid()}\n")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    train, held_out = corpora.load(options.run / "cache")
    vocab_path = options.run / "vocab.txt"
    if not vocab_path.exists():
        vocabulary.cut(train, ROWS, vocab_path)
    tokenizer = WorldTokenizer(vocab_path)
    Trainer(options, train, held_out, tokenizer).run()


class Trainer:
    """The loop: batches, the schedule, checkpoints and the held-out loss."""

    def __init__(
        self, options: argparse.Namespace, train: corpora.Corpus, held_out: corpora.Corpus, tokenizer: WorldTokenizer
    ) -> None:
        self.options, self.train, self.held_out, self.tokenizer = options, train, held_out, tokenizer
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = RWKV7(Shape(ROWS, options.width, options.layers)).to(self.device)
        self.forward = torch.compile(self.model) if options.compile else self.model
        self.optimizer = torch.optim.AdamW(_groups(self.model), betas=(0.9, 0.99), eps=1e-18, fused=True)
        self.weights = corpora.kind_weights(train, tokenizer)
        self.step, self.planned, self.spent = 0, options.steps, 0.0
        self.checkpoint = options.run / "checkpoint.pt"
        if self.checkpoint.exists():
            self._resume()

    def run(self) -> None:
        count = sum(weight.numel() for weight in self.model.parameters())
        self._log(parameters=count, device=self.device, vocabulary=self.tokenizer.size)
        begun = saved = time.process_time() if self.device == "cpu" else time.monotonic()
        losses: list[float] = []
        while self.planned == 0 or self.step < self.planned:
            started = time.monotonic()
            losses.append(self._one_step())
            self.spent += time.monotonic() - started
            if self.planned == 0 and self.step == 60:
                self._plan()
            if self.step % 50 == 0:
                rate = self.step * self.options.batch * self.options.length / self.spent
                self._log(step=self.step, of=self.planned, loss=sum(losses) / len(losses), tokens_per_s=round(rate))
                losses.clear()
            now = time.process_time() if self.device == "cpu" else time.monotonic()
            if now - saved > 60 * self.options.save_every:
                self._save()
                saved = now
        self._save()
        self._log(held_out=self.evaluate(), cpu_or_wall_s=round(now - begun))

    def _one_step(self) -> float:
        # Every step has its own seed, so that a resumed run sees what an uninterrupted one would have seen.
        rng = random.Random(self.options.seed * 1_000_003 + self.step)
        source = corpora.documents(self.train, self.weights, rng)
        rows = [corpora.row(source, self.tokenizer, self.options.length + 1) for _ in range(self.options.batch)]
        tokens = torch.tensor(rows, device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * self._rate()
        logits = self.forward(tokens[:, :-1])
        loss = functional.cross_entropy(logits.view(-1, ROWS), tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def _rate(self) -> float:
        """Warm-up over 100 steps, then a cosine down to a fiftieth at the planned end."""
        done = self.step / self.planned if self.planned else 0.0
        return self.options.rate * min(1.0, (self.step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))

    def _plan(self) -> None:
        """Decide the number of steps from the throughput so far, its slow first step excluded by the measurement."""
        started = time.monotonic()
        for _ in range(20):
            self._one_step()
        each = (time.monotonic() - started) / 20
        self.spent += 20 * each
        self.planned = max(200, round((self.options.minutes * 60 - self.spent) / each) + self.step)
        self._log(planned=self.planned, seconds_each=each)

    @torch.no_grad()
    def evaluate(self) -> dict[str, dict[str, float]]:
        """Held-out loss (nats a token) and bits a byte of every kind of text, each document from the empty state."""
        report = {}
        for kind in EVALUATED:
            rng = random.Random(99)
            nats = tokens = size = 0
            for _ in range(60):
                document = self.held_out.draw(kind, rng)
                ids = [*self.tokenizer.encode_segments(document), corpora.END]
                padded = ids[:-1] + [0] * (-(len(ids) - 1) % 16)
                logits = self.model(torch.tensor([padded], device=self.device))[0, : len(ids) - 1]
                nats += functional.cross_entropy(
                    logits, torch.tensor(ids[1:], device=self.device), reduction="sum"
                ).item()
                tokens += len(ids) - 1
                size += len("".join(document).encode())
            report[kind] = {
                "nats_per_token": round(nats / tokens, 3),
                "bits_per_byte": round(nats / size / math.log(2), 3),
            }
        return report

    def _save(self) -> None:
        data = {
            "shape": self.model.shape.as_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": (self.step, self.planned, self.spent),
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(data, part)
        part.replace(self.checkpoint)

    def _resume(self) -> None:
        data = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(data["model"])
        self.optimizer.load_state_dict(data["optimizer"])
        self.step, self.planned, self.spent = data["progress"]
        if self.options.steps:
            self.planned = self.options.steps

    def _log(self, **values: object) -> None:
        line = json.dumps({"time": time.strftime("%H:%M:%S"), **values})
        print(line, flush=True)
        with (self.options.run / "log.jsonl").open("a") as log:
            log.write(line + "\n")


def _groups(model: RWKV7) -> list[dict[str, object]]:
    """Matrices with weight decay; vectors, norms, low ranks and the embedding without; w0 twice as fast."""
    plain, decayed, fast = [], [], []
    for name, weight in model.named_parameters():
        if name.endswith("att.w0"):
            fast.append(weight)
        elif weight.dim() == 2 and name.endswith(".weight") and not name.startswith("emb"):
            decayed.append(weight)
        else:
            plain.append(weight)
    return [
        {"params": plain, "weight_decay": 0.0, "scale": 1.0},
        {"params": decayed, "weight_decay": 0.1, "scale": 1.0},
        {"params": fast, "weight_decay": 0.0, "scale": 2.0},
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of this run")
    parser.add_argument(
        "--minutes", type=float, default=60, help="training time that the number of steps is planned for"
    )
    parser.add_argument("--steps", type=int, default=0, help="number of steps; 0: planned from the throughput")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row, a multiple of 16")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=6, help="minutes of processor time between checkpoints")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
