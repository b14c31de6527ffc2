"""Write a run's last checkpoint as the model file that the package ships: official names, bfloat16, safetensors.

python tools/demo_model/export.py --run build/demo
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

DEMO = Path(__file__).parents[2] / "src" / "wingbeat" / "demo"
NAME = "wingbeat-demo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder for the model and its vocabulary")
    options = parser.parse_args()
    checkpoint = torch.load(options.run / "checkpoint.pt", map_location="cpu", weights_only=True)
    # Training keeps the official names; only the type changes. The maths of the server runs in float32 all the same.
    tensors = {name: weight.to(torch.bfloat16).contiguous() for name, weight in checkpoint["model"].items()}
    options.out.mkdir(parents=True, exist_ok=True)
    metadata = {
        "name": NAME,
        "wingbeat.profile": "demo",
        "licence": "Apache-2.0",
        "steps": str(checkpoint["progress"][0]),
    }
    save_file(tensors, options.out / f"{NAME}.safetensors", metadata)
    shutil.copyfile(options.run / "vocab.txt", options.out / f"{NAME}.vocab.txt")
    size = sum(path.stat().st_size for path in options.out.glob(f"{NAME}.*"))
    print(f"{options.out}: {len(tensors)} tensors, {size / 1e6:.1f} MB in all")


if __name__ == "__main__":
    main()
