"""Run several benchmarks in turn, round after round, and print the ratios of their medians as a Markdown table.

    python benchmarks/compare.py --rounds 5 \\
        "wingbeat int8 = wingbeat bench --json --model 0.1B.safetensors --dtype int8" \\
        "llama.cpp q8_0 = peers/bin/python benchmarks/peers/llamacpp.py 0.1B-q8_0.gguf"

Each argument is `NAME = COMMAND`; a command prints lines of JSON with "what" and "tok_s". The first one is compared
with all others: 1.50x means that it makes 1.5 times as many tokens. Rounds are interleaved, and each begins with
another command, because a machine's clock and memory are not the same from one minute to the next.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

Rates = dict[tuple[str, str], list[float]]  # (name, what) -> tokens per second, one a round


def parse_command(text: str) -> tuple[str, list[str]]:
    name, equals, command = text.partition("=")
    if not equals or not name.strip() or not command.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME = COMMAND")
    return name.strip(), shlex.split(command)


def run_rounds(commands: Mapping[str, Sequence[str]], rounds: int, log: Path | None) -> Rates:
    rates: Rates = defaultdict(list)
    names = list(commands)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            for figure in run_once(name, commands[name]):
                rates[name, figure["what"]].append(figure["tok_s"])
                if log is not None:
                    with log.open("a", encoding="utf-8") as file:
                        print(json.dumps({"name": name, "round": number + 1, **figure}), file=file)
    return rates


def run_once(name: str, command: Sequence[str]) -> list[dict]:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{name}: {error}") from None
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(names: Sequence[str], rates: Rates) -> str:
    """Markdown: a row for each figure, medians in tokens/s, and how many times as fast the first name is."""
    base, *others = names
    heads = ["", f"{base}, tokens/s", *(f"{other}, tokens/s | ratio" for other in others)]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (2 * len(others) + 1) + "|"]
    for what in dict.fromkeys(what for _, what in rates):
        ours = median(rates[base, what]) if (base, what) in rates else None
        cells = [what, _number(ours)]
        for other in others:
            theirs = median(rates[other, what]) if (other, what) in rates else None
            cells += [_number(theirs), f"{ours / theirs:.2f}x" if ours and theirs else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", type=parse_command, metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--log", type=Path, help="append every line of JSON to this file")
    args = parser.parse_args()
    commands = dict(args.commands)
    print(table(list(commands), run_rounds(commands, args.rounds, args.log)))


if __name__ == "__main__":
    main()
