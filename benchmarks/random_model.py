"""Write a random RWKV-7 model at a published shape, for wingbeat and its peers to run alike.

python benchmarks/random_model.py 0.1B 0.1B.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wingbeat.bench.random_model import SHAPES, save_random_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path, help="a .safetensors file, 2 bytes a parameter")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    save_random_model(SHAPES[args.shape], args.out, seed=args.seed)


if __name__ == "__main__":
    main()
